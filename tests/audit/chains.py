"""Chains without a database, and a verifier that knows of ``hub/audit/README.md`` only."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from hub.audit.chain import GENESIS, Fields, hash_of
from hub.audit.verifier import Known


def chain(count: int, tenant_id: str = "t_1") -> list[Fields]:
    """A chain of so many entries, as it should be."""
    made: list[Fields] = []
    for seq in range(1, count + 1):
        entry: Fields = {
            "id": f"ae_{seq:04}",
            "tenant_id": tenant_id,
            "seq": seq,
            "at": f"2026-11-26T02:00:{seq % 60:02}.000000Z",
            "action": "user.do",
            "outcome": "done",
            "transport": "rest",
            "details": {"number": seq},
            "previous_hash": made[-1]["hash"] if made else GENESIS,
        }
        entry["hash"] = hash_of(entry)
        made.append(entry)
    return made


def head_of(entries: list[Fields]) -> Known:
    return Known(entries[-1]["seq"], entries[-1]["hash"])


def verify_export(lines: Iterable[str]) -> None:
    """Raises AssertionError unless these JSON Lines are an unbroken chain from its beginning."""
    previous, number = "0" * 64, 0
    for line in lines:
        entry: dict[str, Any] = json.loads(line)
        stated = entry.pop("hash")
        text = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert hashlib.sha256(text.encode()).hexdigest() == stated, entry["seq"]
        assert (entry["seq"], entry["previous_hash"]) == (number + 1, previous), entry["seq"]
        previous, number = stated, entry["seq"]
