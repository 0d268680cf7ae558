"""Starts on one directory wait for each other."""

import threading
from pathlib import Path

from deployment.lock import lock_on


def never() -> None:
    raise AssertionError("it waited")


def test_who_comes_second_waits_until_the_first_lets_go(tmp_path: Path) -> None:
    waiting, taken = threading.Event(), threading.Event()

    def second() -> None:
        with lock_on(tmp_path) as lock:
            lock.exclude(waiting.set)
            taken.set()

    with lock_on(tmp_path) as lock:
        lock.exclude(never)
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(10)
        assert not taken.is_set()
    assert taken.wait(10)
    thread.join()


def test_shared_holders_do_not_wait_for_each_other(tmp_path: Path) -> None:
    with lock_on(tmp_path) as one, lock_on(tmp_path) as other:
        one.share(never)
        other.share(never)


def test_who_wants_it_alone_waits_for_who_shares_it(tmp_path: Path) -> None:
    waiting, taken = threading.Event(), threading.Event()

    def alone() -> None:
        with lock_on(tmp_path) as lock:
            lock.share(never)
            lock.exclude(waiting.set)
            taken.set()

    with lock_on(tmp_path) as lock:
        lock.share(never)
        thread = threading.Thread(target=alone)
        thread.start()
        assert waiting.wait(10)
        assert not taken.is_set()
    assert taken.wait(10)
    thread.join()


def test_it_leaves_nothing_behind(tmp_path: Path) -> None:
    with lock_on(tmp_path) as lock:
        lock.exclude(never)
    assert list(tmp_path.iterdir()) == []
