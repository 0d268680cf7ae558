"""What users read is true and whole: everything that outsiders rely on is documented."""

import argparse
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from hub.cli import _parser
from hub.faults import CLOSES, FAULTS
from hub.identity.access.standing import WHYS
from hub.operations.table import OPERATIONS
from hub.rbac.permissions import PERMISSIONS, declaration
from hub.rbac.roles import BUILT_IN
from hub.settings import Settings
from hub.telemetry.metrics import Metrics
from hub.transports.asyncapi import NOTICES
from hub.transports.reference import page, reference

ROOT: Final = Path(__file__).resolve().parent.parent
REFERENCE: Final = (ROOT / "hub/REFERENCE.md").read_text("utf-8")
README: Final = (ROOT / "README.md").read_text("utf-8")
BACKPLANE: Final = (ROOT / "hub/backplane/README.md").read_text("utf-8")
CONTRACT: Final = (ROOT / "hub/protocol/README.md").read_text("utf-8")


def _commands() -> dict[str, str]:
    """The commands of ``hub`` with what ``hub --help`` says of them."""
    (commands,) = (
        action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)
    )
    return {action.dest: action.help or "" for action in commands._choices_actions}


def _parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """What a parser takes next, by its name."""
    found: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= action.choices
    return found


def _exposed() -> Iterator[str]:
    """The names of the metrics as Prometheus sees them, without the suffixes of histograms."""
    text, _ = Metrics().exposition("")
    return iter(set(re.findall(r"^# TYPE (\S+)", text.decode(), re.MULTILINE)))


def test_the_committed_reference_is_the_one_that_the_code_makes() -> None:
    assert reference(OPERATIONS) == REFERENCE, "run: hub reference > hub/REFERENCE.md"


@pytest.mark.parametrize(
    "name",
    [
        *OPERATIONS,
        *NOTICES,
        *FAULTS,
        *PERMISSIONS,
        *(str(code) for code in CLOSES),
        *(close.reason for close in CLOSES.values()),
        *(str(field.alias) for field in Settings.model_fields.values()),
    ],
)
def test_the_reference_has_every_name(name: str) -> None:
    assert re.search(rf"(?<![\w.:]){re.escape(name)}(?![\w:])", REFERENCE)


def test_the_reference_has_every_metric_by_the_name_that_is_exposed() -> None:
    names = set(_exposed())
    assert len(names) > 10
    # The text format has families of their own for what belongs to another.
    for name in {n for n in names if not n.endswith(("_created", "_gsum", "_gcount"))}:
        assert f"`{name}`" in REFERENCE, name


def test_every_cache_that_is_counted_is_described() -> None:
    text, _ = Metrics().exposition("")
    caches = set(
        re.findall(r'^hub_cache_lookups_total\{cache="(\w+)"', text.decode(), re.MULTILINE)
    )
    assert caches
    for name in caches:
        assert re.search(rf"^\| `{name}`: ", BACKPLANE, re.MULTILINE), name


def test_the_reference_explains_every_object_that_it_names() -> None:
    shapes = REFERENCE.partition("## Event streams")[0]
    types = re.findall(r"^\| `\w+` \| ([^|]+) \|", shapes, re.MULTILINE)
    named = {word for kind in types for word in re.findall(r"\b[A-Z]\w+", kind)}
    assert named
    for name in named:
        assert f"### {name}\n" in REFERENCE, name


def test_every_part_of_the_reference_is_on_its_web_page() -> None:
    shown = page(REFERENCE)
    for heading in re.findall(r"^#+ (.+)$", REFERENCE, re.MULTILINE):
        assert heading in shown
    assert "| ---" not in shown
    assert "`" not in shown


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=list(OPERATIONS))
def test_every_operation_says_what_it_does(operation: object) -> None:
    summary = getattr(operation, "summary", "")
    assert len(summary.split()) > 1
    assert summary[0].isupper()


def test_every_setting_says_what_it_sets() -> None:
    for name, field in Settings.model_fields.items():
        assert field.alias, f"{name} has no name in the environment"
        assert field.description, f"{name} has no description"
        assert field.description.endswith(".")


def test_every_permission_and_role_says_what_it_allows() -> None:
    assert all(meaning.endswith(".") for meaning in PERMISSIONS.values())
    for role in BUILT_IN.values():
        assert role.meaning
        assert all(declaration(each) for each in role.permissions)


