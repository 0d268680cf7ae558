"""The chain: made of bytes that anybody can make again."""

import json
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.audit.chain import FIELDS, canonical, fields_of, hash_of, instant
from hub.audit.export import _cell
from tests.audit.chains import chain, verify_export

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.one_of(TEXT, st.integers(-(2**53), 2**53), st.booleans(), st.lists(TEXT, max_size=3))
DETAILS = st.dictionaries(st.text("abcdefgh_", min_size=1), VALUES, max_size=5)


@given(DETAILS)
def test_the_bytes_are_those_that_others_make(details: dict[str, Any]) -> None:
    theirs = json.dumps(details, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert canonical(details) == theirs.encode()


def test_the_hash_is_the_one_of_the_readme() -> None:
    entry = {
        "id": "ae_01JD3K5XHBR3M3Q2ZK6V5C3F7N",
        "tenant_id": "t_01JD3K5XHBR3M3Q2ZK6V5C3F7P",
        "seq": 1,
        "at": "2026-11-26T02:00:00.000000Z",
        "action": "account.login",
        "outcome": "done",
        "actor_id": "u_01JD3K5XHBR3M3Q2ZK6V5C3F7Q",
        "session_id": None,
        "transport": "rest",
        "details": {},
        "previous_hash": "0" * 64,
    }
    assert hash_of(entry) == hash_of({k: v for k, v in entry.items() if v is not None})
    assert hash_of({**entry, "hash": "x"}) == hash_of(entry)
    with open("hub/audit/README.md", encoding="utf-8") as readme:
        assert hash_of(entry) in readme.read()


@pytest.mark.parametrize("field", [name for name in FIELDS if name != "hash"])
def test_every_field_is_in_the_hash(field: str) -> None:
    entry = chain(1)[0]
    assert hash_of({**entry, field: "another"}) != entry["hash"]


def test_an_instant_always_has_its_microseconds_and_is_in_utc() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))
    assert instant(at) == "2026-01-02T01:04:05.000000Z"


def test_a_row_whose_details_are_not_as_we_write_them_has_another_hash() -> None:
    row = dict.fromkeys(FIELDS) | {"at": datetime.now(UTC), "details": '{"a":1}', "seq": 1}
    sound = fields_of(SimpleNamespace(**row))
    assert sound["details"] == {"a": 1}
    assert "actor_id" not in sound
    for details in ('{"a": 1}', "[]", "{", ""):
        assert fields_of(SimpleNamespace(**row | {"details": details}))["details"] == details


def test_a_verifier_of_ten_lines_finds_what_is_wrong_with_an_export() -> None:
    lines = [canonical(entry).decode() for entry in chain(5)]
    verify_export(lines)
    for wrong in (
        lines[1:],
        [*lines[:2], *lines[3:]],
        [lines[1], lines[0], *lines[2:]],
        [lines[0].replace("user.do", "user.be"), *lines[1:]],
    ):
        with pytest.raises(AssertionError):
            verify_export(wrong)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_what_a_spreadsheet_takes_for_a_formula_is_quoted(text: str) -> None:
    assert _cell(text) == f"'{text}"
    assert _cell(f"a{text}") == f"a{text}"
    assert (_cell(None), _cell(3), _cell({"a": "=1"})) == ("", "3", '{"a":"=1"}')
