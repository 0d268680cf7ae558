"""Permissions as they are declared, and wildcards only where a declaration says so."""

import ast
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.rbac.permissions import LONGEST, PERMISSIONS, common, declaration, holds, wildcards
from hub.rbac.roles import BUILT_IN, compile_roles
from tests.rbac.households import EVERYTHING, GIVEN, unhurried
from tests.test_layers import HUB

TOOLS = ("tool:list", "tool:call:<server>/<tool*>", "disk:read:<volume*>/<folder*>")
"""Declarations with parts."""

names = st.text("abcXYZ019._-", min_size=1, max_size=8)
few, any_name = st.sampled_from(["a", "b"]), st.just("*")
given_ones = st.one_of(
    st.just("tool:list"),
    st.builds("tool:call:{}/{}".format, few, few | any_name),
    st.builds("disk:read:{}/{}".format, few, few | any_name),
    st.just("disk:read:*/*"),
)
"""What can be given of ``TOOLS``, in a world of few names, so that one often covers another."""


def test_what_is_declared_without_parts_is_itself() -> None:
    for name in PERMISSIONS:
        if "<" not in name:
            assert declaration(name) == name
            assert wildcards(name) == ()
    assert declaration("conversation:fly") is None


@unhurried
@given(names, names)
def test_a_part_stands_for_a_name(server: str, tool: str) -> None:
    given_one = f"tool:call:{server}/{tool}"
    assert declaration(given_one, TOOLS) == TOOLS[1]
    assert holds({given_one}, given_one, TOOLS)
    assert not holds({given_one}, f"tool:call:{server}/{tool}x", TOOLS)


@unhurried
@given(names, names, names)
def test_a_wildcard_covers_every_name_where_its_part_may_have_one(
    server: str, tool: str, other: str
) -> None:
    assert declaration(f"tool:call:{server}/*", TOOLS) == TOOLS[1]
    assert holds({f"tool:call:{server}/*"}, f"tool:call:{server}/{tool}", TOOLS)
    if other != server:
        assert not holds({f"tool:call:{server}/*"}, f"tool:call:{other}/{tool}", TOOLS)
    assert holds({"disk:read:*/*"}, f"disk:read:{server}/{tool}", TOOLS)
    assert holds({"disk:read:*/*"}, f"disk:read:{server}/*", TOOLS)


@pytest.mark.parametrize(
    "given_one",
    [
        "tool:call:*/read",
        "tool:call:*/*",
        "tool:call:*",
        "tool:*",
        "*",
        "tool:list:*",
        "tool:call:fi*/read",
        "tool:call:files/re*",
        "disk:read:*",
        "disk:read:*/a",
        "conversation:*",
        "",
        "tool:call:<server>/<tool*>",
    ],
)
def test_a_wildcard_elsewhere_is_no_permission_and_gives_nothing(given_one: str) -> None:
    assert declaration(given_one, TOOLS) is None
    assert not holds({given_one}, "tool:call:files/read", TOOLS)
    assert not holds({given_one}, "disk:read:a/b", TOOLS)
    assert not holds({given_one}, "tool:list", TOOLS)


def test_who_holds_some_may_not_give_all() -> None:
    assert not holds({"tool:call:files/read"}, "tool:call:files/*", TOOLS)
    assert holds({"tool:call:files/*"}, "tool:call:files/*", TOOLS)


@unhurried
@given(st.frozensets(st.sampled_from(GIVEN)), st.sampled_from(GIVEN))
def test_without_wildcards_to_hold_is_to_have(held: frozenset[str], asked: str) -> None:
    exact = frozenset(each for each in held if "*" not in each)
    assert holds(exact, asked) == (asked in exact)


@unhurried
@given(given_ones, given_ones)
def test_of_two_one_covers_the_other_or_they_have_nothing_in_common(one: str, other: str) -> None:
    nested = holds({one}, other, TOOLS) or holds({other}, one, TOOLS)
    assert common({one}, {other}, TOOLS) <= {one, other}
    assert bool(common({one}, {other}, TOOLS)) == nested


@unhurried
@given(st.frozensets(given_ones), st.frozensets(given_ones), given_ones)
def test_what_is_common_to_two_is_held_exactly_where_both_hold_it(
    ones: frozenset[str], others: frozenset[str], asked: str
) -> None:
    both = common(ones, others, TOOLS)
    assert holds(both, asked, TOOLS) == (holds(ones, asked, TOOLS) and holds(others, asked, TOOLS))


@unhurried
@given(st.frozensets(given_ones), given_ones, given_ones)
def test_who_holds_what_covers_another_holds_that_too(
    held: frozenset[str], one: str, other: str
) -> None:
    if holds(held, one, TOOLS) and holds({one}, other, TOOLS):
        assert holds(held, other, TOOLS)


def test_nobody_asks_what_somebody_may_by_another_rule() -> None:
    """``in somebody.permissions`` knows no wildcards: ``holds`` is for that."""
    asked = []
    for module in HUB:
        if " in " not in (text := module.path.read_text("utf-8")) or ".permissions" not in text:
            continue
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
                among = node.comparators[0]
                if isinstance(among, ast.Attribute) and among.attr == "permissions":
                    asked.append(f"{module.name}:{node.lineno}")
    assert asked == []


def test_the_parts_of_a_declaration_are_told() -> None:
    assert wildcards(TOOLS[1]) == ("tool",)
    assert wildcards(TOOLS[2]) == ("volume", "folder")


def test_every_declaration_is_one_that_can_be() -> None:
    for name in PERMISSIONS:
        bare = re.sub(r"<[a-z_]+\*?>", "x", name)
        assert re.fullmatch(r"[a-z]+(:[a-z][a-z._/-]*)+", bare), name
        longest = re.sub(r"<[a-z_]+\*?>", "x" * 128, name)
        assert declaration(longest) == name
        assert len(longest) <= LONGEST
        # Parts that may have a star are the last ones: a star stands for all that comes after.
        assert not re.search(r"\*>.*<[a-z_]+>", name), name
    assert declaration(f"tool:call:{'x' * 129}/read") is None


def test_calling_tools_is_given_by_server_and_tool() -> None:
    declared = "tool:call:<server*>/<tool*>"
    assert wildcards(declared) == ("server", "tool")
    for given_one in ("tool:call:files/read", "tool:call:files/*", "tool:call:*/*"):
        assert declaration(given_one) == declared
    for refused in ("tool:call:*/read", "tool:call:*", "tool:call:files", "tool:call:a/b/c"):
        assert declaration(refused) is None
        assert not holds({refused}, "tool:call:files/read")
    assert not holds(EVERYTHING, "tool:call:*/read"), "it is none, so that nobody holds it"


def test_only_who_administers_calls_tools_until_it_is_given() -> None:
    may = {role for role in BUILT_IN if holds(compile_roles([role]), "tool:call:files/read")}
    assert may == {"admin", "owner"}
