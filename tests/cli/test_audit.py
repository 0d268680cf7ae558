"""``hub audit``: what it says of a trail, and how it ends when there is something wrong with it."""

import csv
import io
import json
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
import structlog

from hub.cli import main
from tests.audit.chains import verify_export


class Ended(NamedTuple):
    """A command that has ended."""

    status: int
    out: str
    err: str


Hub = Callable[..., Ended]
EMAIL = "admin@hub.example"


@pytest.fixture
def hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Iterator[Hub]:
    """``hub("audit", "verify")``: run a command on a data directory with five entries in it."""
    mask = os.umask(0o022)
    root = logging.getLogger()
    handlers, level, config = list(root.handlers), root.level, structlog.get_config()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HUB_DATA_DIR", str(tmp_path / ".hub"))
    monkeypatch.setenv("HUB_BCRYPT_COST", "4")

    def run(*words: str) -> Ended:
        try:
            status = main(words)
        except SystemExit as wrong_usage:
            status = int(str(wrong_usage.code))
        out, err = capfdbinary.readouterr()
        return Ended(status, out.decode(), err.decode())

    run("init")
    for _ in range(2):
        run("token", "--email", EMAIL)
        run("link")
    yield run
    os.umask(mask)
    structlog.configure(**config)
    root.handlers[:] = handlers
    root.setLevel(level)


def meddle(tmp_path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(tmp_path / ".hub/hub.db")) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


def test_a_trail_that_nobody_touched_is_verified_with_status_0(hub: Hub) -> None:
    ended = hub("audit", "verify")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.startswith("ok        t_")
    assert ended.out.endswith(" (default): 5 entries, 1 to 5\n")
    assert hub("audit", "verify", "--tenant", "default").out == ended.out


def test_what_is_wrong_is_named_with_status_1(hub: Hub, tmp_path: Path) -> None:
    meddle(
        tmp_path,
        "UPDATE audit_entries SET outcome = 'denied' WHERE seq = 2",
        "DELETE FROM audit_entries WHERE seq = 4",
    )
    ended = hub("audit", "verify")
    assert ended.status == 1
    edited, removed = ended.out.splitlines()
    assert edited.startswith("TAMPERED  t_")
    assert "entry 2 (ae_" in edited
    assert edited.endswith("was edited")
    assert removed.endswith("entry 4 was removed")


def test_a_checkpoint_shows_an_end_that_was_cut_off_and_a_chain_that_was_removed(
    hub: Hub, tmp_path: Path
) -> None:
    signed = hub("audit", "checkpoint", "--output", "seen.json")
    assert (signed.status, signed.out) == (0, "")
    key = json.loads((tmp_path / "seen.json").read_text())["public_key"]
    assert signed.err == f"1 chains, signed with the key {key}\n"
    verify = ("audit", "verify", "--checkpoint", "seen.json")
    hub("link")
    assert hub(*verify).status == 0
    hash = "(SELECT hash FROM audit_entries WHERE seq = 3)"
    meddle(
        tmp_path,
        f"UPDATE audit_heads SET seq = 3, hash = {hash}",
        "DELETE FROM audit_entries WHERE seq > 3",
    )
    assert hub("audit", "verify").status == 0
    cut = hub(*verify)
    assert (cut.status, cut.out.endswith("the end was cut off: entries 4 to 5 are gone\n")) == (
        1,
        True,
    )
    meddle(tmp_path, "DELETE FROM audit_heads", "DELETE FROM audit_entries")
    gone = hub(*verify)
    assert (gone.status, gone.out.endswith("entries 1 to 5 are gone\n")) == (1, True)


