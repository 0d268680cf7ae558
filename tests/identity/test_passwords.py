"""Passwords of any accepted length count to their last character, and cost the loop nothing."""

import asyncio
import os
import threading
import time
import unicodedata
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hub.faults import Fault
from hub.identity.accounts.password_policy import check
from hub.identity.accounts.passwords import Passwords

characters = st.characters(exclude_categories=["Cs"])


def acceptable(password: str) -> bool:
    try:
        check(password)
    except Fault:
        return False
    return True


@given(st.text(characters, min_size=15, max_size=128).filter(acceptable), st.data())
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)
def test_every_character_counts(password: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(password) - 1))
    other = password[:place] + ("A" if password[place] != "A" else "B") + password[place + 1 :]
    same = unicodedata.normalize("NFKC", password) == unicodedata.normalize("NFKC", other)

    async def check() -> None:
        passwords = Passwords(cost=4)
        stored = await passwords.hash(password)
        assert await passwords.verify(password, stored) == (True, False)
        assert (await passwords.verify(other, stored)).right == same
        assert not (await passwords.verify(password + "x", stored)).right
        assert not (await passwords.verify(password[:-1], stored)).right
        passwords.close()

    asyncio.run(check())


async def test_a_difference_after_72_bytes_counts(passwords: Passwords) -> None:
    long = "correct horse " * 9
    stored = await passwords.hash(long + "a")
    assert (await passwords.verify(long + "a", stored)).right
    assert not (await passwords.verify(long + "b", stored)).right


async def test_a_zero_byte_ends_nothing(passwords: Passwords) -> None:
    stored = await passwords.hash("correct\0horse battery")
    assert not (await passwords.verify("correct\0donkey battery", stored)).right


async def test_another_keyboard_types_the_same_password(passwords: Passwords) -> None:
    stored = await passwords.hash("cafe\u0301 au lait, s'il vous plait")
    assert (await passwords.verify("caf\u00e9 au lait, s'il vous plait", stored)).right


@pytest.mark.parametrize(
    "password", ["", "short", "correct horse!", "abc" * 43, "a" * 40, "é" * 129]
)
async def test_passwords_out_of_policy_are_refused(passwords: Passwords, password: str) -> None:
    with pytest.raises(Fault) as caught:
        await passwords.hash(password)
    assert caught.value.reason == "invalid_params"
    assert password not in caught.value.message or not password


@pytest.mark.parametrize("password", ["", "\ud800" * 12, "x" * 70_000])
async def test_any_text_can_be_checked(passwords: Passwords, password: str) -> None:
    stored = await passwords.hash("correct horse battery")
    assert not (await passwords.verify(password, stored)).right


async def test_nobodys_password_is_never_right(passwords: Passwords) -> None:
    assert await passwords.verify("correct horse battery", None) == (False, False)


async def test_a_hash_of_another_cost_is_right_but_stale(passwords: Passwords) -> None:
    old = Passwords(cost=5)
    stored = await old.hash("correct horse battery")
    assert await passwords.verify("correct horse battery", stored) == (True, True)
    assert await passwords.verify("wrong horse battery", stored) == (False, False)
    old.close()


@pytest.mark.parametrize("stored", ["", "plain", "sha384-bcrypt:", "$2b$04$" + "x" * 53])
async def test_what_is_no_hash_of_ours_is_never_right(passwords: Passwords, stored: str) -> None:
    assert not (await passwords.verify("plain", stored)).right


async def test_a_hash_of_a_lower_cost_takes_as_long_to_refuse_as_one_of_todays() -> None:
    """Else the time would tell whose hash was not renewed yet: that they have an account."""
    old, new = Passwords(cost=6, concurrency=1), Passwords(cost=9, concurrency=1)
    stored = {"old": await old.hash("correct horse battery"), "none": None}
    await new.verify("wrong", None)  # the stand-in for nobody's hash is made
    took: dict[str, list[float]] = {"old": [], "none": []}
    for _ in range(15):
        for name, kept in stored.items():
            began = time.perf_counter()
            await new.verify("wrong horse battery", kept)
            took[name].append(time.perf_counter() - began)
    old.close()
    new.close()
    assert 0.6 < min(took["old"]) / min(took["none"]) < 1.6


async def test_what_hashes_is_less_urgent_than_the_loop() -> None:
    passwords = Passwords(cost=4)
    here = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    there = await passwords._elsewhere(
        partial(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
    )
    passwords.close()
    assert there == min(19, here + 10)
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == here


async def test_the_loop_goes_on_while_a_password_is_hashed() -> None:
    passwords = Passwords(cost=10)
    hashing = asyncio.create_task(passwords.hash("correct horse battery"))
    longest, last = 0.0, time.perf_counter()
    turns = 0
    while not hashing.done():
        await asyncio.sleep(0.001)
        longest, last = max(longest, time.perf_counter() - last), time.perf_counter()
        turns += 1
    passwords.close()
    assert turns > 5


async def test_a_crowd_is_told_to_come_back() -> None:
    passwords = Passwords(cost=4, concurrency=1)
    stored = await passwords.hash("correct horse battery")
    outcomes = await asyncio.gather(
        *(passwords.verify("wrong", stored) for _ in range(200)), return_exceptions=True
    )
    passwords.close()
    refused = [outcome for outcome in outcomes if isinstance(outcome, Fault)]
    assert 0 < len(refused) < 200
    assert {fault.reason for fault in refused} == {"rate_limited"}
    assert all(fault.details["retry_after_ms"] > 0 for fault in refused)
