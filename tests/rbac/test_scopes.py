"""Scopes: a key may do no more than its user, and no more than it is limited to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.rbac.permissions import holds
from hub.rbac.scopes import NOT_UNLESS_NAMED, completed, default_scopes, narrowed
from tests.rbac.households import GIVEN

some = st.frozensets(st.sampled_from(GIVEN))


@given(some, some)
def test_what_remains_is_held_and_is_in_scope(permissions: frozenset[str], scopes: frozenset[str]) -> None:  # fmt: skip # noqa: E501
    remaining = narrowed(permissions, scopes)
    for each in GIVEN:
        assert holds(remaining, each) == (holds(permissions, each) and holds(scopes, each))
    assert narrowed(permissions, permissions) == permissions
    assert narrowed(permissions, ()) == frozenset()


@given(some)
def test_a_key_makes_keys_and_calls_tools_only_if_that_is_named(
    permissions: frozenset[str],
) -> None:
    given_by_default = default_scopes(permissions)
    assert given_by_default <= permissions
    assert not [name for name in given_by_default if name.startswith(NOT_UNLESS_NAMED)]
    assert {name.partition(":")[0] for name in permissions - given_by_default} <= {
        "apikey",
        "service",
        "tool",
    }


def test_scopes_that_mean_nothing_are_told() -> None:
    assert completed(()) == frozenset()
    assert completed({"run:read"}) == {"run:read"}
    assert completed({"run:read:any"}) == {"run:read", "run:read:any"}
    assert completed({"tool:call:files/*"}) == {"tool:call:files/*"}
    unnamed = "tool:call:<server*>/<tool*>"
    for unknown in ("conversation:red", "conversation:create:any", "", ":any", unnamed):
        with pytest.raises(ValueError, match="no permission"):
            completed({unknown})
