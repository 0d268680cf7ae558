"""What is sealed is read by who holds the key, for its purpose, and in no other way."""

import stat
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.identity.tokens.seal import FILE, Seal, Unreadable, seal_of
from hub.settings import BadSettings, read_settings

LETTERS = string.ascii_letters + string.digits + "-_"
OLD, NEW = b"an old key of more than 32 bytes!", b"another key of more than 32 bytes"


@given(st.binary(max_size=200), st.text(max_size=20))
def test_what_is_sealed_opens_again_and_does_not_show(plain: bytes, purpose: str) -> None:
    seal = Seal(OLD)
    sealed = seal.seal(plain, purpose)
    assert seal.open(sealed, purpose) == (plain, False)
    assert seal.seal(plain, purpose) != sealed
    if len(plain) > 8:
        assert plain not in sealed.encode()


def test_it_opens_for_its_own_purpose_alone() -> None:
    seal = Seal(OLD)
    with pytest.raises(Unreadable):
        seal.open(seal.seal(b"of ada", "totp u_1"), "totp u_2")


@given(st.integers(0, 68), st.integers(1, 63))
def test_what_was_changed_does_not_open(at: int, by: int) -> None:
    seal = Seal(OLD)
    sealed = seal.seal(b"twenty bytes of text", "x")
    assert len(sealed) == 70  # of the last letter some bits say nothing
    other = LETTERS[(LETTERS.index(sealed[at]) + by) % 64]
    with pytest.raises(Unreadable):
        seal.open(sealed[:at] + other + sealed[at + 1 :], "x")


@pytest.mark.parametrize("text", ["", "a", "AAAAAAAA", "%%%%", "é" * 40, "A" * 400])
def test_what_was_never_sealed_does_not_open(text: str) -> None:
    with pytest.raises(Unreadable):
        Seal(OLD).open(text, "x")


def test_an_old_key_still_opens_what_the_new_one_would_seal_again() -> None:
    sealed = Seal(OLD).seal(b"secret", "x")
    assert Seal(NEW, OLD).open(sealed, "x") == (b"secret", True)
    with pytest.raises(Unreadable):
        Seal(NEW).open(sealed, "x")


def test_a_key_is_made_once_and_kept_for_the_operator_alone(tmp_path: Path) -> None:
    settings = read_settings(HUB_DATA_DIR=str(tmp_path / "data"))
    sealed = seal_of(settings).seal(b"secret", "x")
    assert seal_of(settings).open(sealed, "x").plain == b"secret"
    mode = stat.S_IMODE((tmp_path / "data" / FILE).stat().st_mode)
    assert mode == 0o600


def test_keys_may_be_set_the_newest_first() -> None:
    settings = read_settings(HUB_ENCRYPTION_KEY=f"{NEW.decode()}, {OLD.decode()}")
    assert seal_of(settings).open(Seal(OLD).seal(b"secret", "x"), "x").stale


@pytest.mark.parametrize("keys", ["short", f"{NEW.decode()},short", f"{NEW.decode()},"])
def test_a_short_key_is_refused_without_being_shown(keys: str) -> None:
    with pytest.raises(BadSettings, match="HUB_ENCRYPTION_KEY: shorter than 32 bytes") as caught:
        read_settings(HUB_ENCRYPTION_KEY=keys)
    assert NEW.decode() not in str(caught.value)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("short")
    with pytest.raises(BadSettings, match="shorter than 32 bytes"):
        seal_of(read_settings(HUB_DATA_DIR=str(tmp_path)))