def test_no_permission_of_an_operation_is_held_by_nobody() -> None:
    held = set().union(*(role.permissions for role in BUILT_IN.values()))
    for operation in OPERATIONS.values():
        assert operation.permission in held | {"public", "signed-in"}, operation.name


def test_every_command_is_in_the_help_and_in_the_readme() -> None:
    commands = _commands()
    assert {"serve", "worker", "init", "user", "chat", "doctor", "local-model"} <= set(commands)
    for name, said in commands.items():
        assert said, f"hub {name} has no help"
        assert re.search(rf"\bhub {re.escape(name)}\b", README), f"README.md: hub {name}"


def test_every_action_of_a_command_is_in_the_readme_once() -> None:
    rows = re.findall(r"^\| (`hub ([a-z-]+)\b.*?) \| ", README, re.MULTILINE)
    for name, parser in _parsers(_parser()).items():
        said = " ".join(of for of, family in rows if family == name)
        words = Counter(re.findall(r"(?<![-\w])[a-z][a-z-]*", said))
        for action in _parsers(parser):
            assert words[action] == 1, f"README.md: hub {name} {action}"


def test_the_readme_speaks_of_no_command_and_no_setting_that_is_not() -> None:
    commands = set(_commands())
    for name in re.findall(r"(?<=bin/hub )[a-z-]+|(?<=`hub )[a-z-]+", README):
        assert name in commands, f"README.md: hub {name}"
    settings = {str(field.alias) for field in Settings.model_fields.values()}
    client = {"HUB_URL", "HUB_TOKEN"}
    for name in re.findall(r"\b(?:HUB|JWT|OLLAMA)_[A-Z_]+\b", README):
        assert name in settings | client, f"README.md: {name}"


def _named_in_the_contract() -> set[str]:
    """The methods of the table of section 6."""
    table = CONTRACT.partition("| family | methods |")[2].partition("\n\n")[0]
    named = set()
    for family, verbs in re.findall(r"^\| ([a-z]+) \| (.+) \|$", table, re.MULTILINE):
        of_hub = verbs.partition("client side")[0]
        named |= {f"{family}.{verb}" for verb in re.findall(r"`([\w.]+)`", of_hub)}
    assert len(named) > 30
    return named


def test_the_contract_names_every_method_that_is_offered() -> None:
    (doors,) = re.findall(r"`POST /v1/auth/(\w+(?: \| \w+)+)`", CONTRACT)
    beside = set(OPERATIONS) - _named_in_the_contract()
    assert {name.partition(".")[0] for name in beside} == {"account"}, beside
    for name in beside:  # section 9 calls them as they are called over HTTP
        http = OPERATIONS[name].http
        assert http is not None
        door = http.path.removeprefix("/v1/auth/")
        assert door in doors.split(" | ") or http.path in CONTRACT, name


def test_the_contract_says_of_every_method_that_is_not_offered_that_it_is_not() -> None:
    """Of the families of section 6: a method is offered, or section 10 says that it is not."""
    (said,) = re.findall(r"^\| methods (.+?) \| `method_not_found` \|$", CONTRACT, re.MULTILINE)
    methods, families = said.split(", and all of the families ")
    missing = set(re.findall(r"`([\w.]+)`", methods))
    without = set(families.split(", "))
    named = _named_in_the_contract()
    in_families = {name for name in named if name.partition(".")[0] in without}
    assert named - in_families - set(OPERATIONS) == missing
    assert not without & {operation.family for operation in OPERATIONS.values()}


def test_the_contract_names_every_reason_why_a_session_is_over() -> None:
    assert [why for why in WHYS if f"| `{why}` |" not in CONTRACT] == []


def test_the_contract_names_every_path_of_authentication() -> None:
    named = {
        f"{method} {folder}/{name}"
        for method, folder, names in re.findall(r"`(POST) (/v1/auth)/([a-z/ |]+)", CONTRACT)
        for name in names.split(" | ")
    }
    offered = {
        f"{operation.http.method} {operation.http.path}"
        for operation in OPERATIONS.values()
        if operation.http is not None and operation.http.path.startswith("/v1/auth/")
    }
    assert {name.strip() for name in named} == offered != set()
