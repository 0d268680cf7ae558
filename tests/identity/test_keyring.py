"""Keys are rotated under running nodes: none signs before it is known, or is lost too early."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest

from hub.faults import Fault
from hub.identity.tokens import keyring
from hub.identity.tokens.access_tokens import Tokens
from hub.identity.tokens.keyring import ANNOUNCED, KeyRing, make, open_ring
from hub.identity.tokens.signing import ALGORITHMS, PAIRED, generate
from hub.settings import BadSettings, Settings, read_settings
from hub.transports.well_known import CACHED_S

LIFE_S = 1800


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    folder.mkdir()
    return folder


def ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


def ring_at(folder: Path, algorithm: str = "HS256") -> KeyRing:
    return KeyRing(algorithm, directory=folder, life_s=LIFE_S)


def settings_at(folder: Path, **more: str) -> Settings:
    return read_settings(JWT_KEYS_DIR=str(folder), **more)


def states(ring: KeyRing) -> list[str]:
    return [ring.state(held) for held in ring.all()]


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rings look whenever they are asked."""
    monkeypatch.setattr(keyring, "REREAD_S", 0.0)
    monkeypatch.setattr(keyring, "UNKNOWN_S", 0.0)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_of_each_algorithm_is_signed_and_read(folder: Path, algorithm: str) -> None:
    make(folder, algorithm, ago(10))
    tokens = Tokens(ring_at(folder, algorithm), 30)
    token = tokens.issue("u_1", "t_1", "s_1")
    header = jwt.get_unverified_header(token)
    assert (header["alg"], header["kid"]) == (algorithm, tokens.keys.signing.kid)
    assert tokens.read(token).user_id == "u_1"
    published = {key["kid"] for key in tokens.keys.public()}
    assert published == ({header["kid"]} if algorithm in PAIRED else set())


def test_the_latest_key_that_has_come_signs_and_the_next_is_known_before(folder: Path) -> None:
    for since in (7_200, 60, -120):
        make(folder, "HS256", ago(since))
    assert states(ring_at(folder)) == ["verifies", "signs", "announced"]


def test_a_key_verifies_until_the_last_token_of_its_time_is_over(folder: Path) -> None:
    make(folder, "HS256", ago(10 * LIFE_S))
    make(folder, "HS256", ago(LIFE_S + keyring.LEEWAY_S - 5))
    assert states(ring_at(folder)) == ["verifies", "signs"]
    make(folder, "HS256", ago(LIFE_S + keyring.LEEWAY_S + 5))
    ring = ring_at(folder)
    assert states(ring) == ["spent", "verifies", "signs"]
    spent = ring.all()[0].key
    assert ring.find(spent.kid) is None
    assert spent not in ring.verifying()


@pytest.mark.usefixtures("eager")
def test_a_rotation_is_taken_up_by_a_ring_that_is_open_and_its_tokens_by_both(
    folder: Path,
) -> None:
    make(folder, "EdDSA", ago(100))
    here, there = (Tokens(ring_at(folder, "EdDSA"), 30) for _ in range(2))
    before = here.issue("u_1", "t_1", "s_1")
    make(folder, "EdDSA", ago(0))
    after = here.issue("u_1", "t_1", "s_1")
    assert jwt.get_unverified_header(before)["kid"] != jwt.get_unverified_header(after)["kid"]
    for tokens in (here, there):
        assert tokens.read(before).user_id == tokens.read(after).user_id == "u_1"
    assert len(there.keys.public()) == 2


