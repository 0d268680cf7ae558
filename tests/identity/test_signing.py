"""The signing key is real, private, and one for all processes."""

import asyncio
import secrets
import stat
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from hub.identity.tokens.keyring import FOLDER, open_ring
from hub.identity.tokens.signing import load
from hub.settings import BadSettings, Settings, read_settings


def with_key(key: str | None, tmp_path: Path, algorithm: str = "HS256") -> Settings:
    return read_settings(
        HUB_DATA_DIR=str(tmp_path / "data"), JWT_SECRET_KEY=key, JWT_ALGORITHM=algorithm
    )


def secret_of(settings: Settings) -> bytes:
    return open_ring(settings).signing.secret


def test_the_operators_key_is_used(tmp_path: Path) -> None:
    key = secrets.token_urlsafe(48)
    assert secret_of(with_key(key, tmp_path)) == key.encode()
    assert not (tmp_path / "data").exists()


def test_a_key_is_made_once_and_kept_private(tmp_path: Path) -> None:
    first = secret_of(with_key(None, tmp_path))
    assert secret_of(with_key(None, tmp_path)) == first
    assert len(first) >= 64
    folder = tmp_path / "data" / FOLDER
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (file,) = folder.glob("*.key")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.name.endswith(".HS256.key")


def test_two_installations_have_two_keys(tmp_path: Path) -> None:
    assert secret_of(with_key(None, tmp_path / "a")) != secret_of(with_key(None, tmp_path / "b"))


@pytest.mark.parametrize(
    "key",
    [
        "secret" * 6,
        "my-super-secret-key-for-production-use",
        "Change-Me-Please-This-Is-A-Placeholder",
        "changeme_changeme_changeme_changeme",
        "replace-me-with-a-key-of-more-than-32-bytes",
        "your-key-goes-here-0123456789-abcdefghij",
        "a-string-secret-at-least-256-bits-long",
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
        open_ring(with_key(key, tmp_path))
    assert key not in str(caught.value)
    assert "JWT_SECRET_KEY" in str(caught.value)


@pytest.mark.parametrize(("algorithm", "length"), [("HS384", 40), ("HS512", 60)])
def test_a_key_shorter_than_its_algorithm_needs_is_refused(
    tmp_path: Path, algorithm: str, length: int
) -> None:
    with pytest.raises(BadSettings, match=algorithm):
        open_ring(with_key(secrets.token_urlsafe(64)[:length], tmp_path, algorithm))


def test_random_keys_are_accepted() -> None:
    for make in (secrets.token_hex, secrets.token_urlsafe):
        for _ in range(100):
            load("a test", make(32), "HS256")


def test_a_kept_key_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    open_ring(with_key(None, tmp_path))
    (file,) = (tmp_path / "data" / FOLDER).glob("*.key")
    file.write_text("short")
    with pytest.raises(BadSettings, match="at least 32") as caught:
        open_ring(with_key(None, tmp_path))
    assert file.name in str(caught.value)


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(BadSettings, match="JWT_SECRET_KEY"):
        open_ring(with_key(None, tmp_path))


# --- keys by file ---------------------------------------------------------------------------------


def pem(private: "rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | ed448.Ed448PrivateKey", password: bytes | None = None) -> str:  # fmt: skip # noqa: E501
    locked = BestAvailableEncryption(password) if password else NoEncryption()
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked).decode()


def by_file(tmp_path: Path, text: str, algorithm: str, **more: str) -> Settings:
    file = tmp_path / "private.pem"
    file.write_text(text)
    return read_settings(
        HUB_DATA_DIR=str(tmp_path / "data"),
        JWT_PRIVATE_KEY_FILE=str(file),
        JWT_ALGORITHM=algorithm,
        **more,
    )


ED25519 = ed25519.Ed25519PrivateKey.generate()
RSA = rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize(("private", "algorithm"), [(ED25519, "EdDSA"), (RSA, "RS256")])
def test_a_private_key_by_file_signs(
    tmp_path: Path,
    private: "ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey",
    algorithm: str,
) -> None:
    ring = open_ring(by_file(tmp_path, pem(private), algorithm))
    assert ring.signing.algorithm == algorithm
    (public,) = ring.public()
    assert public["kid"] == ring.signing.kid
    assert (public["alg"], public["use"]) == (algorithm, "sig")
    assert "d" not in public
    assert not (tmp_path / "data").exists()


def test_the_key_id_is_the_thumbprint_of_rfc_7638() -> None:
    jwk = {  # the example of RFC 8037, appendix A
        "pem": "-----BEGIN PUBLIC KEY-----\n"
        "MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n"
        "-----END PUBLIC KEY-----\n",
        "kid": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
    }
    key = load("a test", jwk["pem"], "EdDSA")
    assert key.kid == jwk["kid"]
    assert key.signs_with is None


@pytest.mark.parametrize(
    ("text", "algorithm", "said"),
    [
        (pem(rsa.generate_private_key(65537, 1024)), "RS256", "1024 bits"),
        (pem(RSA), "EdDSA", "Ed25519"),
        (pem(ED25519), "RS256", "RSA"),
        (pem(ED25519), "HS256", "JWT_ALGORITHM"),
        (pem(ed448.Ed448PrivateKey.generate()), "EdDSA", "Ed25519"),
        (pem(ec.generate_private_key(ec.SECP256R1())), "RS256", "RSA"),
        (pem(ED25519, b"a password"), "EdDSA", "encrypted"),
        ("nonsense", "EdDSA", "PEM"),
        ("-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----", "EdDSA", "PEM"),
        (
            ED25519.public_key()
            .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            .decode(),
            "EdDSA",
            "signs nothing",
        ),
    ],
)
def test_a_key_file_that_cannot_sign_is_refused_in_words(
    tmp_path: Path, text: str, algorithm: str, said: str
) -> None:
    with pytest.raises(BadSettings, match=said) as caught:
        open_ring(by_file(tmp_path, text, algorithm))
    assert "JWT_PRIVATE_KEY_FILE" in str(caught.value)


def test_settings_that_name_two_keys_or_one_of_another_kind_are_refused(tmp_path: Path) -> None:
    both = by_file(tmp_path, pem(ED25519), "EdDSA", JWT_SECRET_KEY=secrets.token_urlsafe(48))
    with pytest.raises(BadSettings, match="one key signs"):
        open_ring(both)
    with pytest.raises(BadSettings, match="private key"):
        open_ring(with_key(secrets.token_urlsafe(48), tmp_path, "EdDSA"))
    with pytest.raises(BadSettings, match="No such file"):
        open_ring(read_settings(JWT_PRIVATE_KEY_FILE="/nowhere", JWT_ALGORITHM="EdDSA"))


def test_a_key_in_pem_is_no_shared_secret(tmp_path: Path) -> None:
    public = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(BadSettings, match="PEM"):
        open_ring(with_key(public.decode(), tmp_path))


PROGRAM = """
import sys
from hub.identity.tokens.keyring import open_ring
from hub.settings import read_settings

settings = read_settings(HUB_DATA_DIR=sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(open_ring(settings).signing.secret.decode())
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
    assert outcomes[0][0].strip() == secret_of(with_key(None, tmp_path))
