"""A declaration that cannot be is refused when it is made; a page ends where it has to."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.operations.call import Call
from hub.operations.dispatcher import Dispatcher
from hub.operations.operation import PUBLIC, Done, Http, Nothing, Params, operation
from hub.operations.shapes import PAGE_BYTES, Id, fit
from hub.operations.table import OPERATIONS


class Named(Params):
    thing_id: Id


async def documented(call: Call, params: Named) -> Done:
    """Do it to a thing.

    And this is what it means.
    """
    return Done()


async def silent(call: Call, params: Named) -> Done:
    return Done()


def test_a_declaration_is_read_from_its_handler() -> None:
    declared = operation("thing.do", permission=PUBLIC, kind="read")(documented)
    assert (declared.name, declared.family) == ("thing.do", "thing")
    assert (declared.params, declared.result) == (Named, Done)
    assert declared.summary == "Do it to a thing"
    assert declared.description == "And this is what it means."


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"permission": "thing:do"}, "there is no permission"),
        ({"permission": ""}, "declares no permission"),
        ({"faults": ("no_such",)}, "no such faults"),
        ({"guards": ("thing", "other_id")}, "no such parameters"),
        ({"ordered_by": "other_id"}, "no such parameters"),
        ({"http": Http("GET", "/v1/things/{other_id}")}, "no such parameters"),
        ({"socket": False}, "no transport offers it"),
    ],
)
def test_a_declaration_that_cannot_be_is_refused(how: dict[str, Any], why: str) -> None:
    with pytest.raises(TypeError, match=why):
        operation("thing.do", **{"permission": PUBLIC, "kind": "read", **how})(documented)


def test_a_handler_without_a_docstring_is_refused() -> None:
    with pytest.raises(TypeError, match="no docstring"):
        operation("thing.do", permission=PUBLIC, kind="read")(silent)


def test_an_operation_that_declares_no_permission_does_not_start() -> None:
    with pytest.raises(TypeError, match="permission"):
        operation("thing.do", kind="read")(documented)  # type: ignore[call-arg]
    declared = operation("thing.do", permission=PUBLIC, kind="read")(documented)
    Dispatcher({declared.name: declared})
    for permission in ("", "thing:do"):
        forged = replace(declared, permission=permission)
        with pytest.raises(TypeError, match="permission"):
            Dispatcher({forged.name: forged})


def test_no_two_operations_have_one_place() -> None:
    places = [(o.http.method, o.http.path) for o in OPERATIONS.values() if o.http is not None]
    assert len(places) == len(set(places))


def test_what_reads_is_a_get_and_what_writes_is_not() -> None:
    for declared in OPERATIONS.values():
        if declared.http is not None:
            assert (declared.http.method == "GET") == (declared.kind == "read"), declared.name


def test_a_result_leaves_out_what_there_is_not() -> None:
    assert Done().encode() == b"{}"
    assert Nothing() == Nothing.model_validate({})


@given(st.lists(st.integers(0, PAGE_BYTES * 2), max_size=20))
def test_a_page_holds_as_much_as_fits_and_at_least_one(sizes: list[int]) -> None:
    count = fit(sizes, lambda size: size)
    assert count <= len(sizes)
    assert count >= min(1, len(sizes))
    assert sum(sizes[:count]) <= PAGE_BYTES or count == 1
    if count < len(sizes):
        assert sum(sizes[: count + 1]) > PAGE_BYTES
