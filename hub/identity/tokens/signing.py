"""One key of access tokens: what it signs and verifies with, and whether it is good enough.

A key has one algorithm, and its id (``kid``) is made of what it is: the same key has the same id in
a setting, in a file, and on every node.
"""

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import (
    RSAPrivateKey,
    RSAPublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from jwt.algorithms import OKPAlgorithm, RSAAlgorithm

from hub.settings import BadSettings

SHARED: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
"""Algorithms of a shared secret, and its least length in bytes (RFC 7518 section 3.2)."""
PAIRED: Final = ("EdDSA", "RS256")
"""Algorithms of a private key, whose public key anybody may have."""
ALGORITHMS: Final = (*SHARED, *PAIRED)
LEAST_RSA_BITS: Final = 2048
"""RFC 7518 section 3.3."""

_RSA_BITS: Final = 3072
_HOW: Final = "make one with `python -c 'import secrets; print(secrets.token_urlsafe(64))'`"
_MAKE_PAIR: Final = "make one with `openssl genpkey -algorithm ed25519`"
# Words of the placeholders that tutorials and templates carry. A random key holds one of them with
# a probability that can be forgotten.
_PLACEHOLDERS: Final = (
    "secret", "changeme", "changethis", "replaceme", "placeholder", "password", "yourkey",
    "example", "default", "insecure",
)  # fmt: skip
# Printed in the documentation of FastAPI and of jwt.io, and signed with by many who copied them.
_PUBLISHED: Final = (
    "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
    "a-string-secret-at-least-256-bits-long",
    "a-valid-string-secret-that-is-at-least-512-bits-long-which-is-very-long",
)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that verifies, and signs unless ``signs_with`` is None (a public key alone).

    ``public`` is its JWK (RFC 7517), None for a shared secret. ``secret`` is what other secrets may
    be derived from, empty for a public key.
    """

    kid: str
    algorithm: str
    signs_with: Any = field(repr=False)
    verifies_with: Any = field(repr=False)
    public: Mapping[str, str] | None
    secret: bytes = field(repr=False)


def load(name: str, text: str, algorithm: str) -> SigningKey:
    """The key in ``text``: a secret, or PEM (PKCS 8, or a public key that verifies alone).

    ``name`` is the setting or file, for the error. Raises BadSettings for a key that can be guessed
    or is of another algorithm; its text is not repeated.
    """
    if algorithm in SHARED:
        secret = text.strip()
        _refuse_weak(name, secret, algorithm)
        return _shared(secret.encode(), algorithm)
    if algorithm == "EdDSA":
        return _ed25519(name, _pem(name, text))
    if algorithm == "RS256":
        return _rsa(name, _pem(name, text))
    raise BadSettings(f"{name}: no such algorithm: {algorithm}")


def generate(algorithm: str) -> str:
    """The text of a new key."""
    if algorithm in SHARED:
        return secrets.token_urlsafe(64) + "\n"
    private: Ed25519PrivateKey | RSAPrivateKey
    if algorithm == "EdDSA":
        private = Ed25519PrivateKey.generate()
    else:
        private = generate_private_key(public_exponent=65537, key_size=_RSA_BITS)
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _shared(secret: bytes, algorithm: str) -> SigningKey:
    # Not a plain hash of the secret: one that nobody can look up.
    kid = _text(hmac.digest(secret, f"key id\0{algorithm}".encode(), hashlib.sha256)[:16])
    return SigningKey(kid, algorithm, secret, secret, None, secret)


def _ed25519(name: str, key: Any) -> SigningKey:
    if not isinstance(key, Ed25519PrivateKey | Ed25519PublicKey):
        raise BadSettings(f"{name}: EdDSA needs an Ed25519 key; {_MAKE_PAIR}")
    private = key if isinstance(key, Ed25519PrivateKey) else None
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return _paired("EdDSA", private, public, OKPAlgorithm.to_jwk(public, as_dict=True))


def _rsa(name: str, key: Any) -> SigningKey:
    if not isinstance(key, RSAPrivateKey | RSAPublicKey):
        raise BadSettings(f"{name}: RS256 needs an RSA key; for an Ed25519 key set EdDSA")
    if key.key_size < LEAST_RSA_BITS:
        raise BadSettings(
            f"{name}: an RSA key of {key.key_size} bits; {LEAST_RSA_BITS} at least, "
            "`openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072` makes one"
        )
    private = key if isinstance(key, RSAPrivateKey) else None
    public = key.public_key() if isinstance(key, RSAPrivateKey) else key
    return _paired("RS256", private, public, RSAAlgorithm.to_jwk(public, as_dict=True))


def _paired(algorithm: str, private: Any, public: Any, jwk: Mapping[str, Any]) -> SigningKey:
    members = {name: str(jwk[name]) for name in ("crv", "e", "kty", "n", "x") if name in jwk}
    canonical = json.dumps(members, separators=(",", ":"), sort_keys=True)
    kid = _text(hashlib.sha256(canonical.encode()).digest())  # RFC 7638
    secret = b""
    if private is not None:
        der = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        secret = hashlib.sha256(der).digest()
    published = {**members, "kid": kid, "alg": algorithm, "use": "sig"}
    return SigningKey(kid, algorithm, private, public, published, secret)


def _pem(name: str, text: str) -> Any:
    data = text.encode()
    try:
        if "PRIVATE KEY-----" in text:
            return load_pem_private_key(data, password=None)
        return load_pem_public_key(data)
    except TypeError:
        raise BadSettings(f"{name}: the key is encrypted; give it without a password") from None
    except (ValueError, UnsupportedAlgorithm):
        raise BadSettings(f"{name}: not a key in PEM; {_MAKE_PAIR}") from None


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _refuse_weak(name: str, key: str, algorithm: str) -> None:
    least = SHARED[algorithm]
    if len(key.encode()) < least:
        raise BadSettings(f"{name}: {algorithm} needs at least {least} bytes; {_HOW}")
    plain = "".join(character for character in key.lower() if character.isalnum())
    if key in _PUBLISHED or any(word in plain for word in _PLACEHOLDERS):
        raise BadSettings(f"{name}: a placeholder is not a secret; {_HOW}")
    if len(set(key)) < 8 or key in (key + key)[1:-1]:
        raise BadSettings(f"{name}: a repetition is not a secret; {_HOW}")
    if "-----BEGIN" in key:
        raise BadSettings(f"{name}: a key in PEM is no shared secret; see JWT_PRIVATE_KEY_FILE")
