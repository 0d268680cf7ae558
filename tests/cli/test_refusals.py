"""What the ``hub`` command says when it cannot do what is asked: a line that names the cause.

The commands run in this process: what they do not catch is raised here.
"""

import json
import socket
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.conftest import Hub
from tests.parts.hub import PASSWORD
from tests.parts.ports import free_port


def test_a_user_is_created_once_with_a_role_that_there_is(hub: Hub) -> None:
    create = ("user", "create", "--password-stdin", "--email")
    made = hub(*create, "ada@hub.example", "--role", "admin", stdin=PASSWORD + "\n")
    assert made.status == 0
    assert "ada@hub.example is admin of default (t_" in made.out
    for ended, said in (
        (hub(*create, "ada@hub.example", stdin=PASSWORD), "has an account already"),
        (hub(*create, "b@hub.example", "--role", "king", stdin=PASSWORD), "no role 'king'"),
        (hub(*create, "b@hub.example", "--role", "king", stdin=PASSWORD), "member, "),
        (hub(*create, "c@hub.example", stdin="short"), "15 to 128 characters"),
        (hub(*create, "nonsense", stdin=PASSWORD), "Not an e-mail address"),
        (hub("user", "create", "--email", "d@hub.example"), "--password-stdin"),
    ):
        assert ended.status == 1
        assert said in ended.err
        assert ended.err.splitlines()[-1].startswith("hub: ")


def test_who_is_created_before_the_first_start_is_not_instead_of_the_administrator(
    hub: Hub, tmp_path: Path
) -> None:
    create = ("user", "create", "--password-stdin", "--email")
    first = hub(*create, "ada@hub.example", stdin=PASSWORD)
    kept = json.loads((tmp_path / ".hub/administrator.json").read_text())
    assert first.status == 0
    assert f"Administrator: {kept['email']}\nPassword:      {kept['password']}" in first.out
    assert "Password" not in hub(*create, "bob@hub.example", stdin=PASSWORD).out
    assert hub("link", "--email", kept["email"]).status == 0


def test_what_is_kept_is_the_operators_alone_in_a_directory_that_is_open_to_others(
    hub: Hub, tmp_path: Path
) -> None:
    (tmp_path / ".hub").mkdir(mode=0o755)
    hub("init")
    with closing(sqlite3.connect(tmp_path / ".hub/hub.db")) as reader:
        # SQLite takes the log away with its last connection.
        reader.execute("SELECT count(*) FROM users")
        hub("link")
        kept = {
            path: stat.S_IMODE(path.stat().st_mode)
            for path in (tmp_path / ".hub").rglob("*")
            if path.is_file()
        }
    assert {path.name for path in kept} >= {"hub.db", "hub.db-wal", "hub.db-shm"}
    assert [path for path in kept if path.match("keys/*.HS256.key")]
    assert set(kept.values()) == {0o600}


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"HUB_PORT": "eighty"}, "HUB_PORT"),
        ({"HUB_PORT": "70000"}, "HUB_PORT"),
        ({"HUB_LOG_LEVEL": "loud"}, "HUB_LOG_LEVEL"),
        ({"JWT_SECRET_KEY": "too-short"}, "JWT_SECRET_KEY"),
        ({"JWT_SECRET_KEY": "changeme" * 8}, "JWT_SECRET_KEY"),
        ({"JWT_ALGORITHM": "none"}, "JWT_ALGORITHM"),
        ({"HUB_DATABASE_URL": "nonsense"}, "HUB_DATABASE_URL"),
        ({"HUB_DATABASE_URL": "mysql://h/d"}, "HUB_DATABASE_URL"),
        ({"HUB_REDIS_URL": "nonsense"}, "HUB_REDIS_URL"),
        ({"HUB_REDIS_URL": "http://127.0.0.1"}, "HUB_REDIS_URL"),
        ({"HUB_REDIS_URL": "redis://127.0.0.1:9/0"}, "Redis"),
        ({"HUB_HOST": "no.such.host.invalid"}, "no.such.host.invalid"),
        ({"HUB_HOST": "0.0.0.0"}, "HUB_SMTP_URL"),
        ({"HUB_ENVIRONMENT": "production"}, "HUB_SMTP_URL"),
        ({"HUB_SMTP_URL": "mail.example"}, "HUB_SMTP_URL"),
        ({"HUB_DATA_DIR": "/dev/null/hub"}, "/dev/null/hub"),
    ],
    ids=str,
)
def test_a_bad_setting_is_named_and_nothing_is_served(
    hub: Hub, environment: dict[str, str], said: str
) -> None:
    ended = hub("serve", **{"HUB_PORT": "0", **environment})
    assert ended.status == 1
    assert said in ended.err
    assert "hub: " in ended.err
    assert environment.get("JWT_SECRET_KEY", "\0") not in ended.err, "a value that is secret"


