"""What ``hub serve --greet`` and ``hub doctor`` say to who lets others reach the hub."""

import pytest

from hub.cli.doctor import _address
from hub.cli.greeting import Welcome, greeting
from hub.settings import Settings, read_settings

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
    assert "HUB_ALLOWED_HOSTS" in await _address(settings(HUB_HOST=host))
    told = settings(
        HUB_HOST=host,
        HUB_ALLOWED_ORIGINS="https://hub.example",
        HUB_ALLOWED_HOSTS="hub.example",
    )
    assert "HUB_ALLOWED" not in greeting(told, URL, nothing) + await _address(told)
    assert "for this machine alone" in await _address(settings())
