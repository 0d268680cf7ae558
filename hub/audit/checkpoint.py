"""Checkpoints: the heads of chains, signed, to be kept where who can write the database cannot.

A chain that was cut off at the end, or made anew with all its hashes, is whole in itself. Beside a
checkpoint it is not.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from hub.audit.chain import canonical, instant
from hub.audit.seal import Seal, genuine
from hub.audit.verifier import Known
from hub.faults import Fault
from hub.storage.tables import now

FORMAT: Final = "agenthub audit checkpoint v1"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the heads of the tenants' chains were at an instant."""

    at: str
    public_key: str
    heads: Mapping[str, Known]


def written(heads: Mapping[str, Known], seal: Seal) -> bytes:
    """A checkpoint as a file has it: JSON, with its signature."""
    said: dict[str, Any] = {
        "format": FORMAT,
        "at": instant(now()),
        "public_key": seal.public,
        "heads": [
            {"tenant_id": tenant_id, "seq": head.seq, "hash": head.hash}
            for tenant_id, head in sorted(heads.items())
        ],
    }
    said["signature"] = seal.sign(_signed(said))
    return orjson.dumps(said, option=orjson.OPT_INDENT_2) + b"\n"


def read(data: bytes, trusted: Collection[str]) -> Checkpoint:
    """What a file says. Raises Fault("invalid_params") unless a trusted key has signed it."""
    try:
        said = orjson.loads(data)
        heads = {head["tenant_id"]: Known(head["seq"], head["hash"]) for head in said["heads"]}
        format, at, public = said["format"], said["at"], said["public_key"]
        signature = said.pop("signature")
    except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError):
        raise Fault("invalid_params", "This is no checkpoint.") from None
    if format != FORMAT:
        raise Fault("invalid_params", f"A checkpoint of another kind than {FORMAT!r}.")
    if public not in trusted:
        raise Fault(
            "invalid_params",
            f"The checkpoint is signed with the key {public}, which is not this hub's. If you "
            f"trust it: --public-key {public}",
        )
    if not genuine(public, _signed(said), signature):
        raise Fault("invalid_params", "The checkpoint was changed: its signature does not fit.")
    return Checkpoint(at, public, heads)


def _signed(said: Mapping[str, Any]) -> bytes:
    return FORMAT.encode() + b"\n" + canonical(said)