def test_a_checkpoint_of_another_key_is_refused_unless_the_key_is_trusted(
    hub: Hub, tmp_path: Path
) -> None:
    hub("audit", "checkpoint", "--output", "seen.json")
    key = json.loads((tmp_path / "seen.json").read_text())["public_key"]
    (tmp_path / ".hub/audit.key").unlink()
    verify = ("audit", "verify", "--checkpoint", "seen.json")
    refused = hub(*verify)
    assert refused.status == 1
    assert f"--public-key {key}" in refused.err
    assert hub(*verify, "--public-key", key).status == 0
    (tmp_path / "seen.json").write_text((tmp_path / "seen.json").read_text().replace("5", "6", 1))
    assert hub(*verify, "--public-key", key).status == 1
    missing = hub("audit", "verify", "--checkpoint", "nowhere.json")
    assert (missing.status, missing.err) == (1, "hub: nowhere.json: No such file or directory\n")


def test_an_export_verifies_without_us_and_is_whole_or_not_there(hub: Hub, tmp_path: Path) -> None:
    printed = hub("audit", "export")
    assert printed.status == 0
    verify_export(printed.out.splitlines())
    assert hub("audit", "export", "--format", "csv", "--output", "trail.csv").out == ""
    rows = list(csv.DictReader(io.StringIO((tmp_path / "trail.csv").read_text())))
    assert [row["action"] for row in rows] == [
        "user.create", "account.token", "account.link", "account.token", "account.link",
        "audit.export", "audit.export",
    ]  # fmt: skip
    assert (tmp_path / "trail.csv").stat().st_mode & 0o777 == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {".hub", "trail.csv"}


def test_entries_are_looked_for(hub: Hub) -> None:
    def seqs(*words: str) -> list[int]:
        ended = hub("audit", "query", "--json", *words)
        assert ended.status == 0, ended.err
        return [json.loads(line)["seq"] for line in ended.out.splitlines()]

    assert seqs() == [5, 4, 3, 2, 1]
    assert seqs("--limit", "2") == [6, 5], "the one before is in it"
    assert seqs("--action", "account.link") == [5, 3]
    assert seqs("--resource", "session") == [4, 2]
    assert seqs("--outcome", "denied") == []
    assert seqs("--since", "2999-01-01") == []
    assert seqs("--until", "2999-01-01T00:00:00Z", "--action", "user.") == [1]
    line = hub("audit", "query", "--action", "user.create").out
    assert "done    user.create" in line
    assert line.rstrip().endswith('cli  {"role":"owner"}')
    since = ("--since", "2026-01-31", "--action", "audit.", "--limit", "1")
    seqs(*since)
    (told,) = hub("audit", "query", "--json", *since[2:]).out.splitlines()
    noted = json.loads(told)
    assert (noted["action"], noted["transport"]) == ("audit.query", "cli")
    assert noted["details"] == {"action": "audit.", "since": "2026-01-31T00:00:00.000000Z"}
    assert hub("audit", "verify").out.endswith(": 15 entries, 1 to 15\n")
    assert hub("audit", "verify").out.endswith(": 15 entries, 1 to 15\n"), "leaves it as it is"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("query", "--tenant", "nobody"), "There is no tenant nobody."),
        (("verify", "--tenant", "nobody"), "There is no tenant nobody."),
        (("query", "--since", "yesterday"), "no instant such as 2026-01-31"),
        (("query", "--outcome", "well"), "invalid choice"),
        (("export", "--output", "/dev/null/trail"), "/dev/null"),
        ((), "ACTION"),
    ],
    ids=str,
)
def test_what_cannot_be_is_said(hub: Hub, words: tuple[str, ...], said: str) -> None:
    ended = hub("audit", *words)
    assert ended.status != 0
    assert said in ended.err
    assert "Traceback" not in ended.err


def test_a_key_file_that_is_none_is_named(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / ".hub/audit.key").write_text("nonsense")
    ended = hub("audit", "checkpoint")
    assert (ended.status, ended.out) == (1, "")
    assert "audit.key: not an Ed25519 private key" in ended.err


def test_where_there_is_no_hub_nothing_is_made(hub: Hub, tmp_path: Path) -> None:
    ended = hub("audit", "verify", "--data-dir", str(tmp_path / "elsewhere"))
    assert ended.status == 1
    assert "there is no hub's data at" in ended.err
    assert not (tmp_path / "elsewhere").exists()