def test_a_port_that_is_taken_is_said_with_what_to_do(hub: Hub) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        ended = hub("serve", "--port", str(port))
    assert ended.status == 1
    assert f"port {port}" in ended.err
    assert "--port" in ended.err


@pytest.mark.parametrize("address", ["999.1.1.1", "192.0.2.1"])  # no address; not one of ours
def test_an_address_that_is_not_of_this_machine_is_not_taken_for_a_port(
    hub: Hub, address: str
) -> None:
    ended = hub("serve", "--host", address, "--port", "0")
    assert ended.status == 1
    assert f"cannot listen on {address}" in ended.err
    assert "--host" in ended.err
    assert "--port" not in ended.err


@pytest.mark.parametrize(
    ("setting", "url"),
    [
        ("HUB_DATABASE_URL", "postgresql+asyncpg://hub:{password}@{place}/hub"),
        ("HUB_REDIS_URL", "redis://hub:{password}@{place}/0"),
        ("HUB_REDIS_URL", "redis+cluster://hub:{password}@{place}"),
    ],
)
def test_a_server_that_is_down_is_named_by_its_setting_and_place_without_the_password(
    hub: Hub, setting: str, url: str
) -> None:
    place = f"127.0.0.1:{free_port()}"
    given = {setting: url.format(password="open-sesame", place=place)}
    for ended in (hub("serve", "--port", "0", **given), hub("doctor", **given)):
        (line,) = [line for line in (ended.out + ended.err).splitlines() if setting in line]
        assert place in line
        assert "open-sesame" not in ended.out + ended.err


def test_without_redis_there_are_no_workers_of_their_own(hub: Hub) -> None:
    for ended in (hub("serve", "--no-worker"), hub("worker")):
        assert ended.status == 1
        assert "HUB_REDIS_URL" in ended.err


def test_a_wrong_command_line_is_answered_with_how_it_goes(hub: Hub) -> None:
    for words in ((), ("no-such",), ("serve", "--port", "eighty"), ("user",), ("token",)):
        ended = hub(*words)
        assert ended.status == 2
        assert "usage: hub" in ended.err


def test_where_there_is_no_hub_there_is_no_token_and_no_link_and_nothing_is_made(
    hub: Hub, tmp_path: Path
) -> None:
    for words in (("token", "--email", "ada@hub.example"), ("link",)):
        ended = hub(*words)
        assert (ended.status, ended.out) == (1, "")
        assert f"there is no hub's data at {tmp_path}/.hub/hub.db" in ended.err
        assert "--data-dir" in ended.err
    assert list(tmp_path.iterdir()) == []


def test_doctor_makes_nothing_and_changes_nothing(hub: Hub, tmp_path: Path) -> None:
    nothing = hub("doctor").out.splitlines()
    for part in ("data directory", "signing key", "database"):
        (line,) = [line for line in nothing if f" {part}: " in line]
        assert line.startswith("ok ")
        assert "not made yet (`hub init` or `hub serve` makes it)" in line
    assert list(tmp_path.iterdir()) == []
    kept = tmp_path / ".hub/hub.db"
    kept.parent.mkdir()
    with closing(sqlite3.connect(kept)) as empty:
        empty.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        assert "its tables are not made yet" in hub("doctor").out
        empty.execute("INSERT INTO alembic_version VALUES ('from-the-future')")
        empty.commit()
        assert "PROBLEM  database: HUB_DATABASE_URL: the database is at" in hub("doctor").out
        assert [name for (name,) in empty.execute("SELECT name FROM sqlite_schema")] == [
            "alembic_version"
        ]
    kept.unlink()
    hub("init")
    assert "its tables are of this version" in hub("doctor").out


def test_an_unknown_address_gets_no_token_and_no_link(hub: Hub) -> None:
    hub("init")
    for command in ("token", "link"):
        ended = hub(command, "--email", "nobody@hub.example")
        assert (ended.status, ended.out) == (1, "")
        assert "nobody@hub.example" in ended.err


def test_several_processes_need_redis(hub: Hub) -> None:
    ended = hub("serve", "--processes", "2")
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith("hub: Several processes need HUB_REDIS_URL")


@pytest.mark.parametrize("count", ["-1", "many", "1.5", ""])
def test_a_number_of_processes_that_is_none_is_refused(hub: Hub, count: str) -> None:
    ended = hub("serve", "--processes", count)
    assert ended.status == 2
    assert "no number of processes" in ended.err or "expected one argument" in ended.err


def test_a_port_that_is_taken_is_not_shared_with_whoever_has_it(hub: Hub) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = hub(
            *("serve", "--processes", "2", "--port", str(port)), HUB_REDIS_URL="redis://localhost/"
        )
    assert ended.status == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in ended.err
