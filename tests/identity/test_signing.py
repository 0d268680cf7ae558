"""The signing key is real, private, and one for all processes."""

import asyncio
import secrets
import stat
import sys
from pathlib import Path

import pytest

from hub.identity.signing import FILE, signing_key
from hub.settings import BadSettings, Settings, read_settings


def with_key(key: str | None, tmp_path: Path, algorithm: str = "HS256") -> Settings:
    return read_settings(
        HUB_DATA_DIR=str(tmp_path / "data"), JWT_SECRET_KEY=key, JWT_ALGORITHM=algorithm
    )


def test_the_operators_key_is_used(tmp_path: Path) -> None:
    key = secrets.token_urlsafe(48)
    assert signing_key(with_key(key, tmp_path)) == key.encode()
    assert not (tmp_path / "data").exists()


def test_a_key_is_made_once_and_kept_private(tmp_path: Path) -> None:
    first = signing_key(with_key(None, tmp_path))
    assert signing_key(with_key(None, tmp_path)) == first
    assert len(first) >= 64
    assert stat.S_IMODE((tmp_path / "data" / FILE).stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "data").iterdir()] == [FILE]


def test_two_installations_have_two_keys(tmp_path: Path) -> None:
    assert signing_key(with_key(None, tmp_path / "a")) != signing_key(
        with_key(None, tmp_path / "b")
    )


@pytest.mark.parametrize(
    "key",
    [
        "secret" * 6,
        "my-super-secret-key-for-production-use",
        "Change-Me-Please-This-Is-A-Placeholder",
        "changeme_changeme_changeme_changeme",
        "a" * 64,
        "0123456789abcdef" * 4,
        "01" * 32,
        "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
    ],
)
def test_a_key_that_can_be_guessed_is_refused_without_being_repeated(
    tmp_path: Path, key: str
) -> None:
    with pytest.raises(BadSettings) as caught:
        signing_key(with_key(key, tmp_path))
    assert key not in str(caught.value)
    assert "JWT_SECRET_KEY" in str(caught.value)


@pytest.mark.parametrize(("algorithm", "length"), [("HS384", 40), ("HS512", 60)])
def test_a_key_shorter_than_its_algorithm_needs_is_refused(
    tmp_path: Path, algorithm: str, length: int
) -> None:
    with pytest.raises(BadSettings, match=algorithm):
        signing_key(with_key(secrets.token_urlsafe(64)[:length], tmp_path, algorithm))


def test_random_keys_are_accepted(tmp_path: Path) -> None:
    for make in (secrets.token_hex, secrets.token_urlsafe):
        for _ in range(100):
            signing_key(with_key(make(32), tmp_path))


def test_a_kept_key_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / FILE).write_text("short")
    with pytest.raises(BadSettings, match="at least 32"):
        signing_key(with_key(None, tmp_path))


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(BadSettings, match="JWT_SECRET_KEY"):
        signing_key(with_key(None, tmp_path))


PROGRAM = """
import sys
from hub.identity.signing import signing_key
from hub.settings import read_settings

settings = read_settings(HUB_DATA_DIR=sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(signing_key(settings).decode())
"""


async def test_processes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    nodes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, str(tmp_path / "data"),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(4)
    ]  # fmt: skip
    for node in nodes:
        assert node.stdout is not None
        assert await node.stdout.readline() == b"ready\n"
    outcomes = await asyncio.gather(*(node.communicate(b"go\n") for node in nodes))
    assert len({output for output, _ in outcomes}) == 1
    assert outcomes[0][0].strip() == signing_key(with_key(None, tmp_path))
