"""What a new password may be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.faults import Fault
from hub.identity.accounts.password_policy import MAX_CHARACTERS, MIN_CHARACTERS, check, forbidden

EASY = sorted(forbidden())


def refused(password: str, *own: str) -> bool:
    try:
        check(password, own)
    except Fault as fault:
        refusal = fault
    else:
        return False
    assert refusal.reason == "invalid_params"
    assert len(password) < 3 or password not in refusal.message
    return True


@pytest.mark.parametrize(
    "password",
    [
        "correct horse battery",
        "Tr0ub4dor&3 is a password of old",
        "x7Kp-q9Lm-w2Rz-v",
        "ein langer Satz, den keiner kennt",
        "密码是十五个字符以上的一个很长的句子",
        "🔑🐎🔋📎 ✂️🎈🌵🍋🧭🪁🛶🥁🎻🪐🧊",
        "%$^&*@!#)(+_ab|~",
    ],
)
def test_what_nobody_guesses_is_taken(password: str) -> None:
    assert not refused(password, "ada")


def test_there_are_some_hundreds_of_forbidden_passwords() -> None:
    assert 300 < len(EASY) < 1_000
    assert all(len(password) >= MIN_CHARACTERS for password in EASY)


def test_a_password_that_many_people_use_is_refused_however_it_is_written() -> None:
    for password in EASY:
        for written in (password, password.capitalize() + "!", " ".join(password)):
            assert refused(written), written


@pytest.mark.parametrize(
    "password",
    [
        "abcabcabcabcabcabc",
        "aaaaaaaaaaaaaaaaaaaa",
        "ababababababababab",
        "123456789012345678",
        "987654321098765",
        "qwertyuiopqwertyuiop",
        "qwertyuiop1234567890",
        "poiuytrewq0987654321",
        "abcdefghijklmnopqrst",
        "asdfghjkl-zxcvbnm-1234",
    ],
)
def test_rows_and_repetitions_are_refused(password: str) -> None:
    assert refused(password)


@pytest.mark.parametrize(
    "password",
    ["ada.lovelace-1815!", "AdaLovelaceAdaLovelace", "12adalovelace34", "I am ada.lovelace!"],
)
def test_a_password_that_is_little_more_than_ones_own_name_is_refused(password: str) -> None:
    assert not refused(password)
    assert refused(password, "ada.lovelace")


@pytest.mark.parametrize(
    "password", ["RealtimeAgentHub1", "agent-hub-agent-hub", "agenthub 2026!!!"]
)
def test_a_password_that_is_little_more_than_the_products_name_is_refused(password: str) -> None:
    assert refused(password)


def test_a_short_name_forbids_nothing() -> None:
    assert not refused("ada is a name of three", "ada")


@given(st.text(max_size=MIN_CHARACTERS - 1))
def test_what_is_too_short_is_refused(password: str) -> None:
    # NFKC makes some characters several.
    assert refused(password) or any(ord(character) > 0xA0 for character in password)


@given(st.text(st.characters(max_codepoint=0x7E, min_codepoint=0x20), min_size=1, max_size=40))
def test_nothing_fails_and_what_is_taken_has_the_length(password: str) -> None:
    if not refused(password, "somebody"):
        assert MIN_CHARACTERS <= len(password) <= MAX_CHARACTERS
