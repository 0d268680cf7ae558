"""Which operations are in the audit trail: it follows from their names, and exceptions say why."""

from typing import Any, Final

import pytest

from hub.operations.operation import EVERYDAY, sensitive
from hub.operations.table import OPERATIONS

NOT_AUDITED: Final[dict[str, str]] = {
    "account.refresh": "goes on with a session every half hour; a reuse of its token is recorded",
    "session.authenticate": "shows credentials that a sign-in gave",
    "session.refresh": "shows credentials that a sign-in gave",
    "session.forget": "a bot's bookkeeping of what it follows",
}
"""Writes outside of everyday's families that leave no entry, and why."""


def test_every_write_that_is_not_everyones_daily_work_is_audited_or_says_why_not() -> None:
    unsaid = {
        name
        for name, declared in OPERATIONS.items()
        if declared.kind == "write" and declared.family not in EVERYDAY and not declared.audited
    }
    assert unsaid == set(NOT_AUDITED)


def test_every_deletion_and_every_look_into_the_trail_is_audited() -> None:
    for name, declared in OPERATIONS.items():
        if name.endswith(".delete") or declared.family == "audit":
            assert declared.audited, name


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("user.disable", "write", True),
        ("apikey.create", "write", True),
        ("conversation.delete", "write", True),
        ("conversation.share", "write", True),
        ("conversation.create", "write", False),
        ("message.send", "write", False),
        ("user.list", "read", False),
    ],
)
def test_what_is_sensitive_is_told_by_the_name(name: str, kind: Any, expected: bool) -> None:
    assert sensitive(name, kind) is expected
