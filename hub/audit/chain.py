"""The hash chain over the entries of one tenant. Pure."""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import orjson

GENESIS: Final = "0" * 64
"""What the first entry of a chain has for the hash of the one before."""


def hash_of(fields: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of an entry's fields but ``hash``, as JSON with sorted keys."""
    return hashlib.sha256(orjson.dumps(dict(fields), option=orjson.OPT_SORT_KEYS)).hexdigest()
