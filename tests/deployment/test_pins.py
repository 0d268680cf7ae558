"""The pins are complete, agree with each other, and name no place that packages come from."""

import re
import tomllib
from pathlib import Path
from typing import Final

import pytest

from deployment.pins import LOCAL, foreign, name_of, wanted, without_places

ROOT: Final = Path(__file__).resolve().parents[2]
FILES: Final = list(wanted(ROOT))


def pins(file: str) -> dict[str, str]:
    """The versions of a file by name."""
    text = (ROOT / "deployment" / file).read_text()
    return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", text, re.M))


@pytest.mark.parametrize("file", FILES)
def test_every_requirement_is_pinned(file: str) -> None:
    assert {name_of(line) for line in wanted(ROOT)[file]} <= set(pins(file))


@pytest.mark.parametrize("file", FILES)
def test_every_pin_has_hashes(file: str) -> None:
    text = (ROOT / "deployment" / file).read_text()
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.M)[1:]
    assert entries
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize("file", FILES)
def test_no_pin_says_where_packages_come_from(file: str) -> None:
    text = (ROOT / "deployment" / file).read_text()
    assert not re.search(
        r"://|--index|--extra-index|--find-links|--trusted|^-[if]|/(tmp|opt)/", text
    )


@pytest.mark.parametrize("file", FILES)
def test_the_distributions_of_this_repository_are_not_pinned(file: str) -> None:
    assert not LOCAL & set(pins(file))


def test_the_files_agree_on_what_they_share() -> None:
    hub, tests = pins("requirements.txt"), pins("requirements-test.txt")
    shared = hub.keys() & tests.keys()
    assert shared
    assert {name: hub[name] for name in shared} == {name: tests[name] for name in shared}


def test_what_only_an_early_3_11_needs_is_pinned_too() -> None:
    # redis asks for it below 3.11.3, and Debian 12 has 3.11.2.
    text = (ROOT / "deployment/requirements.txt").read_text()
    assert "redis==" not in text or re.search(
        r"^async-timeout==\S+ ; python_full_version", text, re.M
    )


def test_the_hub_and_its_client_are_the_local_ones() -> None:
    names = {
        tomllib.loads((ROOT / path).read_text())["project"]["name"]
        for path in ("pyproject.toml", "clients/python/pyproject.toml")
    }
    assert names == LOCAL


def test_what_is_local_is_left_out_by_any_spelling() -> None:
    assert foreign(["Realtime_Agent.Hub-Client>=1", "redis[hiredis]>=8"]) == ["redis[hiredis]>=8"]


def test_lines_with_a_place_are_taken_out() -> None:
    places = "--index-url https://x/simple\n-f /opt/x\n--trusted-host x\n# via y\n"
    pin = "a==1 \\\n    --hash=sha256:0\n"
    assert without_places(places + pin) == pin
