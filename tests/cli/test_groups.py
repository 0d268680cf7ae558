"""``hub group``: groups and who is in them, at the machine."""

import re
from pathlib import Path

import pytest

from hub.cli.changes import FILE, Changes
from tests.cli.conftest import Hub
from tests.parts.hub import PASSWORD

BOB = "bob@hub.example"
OF_BOB = ("--user", BOB)


@pytest.fixture
def peopled(hub: Hub) -> Hub:
    """A hub's data with the administrator and Bob, a viewer."""
    create = ("user", "create", "--password-stdin", "--role", "viewer", "--email", BOB)
    made = hub(*create, stdin=PASSWORD)
    assert made.status == 0, made.err
    return hub


def lines(hub: Hub, *words: str) -> list[str]:
    """What a command prints that does what it is asked."""
    ended = hub(*words)
    assert ended.status == 0, ended.err
    return ended.out.splitlines()


def test_a_group_is_made_given_a_role_filled_emptied_and_deleted(
    peopled: Hub, tmp_path: Path
) -> None:
    changes = Changes(tmp_path / ".hub" / FILE)
    (made,) = lines(peopled, "group", "create", "Team", "--description", "All of us")
    found = re.fullmatch(r"Team \((g_\w+)\): All of us", made)
    assert found is not None
    assert lines(peopled, "group", "list") == [made]
    (said,) = lines(peopled, "group", "add", "Team", *OF_BOB)
    user_id = said.split("(")[1].partition(")")[0]
    assert said == f"{BOB} ({user_id}) is in Team"
    lines(peopled, "role", "assign", "operator", "--group", "Team")
    assert lines(peopled, "group", "show", found[1]) == [
        made, "  has operator", f"  {user_id} {BOB}",
    ]  # fmt: skip
    assert lines(peopled, "role", "assignments", "--group", "Team") == [f"{found[1]} has operator"]
    assert lines(peopled, "role", "assignments", *OF_BOB) == [f"{user_id} has viewer"]
    assert lines(peopled, "role", "explain", "metrics:read", *OF_BOB) == [
        f"{BOB} may metrics:read", "  as operator: metrics:read, by the group Team",
    ]  # fmt: skip
    assert lines(peopled, "group", "update", "Team", "--name", "Crew", "--description", "") == [
        f"Crew ({found[1]})"
    ]
    lines(peopled, "group", "remove", "Crew", *OF_BOB)
    assert lines(peopled, "group", "delete", "Crew") == [f"Crew ({found[1]}) is deleted"]
    assert lines(peopled, "group", "list") == []
    # What a hub reads that runs on this data directory, and acts on within a second.
    of_bob, of_group = ("user", user_id), ("group", found[1])
    assert changes.news() == [of_bob, of_group, of_bob, of_group]


def test_what_cannot_be_is_said_in_a_line(peopled: Hub) -> None:
    lines(peopled, "group", "create", "Team")
    for words, says in (
        (("show", "Crew"), "no group Crew"),
        (("add", "Team", "--user", "eve@hub.example"), "no user eve@hub.example"),
        (("remove", "Team", *OF_BOB), "no such user in this group"),
        (("create", "Team"), "a group 'Team' here already"),
        (("create", ""), "name: 64 characters"),
        (("update", "Team", "--name", ""), "name: 64 characters"),
        (("create", "Crew", "--description", "x" * 401), "description: 400 characters"),
        (("list", "--tenant", "nowhere"), "no tenant nowhere"),
    ):
        ended = peopled("group", *words)
        assert (ended.status, ended.out) == (1, ""), words
        assert says in ended.err.splitlines()[-1], ended.err
    assert peopled("group", "add", "Team").status == 2, "whom is not said"


def test_where_there_is_no_hub_nothing_is_made(hub: Hub, tmp_path: Path) -> None:
    ended = hub("group", "create", "Team")
    assert ended.status == 1
    assert "--data-dir" in ended.err
    assert not (tmp_path / ".hub").exists()


def test_the_help_tells_every_action_and_when_it_acts(hub: Hub) -> None:
    told = hub("group", "--help")
    assert told.status == 0
    for action in ("list", "show", "create", "update", "add", "remove", "delete"):
        assert f"    {action} " in told.out
    assert "within a second" in " ".join(hub("group", "add", "--help").out.split())
