"""An API key as text: found by scanners, read by us, and nothing else is."""

import re
import zlib

from hypothesis import given
from hypothesis import strategies as st

from hub.identity.tokens.api_key_text import PREFIX, make, parse
from hub.ids import new_id

SCANNED = re.compile(r"\bahk_[0-9A-HJKMNP-TV-Z]{26}[0-9A-Za-z]{49}\b")
"""What a scanner of secrets looks for; the protocol's README says so."""


def test_what_was_made_is_read() -> None:
    key_id = new_id("ak")
    text, holder = make(key_id)
    assert parse(text) == holder
    assert holder.key_id == key_id
    assert text.startswith(PREFIX)
    assert SCANNED.fullmatch(text)
    assert text not in repr(holder)


def test_a_scanner_finds_it_in_a_text() -> None:
    text, _ = make(new_id("ak"))
    assert SCANNED.findall(f'token = "{text}"\nAuthorization: Bearer {text}') == [text, text]


def test_no_two_keys_are_alike() -> None:
    key_id = new_id("ak")
    made = {make(key_id)[0] for _ in range(1_000)}
    assert len(made) == 1_000
    secrets = [text[30:73] for text in made]
    # 256 bits: every digit of 62 is seen at every place but the first, in a thousand.
    assert all(len({secret[place] for secret in secrets}) > 50 for place in range(1, 43))


@given(st.text())
def test_no_other_text_is_a_key(text: str) -> None:
    assert parse(text) is None
    assert parse(PREFIX + text) is None


@given(st.integers(0, 78), st.characters(codec="ascii"))
def test_a_changed_character_is_noticed_without_the_database(place: int, character: str) -> None:
    text, _ = make(new_id("ak"))
    changed = text[:place] + character + text[place + 1 :]
    assert changed == text or parse(changed) is None
    assert parse(text[:place]) is None
    assert parse(text + character) is None


def test_the_checksum_is_one_that_a_scanner_can_make() -> None:
    text, _ = make(new_id("ak"))
    number = 0
    for digit in text[-6:]:
        values = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
        number = number * 62 + values.index(digit)
    assert number == zlib.crc32(text[:-6].encode())