def test_a_key_that_is_not_known_is_looked_for_at_once_and_once_a_second(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(folder, "HS256", ago(100))
    here, there = ring_at(folder), ring_at(folder)
    make(folder, "HS256", ago(0))
    kid = ring_at(folder).signing.kid
    looks = 0
    look = keyring._files

    def counted(directory: Path | None) -> list[tuple[Path, datetime | None]]:
        nonlocal looks
        looks += 1
        return look(directory)

    monkeypatch.setattr(keyring, "_files", counted)
    assert here.find("unknown") is None
    assert looks == 0, "it has read the directory within this second"
    here._read_at -= keyring.UNKNOWN_S
    assert here.find(kid) is not None
    for _ in range(1_000):
        here.find("unknown")
    assert looks == 1
    assert there.signing.kid != kid, "nothing unknown was asked for, and no minute has passed"
    there._read_at -= keyring.REREAD_S
    assert there.signing.kid == kid


@pytest.mark.usefixtures("eager")
def test_a_key_that_is_retired_reads_nothing_any_more(folder: Path) -> None:
    first = make(folder, "HS256", ago(100))
    tokens = Tokens(ring_at(folder), 30)
    token = tokens.issue("u_1", "t_1", "s_1")
    make(folder, "HS256", ago(0))
    assert tokens.read(token).user_id == "u_1"
    first.unlink()
    with pytest.raises(Fault, match="unauthenticated"):
        tokens.read(token)


@pytest.mark.usefixtures("eager")
def test_a_file_that_cannot_be_read_takes_nothing_from_a_ring_that_is_open(folder: Path) -> None:
    good = make(folder, "HS256", ago(100))
    ring = ring_at(folder)
    kid = ring.signing.kid
    bad = folder / "20260101T000000Z-bad.HS256.key"
    bad.write_text("short")
    assert ring.signing.kid == kid
    with pytest.raises(BadSettings, match=bad.name):
        ring_at(folder)
    bad.unlink()
    good.unlink()
    assert ring.signing.kid == kid, "without another that signs, it goes on by the one it has"


def test_a_key_without_an_instant_verifies_alone(folder: Path) -> None:
    (folder / "LAST.HS256.key").write_text(generate("HS256"))
    make(folder, "HS256", ago(10))
    ring = ring_at(folder)
    assert states(ring) == ["verifies", "signs"]
    (folder / "README").write_text("no key")
    (folder / "x.none.key").write_text("no key either")
    assert len(ring_at(folder).all()) == 2


def test_the_key_of_the_settings_signs_and_those_of_the_directory_verify(
    folder: Path, tmp_path: Path
) -> None:
    old, new = generate("HS256"), generate("HS256").strip()
    (tmp_path / "empty").mkdir()
    before = Tokens(open_ring(settings_at(tmp_path / "empty", JWT_SECRET_KEY=old.strip())), 30)
    token = before.issue("u_1", "t_1", "s_1")
    with_old = settings_at(folder, JWT_SECRET_KEY=new)
    with pytest.raises(Fault, match="unauthenticated"):
        Tokens(open_ring(with_old), 30).read(token)
    (folder / "LAST.HS256.key").write_text(old)
    after = Tokens(open_ring(with_old), 30)
    assert after.read(token).user_id == "u_1"
    assert after.keys.signing.secret == new.encode()
    (folder / "NEXT.HS256.key").write_text(new)
    assert open_ring(with_old).signing.kid == after.keys.signing.kid, "a key has one id"


def test_a_ring_of_another_algorithm_is_given_a_key_and_still_reads_the_others(
    folder: Path,
) -> None:
    before = Tokens(open_ring(settings_at(folder)), 30)
    token = before.issue("u_1", "t_1", "s_1")
    after = Tokens(open_ring(settings_at(folder, JWT_ALGORITHM="EdDSA")), 30)
    assert after.keys.signing.algorithm == "EdDSA"
    assert after.read(token).user_id == "u_1"
    assert len(after.keys.public()) == 1, "a shared secret is shown to nobody"


def test_what_was_derived_before_a_rotation_can_be_derived_after_it(folder: Path) -> None:
    make(folder, "RS256", ago(100))
    before = Tokens(ring_at(folder, "RS256"), 30).derive("a purpose", "x")
    make(folder, "RS256", ago(0))
    after = Tokens(ring_at(folder, "RS256"), 30)
    assert after.derive("a purpose", "x") != before
    assert after.derived("a purpose", "x") == [after.derive("a purpose", "x"), before]


def test_of_keys_that_are_made_in_one_second_the_last_one_signs(folder: Path) -> None:
    for number in range(5):
        last = make(folder, "HS256", ago(0))
        ring = ring_at(folder)
        assert len(ring.all()) == number + 1
        assert ring.all()[-1].file == last
        assert ring.state(ring.all()[-1]) == "signs"


@pytest.mark.parametrize("name", ["20260101T000000Z", "20260101T000000Z-x", "20260101T0000007Z-y"])
def test_an_operator_may_name_a_key_by_an_instant(folder: Path, name: str) -> None:
    (folder / f"{name}.HS256.key").write_text(generate("HS256"))
    (held,) = ring_at(folder).all()
    assert held.since is not None
    assert (held.since.year, held.since.second) == (2026, 0)


def test_every_node_and_cache_knows_a_key_before_it_signs() -> None:
    assert ANNOUNCED.total_seconds() > keyring.REREAD_S + CACHED_S + keyring.LEEWAY_S


def test_no_new_key_has_an_id_that_a_command_would_take_for_an_option(folder: Path) -> None:
    for number in range(300):
        path = make(folder, "HS256", ago(number))
        kid = path.name.removesuffix(".HS256.key").split("Z-", 1)[1]
        assert len(kid) == 8
        assert not kid.startswith("-")
