"""What a provider's answer must hold to: each way in which a forged or stale one differs."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hub.faults import Fault
from hub.identity.providers.openid import OpenId
from hub.settings import read_settings

NONCE, VERIFIER, SECRET = "the nonce", "v" * 64, "never in a log"
ACCESS = "an access token"
KEY = rsa.generate_private_key(65537, 2048)
OTHER = rsa.generate_private_key(65537, 2048)


def half_hash(text: str) -> str:
    """Core 1.0, section 3.1.3.6, for RS256."""
    return unpadded(hashlib.sha256(text.encode()).digest()[:16])


def unpadded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@dataclass
class Forger:
    """A provider that says whatever a test wants it to."""

    issuer: str = ""
    claims: dict[str, Any] = field(default_factory=dict)
    key: Any = KEY
    algorithm: str = "RS256"
    kid: str = "one"
    document: dict[str, Any] = field(default_factory=dict)
    userinfo: dict[str, Any] = field(default_factory=lambda: {"sub": "ada"})
    answers: dict[str, Response] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str], dict[str, str]]] = field(default_factory=list)

    def token(self) -> str:
        moment = int(time.time())
        good = {
            "iss": self.issuer,
            "aud": "hub",
            "sub": "ada",
            "iat": moment,
            "exp": moment + 300,
            "nonce": NONCE,
            "at_hash": half_hash(ACCESS),
        }
        claims = {k: v for k, v in {**good, **self.claims}.items() if v is not None}
        if self.algorithm != "HS256":
            return jwt.encode(claims, self.key, self.algorithm, headers={"kid": self.kid})
        # By hand: PyJWT would not take a public key for a secret.
        head = {"alg": "HS256", "kid": self.kid}
        signed = ".".join(unpadded(json.dumps(part).encode()) for part in (head, claims))
        return f"{signed}.{unpadded(hmac.digest(self.key, signed.encode(), 'sha256'))}"

    async def _answer(self, request: Request) -> Response:
        path = request.url.path
        form = parse_qs((await request.body()).decode())
        self.asked.append((path, {k: v[0] for k, v in form.items()}, dict(request.headers)))
        if path in self.answers:
            return self.answers[path]
        if path.endswith("configuration"):
            document = {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/auth",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/keys",
                "userinfo_endpoint": f"{self.issuer}/me",
                "id_token_signing_alg_values_supported": ["RS256", "HS256", "none"],
            }
            whole = {**document, **self.document}
            return JSONResponse({k: v for k, v in whole.items() if v is not None})
        if path == "/keys":
            public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(KEY.public_key()))
            return JSONResponse({"keys": [{**public, "kid": self.kid, "use": "sig"}]})
        if path == "/me":
            return JSONResponse(self.userinfo)
        return JSONResponse(
            {"access_token": ACCESS, "token_type": "Bearer", "id_token": self.token()}
        )

    def application(self) -> Starlette:
        return Starlette(routes=[Route("/{path:path}", self._answer, methods=["GET", "POST"])])


@pytest.fixture
async def forger() -> AsyncIterator[Forger]:
    forger = Forger()
    server = uvicorn.Server(
        uvicorn.Config(forger.application(), port=0, log_level="critical", lifespan="off")
    )
    serving = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.001)
        if serving.done():
            serving.result()
    port = server.servers[0].sockets[0].getsockname()[1]
    forger.issuer = f"http://127.0.0.1:{port}"
    yield forger
    server.should_exit = True
    await serving


Make = Callable[..., OpenId]


@pytest.fixture
async def openid(forger: Forger) -> AsyncIterator[Make]:
    made: list[OpenId] = []

    def make(**more: Any) -> OpenId:
        one = {"name": "corp", "issuer": forger.issuer, "client_id": "hub", "client_secret": SECRET}
        settings = read_settings(HUB_OIDC_PROVIDERS=json.dumps([{**one, **more}]))
        made.append(OpenId(settings.providers[0], "http://127.0.0.1/back"))
        return made[-1]

    yield make
    for one in made:
        await one.close()


async def reason(openid: OpenId, issuer: str | None = None) -> str:
    with pytest.raises(Fault) as caught:
        await openid.claims("the code", VERIFIER, NONCE, issuer)
    assert SECRET not in caught.value.message
    return caught.value.reason


async def test_the_browser_is_sent_with_state_nonce_and_a_hashed_verifier(
    openid: Make, forger: Forger
) -> None:
    url = urlsplit(await openid().authorization("the state", NONCE, VERIFIER))
    asked = {name: value[0] for name, value in parse_qs(url.query).items()}
    challenge = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest())
    assert asked == {
        "response_type": "code",
        "client_id": "hub",
        "redirect_uri": "http://127.0.0.1/back",
        "scope": "openid email profile",
        "state": "the state",
        "nonce": NONCE,
        "code_challenge": challenge.rstrip(b"=").decode(),
        "code_challenge_method": "S256",
    }


async def test_the_code_is_exchanged_with_the_verifier_and_the_secret(
    openid: Make, forger: Forger
) -> None:
    forger.userinfo = {"sub": "ada", "email": "ada@corp.example", "iss": "somebody else"}
    claims = await openid().claims("the code", VERIFIER, NONCE, None)
    assert (claims["sub"], claims["email"], claims["iss"]) == (
        "ada", "ada@corp.example", forger.issuer,
    )  # fmt: skip
    (form, headers), *_ = [(form, head) for path, form, head in forger.asked if path == "/token"]
    assert form == {
        "grant_type": "authorization_code",
        "code": "the code",
        "code_verifier": VERIFIER,
        "redirect_uri": "http://127.0.0.1/back",
    }
    assert headers["authorization"].startswith("Basic ")


async def test_a_public_client_sends_its_name_and_no_secret(openid: Make, forger: Forger) -> None:
    await openid(client_secret=None).claims("the code", VERIFIER, NONCE, None)
    (form, headers), *_ = [(form, head) for path, form, head in forger.asked if path == "/token"]
    assert form["client_id"] == "hub"
    assert "authorization" not in headers


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example"},
        {"iss": None},
        {"aud": "another client"},
        {"aud": ["another client"]},
        {"aud": ["hub", "another client"]},  # and no azp
        {"aud": ["hub", "another client"], "azp": "another client"},
        {"aud": None},
        {"nonce": "another nonce"},
        {"nonce": None},
        {"sub": None},
        {"sub": ""},
        {"sub": "x" * 256},
        {"exp": int(time.time()) - 120},
        {"exp": None},
        {"iat": int(time.time()) + 3_600},
        {"iat": None},
        {"nbf": int(time.time()) + 3_600},
        {"at_hash": half_hash("another token")},
    ],
)
async def test_an_id_token_that_does_not_fit_is_refused(
    openid: Make, forger: Forger, claims: dict[str, Any]
) -> None:
    forger.claims = claims
    assert await reason(openid()) == "unauthenticated"


async def test_clocks_may_differ_a_little(openid: Make, forger: Forger) -> None:
    forger.claims = {"exp": int(time.time()) - 30, "iat": int(time.time()) + 30}
    await openid().claims("the code", VERIFIER, NONCE, None)


async def test_a_signature_of_another_key_is_refused(openid: Make, forger: Forger) -> None:
    forger.key = OTHER
    assert await reason(openid()) == "unauthenticated"


async def test_a_shared_secret_or_no_signature_is_none(openid: Make, forger: Forger) -> None:
    public = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pem = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    secrets = (SECRET.encode(), public, pem)
    for algorithm, key in (*(("HS256", each) for each in secrets), ("none", None)):
        forger.algorithm, forger.key = algorithm, key
        assert await reason(openid()) == "unauthenticated"


async def test_new_keys_are_looked_for_when_one_is_not_known(openid: Make, forger: Forger) -> None:
    one = openid()
    await one.claims("the code", VERIFIER, NONCE, None)
    await one.claims("the code", VERIFIER, NONCE, None)
    assert [path for path, *_ in forger.asked].count("/keys") == 1
    forger.kid = "two"
    await one.claims("the code", VERIFIER, NONCE, None)
    assert [path for path, *_ in forger.asked].count("/keys") == 2


async def test_the_discovery_document_is_kept(openid: Make, forger: Forger) -> None:
    one = openid()
    await asyncio.gather(*(one.authorization("s", NONCE, VERIFIER) for _ in range(5)))
    assert [path for path, *_ in forger.asked] == ["/.well-known/openid-configuration"]


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://evil.example"},
        {"token_endpoint": None},
        {"jwks_uri": "file:///etc/passwd"},
        {"authorization_endpoint": "javascript:alert(1)"},
    ],
)
async def test_a_discovery_document_that_does_not_fit_is_not_used(
    openid: Make, forger: Forger, document: dict[str, Any]
) -> None:
    forger.document = document
    with pytest.raises(Fault, match="backend_unavailable"):
        await openid().authorization("s", NONCE, VERIFIER)


async def test_an_answer_of_another_issuer_is_refused(openid: Make, forger: Forger) -> None:
    assert await reason(openid(), "https://evil.example") == "unauthenticated"
    forger.document = {"authorization_response_iss_parameter_supported": True}
    assert await reason(openid()) == "unauthenticated"
    await openid().claims("the code", VERIFIER, NONCE, forger.issuer)


async def test_user_info_of_another_user_is_refused(openid: Make, forger: Forger) -> None:
    forger.userinfo = {"sub": "eve", "groups": ["hub-admins"]}
    assert await reason(openid()) == "unauthenticated"


@pytest.mark.parametrize(
    ("path", "answer", "expected"),
    [
        ("/token", JSONResponse({"error": "invalid_grant"}, 400), "unauthenticated"),
        (
            "/token",
            JSONResponse({"access_token": ACCESS, "token_type": "Bearer"}),
            "unauthenticated",
        ),
        ("/token", Response("not JSON", 200), "backend_unavailable"),
        ("/token", Response("away", 503), "backend_unavailable"),
        ("/keys", JSONResponse({"keys": "none"}), "backend_unavailable"),
        ("/keys", Response("away", 500), "backend_unavailable"),
        ("/me", Response("away", 500), "backend_unavailable"),
        ("/me", JSONResponse(["a list"]), "backend_unavailable"),
        ("/.well-known/openid-configuration", Response("away", 404), "backend_unavailable"),
    ],
)
async def test_a_provider_that_fails_is_told_from_one_that_refuses(
    openid: Make, forger: Forger, path: str, answer: Response, expected: str
) -> None:
    forger.answers[path] = answer
    assert await reason(openid()) == expected


async def test_a_provider_that_is_not_there_is_away(openid: Make) -> None:
    with pytest.raises(Fault, match="backend_unavailable"):
        await openid(issuer="http://127.0.0.1:1").authorization("s", NONCE, VERIFIER)
