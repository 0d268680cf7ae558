"""Tokens that are not valid, each as one who attacks would make it of a token that is."""

import base64
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import HMACAlgorithm, RSAAlgorithm

from hub.identity.tokens.api_key_text import make
from hub.identity.tokens.signing import SigningKey
from hub.ids import new_id

MINE: Final = generate_private_key(65537, 2048)
"""The attacker's own key."""


@dataclass(frozen=True)
class Target:
    """What there is to attack with: a valid session and its token, the key that signs, and what
    belongs to others.
    """

    session: Mapping[str, Any]
    key: SigningKey
    ended: str
    foreign_tenant: str
    foreign_session: str
    api_key: str

    @property
    def token(self) -> str:
        return str(self.session["access_token"])

    @property
    def claims(self) -> dict[str, Any]:
        claims: dict[str, Any] = jwt.decode(self.token, options={"verify_signature": False})
        return claims


def part(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(target: Target, header: Mapping[str, Any], claims: Any, **changes: Any) -> str:
    """By the hub's own key, whatever it is that is signed: more than any attacker can do."""
    head = {"alg": target.key.algorithm, "typ": "JWT", "kid": target.key.kid, **header}
    head = {name: value for name, value in head.items() if value is not ...}
    body = claims if isinstance(claims, bytes) else {**claims, **changes}
    if isinstance(body, dict):
        body = {name: value for name, value in body.items() if value is not ...}
    text = f"{part(head)}.{part(body)}"
    algorithm = jwt.get_algorithm_by_name(target.key.algorithm)
    return f"{text}.{part(algorithm.sign(text.encode(), target.key.signs_with))}"


def with_claims(**changes: Any) -> Callable[[Target], str]:
    return lambda target: signed(target, {}, target.claims, **changes)


def with_header(**header: Any) -> Callable[[Target], str]:
    return lambda target: signed(target, header, target.claims)


def unsigned(name: str, signature: str = "") -> Callable[[Target], str]:
    def attack(target: Target) -> str:
        head = part({"alg": name, "typ": "JWT", "kid": target.key.kid})
        kept = target.token.rpartition(".")[2] if signature == "kept" else ""
        return f"{head}.{target.token.split('.')[1]}.{kept}"

    return attack


def by_the_public_key(form: Callable[[SigningKey], bytes]) -> Callable[[Target], str]:
    """HS256 by what everybody knows of the key that signs (CVE-2015-9256 and its kin)."""

    def attack(target: Target) -> str:
        text = f"{part({'alg': 'HS256', 'kid': target.key.kid})}.{part(target.claims)}"
        known = form(target.key)
        return f"{text}.{part(HMACAlgorithm(HMACAlgorithm.SHA256).sign(text.encode(), known))}"

    return attack


def _pem(key: SigningKey) -> bytes:
    if key.public is None:
        return key.kid.encode()
    public: bytes = key.verifies_with.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return public


def _jwk(key: SigningKey) -> bytes:
    return json.dumps(dict(key.public or {"kid": key.kid})).encode()


def by_the_attackers_key(**header: Any) -> Callable[[Target], str]:
    """RS256 by a key that the header brings, or says where to find."""

    def attack(target: Target) -> str:
        named = {"kid": target.key.kid, **header}
        return jwt.encode(target.claims, MINE, "RS256", headers=named)

    return attack


def by_the_same_key(algorithm: str) -> Callable[[Target], str]:
    def attack(target: Target) -> str:
        text = f"{part({'alg': algorithm, 'kid': target.key.kid})}.{part(target.claims)}"
        hashes = {"HS384": HMACAlgorithm.SHA384, "HS512": HMACAlgorithm.SHA512}
        signature = HMACAlgorithm(hashes[algorithm]).sign(text.encode(), target.key.secret)
        return f"{text}.{part(signature)}"

    return attack


OWN_JWK: Final = RSAAlgorithm.to_jwk(MINE.public_key(), as_dict=True)
CLAIMS: Final = ("exp", "iat", "nbf", "iss", "aud", "sub", "jti", "sid", "tid", "typ")
SOON: Final = int(time.time()) + 3_600

ATTACKS: Final[dict[str, Callable[[Target], str]]] = {
    **{f"alg {name!r}": unsigned(name) for name in ("none", "None", "NONE", "nOnE", "")},
    "alg none with the signature of another": unsigned("none", "kept"),
    "HS256 by the public key in PEM": by_the_public_key(_pem),
    "HS256 by the public key as JWK": by_the_public_key(_jwk),
    "HS384 by the key of another algorithm": by_the_same_key("HS384"),
    "HS512 by the key of another algorithm": by_the_same_key("HS512"),
    "RS256 by the attacker's key": by_the_attackers_key(),
    "a kid that climbs": with_header(kid="../../../../dev/null"),
    "a kid that is a path": with_header(kid="/proc/sys/kernel/randomize_va_space"),
    "a kid that is SQL": with_header(kid="x' UNION SELECT 'key'; --"),
    "a kid that is a command": with_header(kid="key|/bin/true"),
    "a kid that is unknown": with_header(kid="unknown"),
    "a kid that is a number": with_header(kid=7),
    "a kid that is a list": with_header(kid=["a"]),
    "a kid that is null": with_header(kid=None),
    "no kid": with_header(kid=...),
    "jwk": by_the_attackers_key(jwk=OWN_JWK),
    "jku": by_the_attackers_key(jku="http://127.0.0.1:9/jwks.json"),
    "x5u": by_the_attackers_key(x5u="http://127.0.0.1:9/cert.pem"),
    "x5c": by_the_attackers_key(x5c=["MIIB"]),
    "crit": with_header(crit=["exp"]),
    "crit of what is not understood": with_header(crit=["x"], x=True),
    "crit that is empty": with_header(crit=[]),
    "typ refresh": with_claims(typ="refresh"),
    "typ of an id token": with_claims(typ="ID"),
    "exp as a string": with_claims(exp=str(SOON)),
    "exp as a fraction": with_claims(exp=SOON + 0.5),
    "exp without end": with_claims(exp=1 << 80),
    "exp true": with_claims(exp=True),
    "exp null": with_claims(exp=None),
    "exp infinite": lambda target: signed(
        target, {}, json.dumps({**target.claims, "exp": float("inf")}).encode()
    ),
    "nbf to come": with_claims(nbf=SOON),
    "nbf as a string": with_claims(nbf="0"),
    "iat to come": with_claims(iat=SOON),
    "iat true": with_claims(iat=True),
    "aud of another": with_claims(aud="another-service"),
    "aud of many": with_claims(aud=["realtime-agent-hub", "another-service"]),
    "iss of another": with_claims(iss="https://evil.example"),
    "iss of many": with_claims(iss=["realtime-agent-hub"]),
    **{f"no {name}": with_claims(**{name: ...}) for name in CLAIMS},
    "the refresh token": lambda target: str(target.session["refresh_token"]),
    "another tenant's tid": lambda target: with_claims(tid=target.foreign_tenant)(target),
    "another's sid": lambda target: with_claims(sid=target.foreign_session)(target),
    "a sub that is nobody": with_claims(sub=new_id("u")),
    "a sid that never was": with_claims(sid=new_id("s")),
    "an API key's sid": lambda target: with_claims(sid=f"ak_{target.api_key[4:30]}")(target),
    "a session that was ended": lambda target: target.ended,
    "an API key that never was": lambda target: make(new_id("ak"))[0],
    "an API key with another secret": lambda target: make(f"ak_{target.api_key[4:30]}")[0],
    "an API key with a wrong checksum": lambda target: (
        target.api_key[:-1] + ("0" if target.api_key[-1] != "0" else "1")
    ),
    "an API key as the claims": lambda target: signed(target, {}, target.api_key.encode()),
    "a token signed by an API key": lambda target: jwt.encode(
        target.claims, target.api_key, "HS256", headers={"kid": target.key.kid}
    ),
    "an oversized token": lambda target: signed(target, {}, target.claims, pad="x" * 5_000),
    "a token in a token": lambda target: signed(target, {"cty": "JWT"}, target.token.encode()),
    "claims that are a list": lambda target: signed(target, {}, b"[]"),
    "a header that is nested deep": lambda target: f"{part(b'[' * 2_000)}.{part({})}.x",
    "a signature cut off": lambda target: target.token.rpartition(".")[0] + ".",
    "two parts": lambda target: target.token.rpartition(".")[0],
    "five parts (encrypted)": lambda target: f"{target.token}.a.b",
    "nonsense": lambda target: "nonsense",
}
"""Each by what it is called."""
