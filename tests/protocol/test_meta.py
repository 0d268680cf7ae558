"""A trace context is taken from a request, and ignored where it is not one."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.protocol.meta import pop_meta

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    "traceparent",
    [VALID, f"00-{TRACE}-{SPAN}-00", f"cc-{TRACE}-{SPAN}-01", f"01-{TRACE}-{SPAN}-01-later"],
)
def test_a_valid_traceparent_is_given(traceparent: str) -> None:
    params = {"a": 1, "_meta": {"traceparent": traceparent, "other": 1}}
    assert pop_meta(params) == traceparent
    assert params == {"a": 1}


@pytest.mark.parametrize(
    "meta",
    [
        None,
        7,
        VALID,
        [],
        {},
        {"traceparent": None},
        {"traceparent": 7},
        {"traceparent": ""},
        {"traceparent": VALID.upper()},
        {"traceparent": VALID + "-more"},  # version 00 has no more
        {"traceparent": VALID + "\n"},
        {"traceparent": VALID[:-1]},
        {"traceparent": f"cc-{TRACE}-{SPAN}-01later"},
        {"traceparent": f"ff-{TRACE}-{SPAN}-01"},
        {"traceparent": f"00-{'0' * 32}-{SPAN}-01"},
        {"traceparent": f"00-{TRACE}-{'0' * 16}-01"},
        {"traceparent": f"00-{TRACE}-{SPAN}-0１"},
    ],
    ids=repr,
)
def test_what_is_no_traceparent_is_ignored_and_taken_out(meta: Any) -> None:
    params = {"a": 1, "_meta": meta}
    assert pop_meta(params) is None
    assert params == {"a": 1}


def test_a_request_without_meta_stays_as_it_is() -> None:
    params = {"a": 1}
    assert pop_meta(params) is None
    assert params == {"a": 1}


@given(st.recursive(st.none() | st.text(), lambda v: st.dictionaries(st.text(), v)))
def test_no_meta_makes_it_fail(meta: Any) -> None:
    pop_meta({"_meta": meta})
