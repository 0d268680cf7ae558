"""What ``hub serve --greet`` and ``hub doctor`` say to who lets others reach the hub."""

import asyncio

import pytest

from hub.cli.doctor import _address
from hub.cli.greeting import Welcome, greeting
from hub.settings import Settings, read_settings
from tests.parts.hub import HubProcess

URL = "http://127.0.0.1:8000"


def settings(**given: str) -> Settings:
    return read_settings(HUB_DATA_DIR=".hub", **given)


def test_a_hub_for_this_machine_needs_nothing_to_be_set() -> None:
    said = greeting(settings(), URL, Welcome("abc", ("ada@hub.example", "secret"), "stand-in"))
    assert f"{URL}/#code=abc" in said
    assert "ada@hub.example" in said
    assert "secret" in said
    assert "stand-in" in said
    assert "HUB_ALLOWED" not in said


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.5"])
async def test_a_hub_for_others_says_what_to_set_until_it_is(host: str) -> None:
    nothing = Welcome(None, None)
    said = greeting(settings(HUB_HOST=host), URL, nothing)
    assert "HUB_ALLOWED_ORIGINS" in said
    assert "HUB_ALLOWED_HOSTS" in said
    assert "any name" in said
    assert "any name" in await _address(settings(HUB_HOST=host))
    told = settings(
        HUB_HOST=host,
        HUB_ALLOWED_ORIGINS="https://hub.example",
        HUB_ALLOWED_HOSTS="hub.example",
    )
    assert "HUB_ALLOWED" not in greeting(told, URL, nothing) + await _address(told)
    assert "for this machine alone" in await _address(settings())


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
async def test_a_hub_on_loopback_has_names_of_its_own(host: str) -> None:
    given = settings(HUB_HOST=host)
    assert not given.any_name
    assert "any name" not in greeting(given, URL, Welcome(None, None)) + await _address(given)


async def test_a_hub_that_answers_to_any_name_says_so_in_the_log_of_who_is_not_greeted(
    hub_process: HubProcess,
) -> None:
    hub_process.host = "0.0.0.0"
    await asyncio.to_thread(hub_process.start)
    assert "any name" in hub_process.log
    assert "HUB_ALLOWED_HOSTS" in hub_process.log
