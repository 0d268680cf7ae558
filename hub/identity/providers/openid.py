"""One identity provider, spoken to as OpenID Connect Core 1.0 has it: the authorization code flow
with PKCE (RFC 7636), by what the provider's discovery document says.
"""

import asyncio
import re
import ssl
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote_plus, urlsplit

import httpx
from authlib.common.errors import AuthlibBaseError
from authlib.common.urls import add_params_to_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet

from hub.faults import Fault
from hub.settings.providers import ProviderSettings
from hub.telemetry.logs import log

LEEWAY_S: Final = 60
"""By how much the provider's clock may differ from ours."""
TIMEOUT_S: Final = 10.0
KEPT_S: Final = 3600.0
"""How long the discovery document and the keys are kept; unknown keys are looked for at once."""

# A provider's keys are public: an algorithm with a shared secret would be no signature of its own.
_ALGORITHMS: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
    | {"Ed25519"}
)


_WORD: Final = re.compile(r"[a-z_]{1,60}")


class OpenId:
    """The provider's side of a sign-in. ``await close()`` when done."""

    def __init__(self, provider: ProviderSettings, redirect_uri: str) -> None:
        self.provider = provider
        self._redirect_uri = redirect_uri
        self._issuer = provider.issuer
        self._encrypted = urlsplit(provider.issuer).scheme == "https"
        self._lock = asyncio.Lock()
        self._client: httpx.AsyncClient | None = None
        self._metadata: Mapping[str, Any] = {}
        self._metadata_until = 0.0  # of time.monotonic()
        self._keys: KeySet | None = None
        self._keys_until = 0.0

    async def close(self) -> None:
        """Let go of connections."""
        if self._client is not None:
            await self._client.aclose()

    async def authorization(self, state: str, nonce: str, verifier: str) -> str:
        """Where to send the browser. Raises Fault("backend_unavailable")."""
        metadata = await self._discovered()
        asked = [
            ("response_type", "code"),
            ("client_id", self.provider.client_id),
            ("redirect_uri", self._redirect_uri),
            ("scope", " ".join(self.provider.scopes)),
            ("state", state),
            ("nonce", nonce),
            ("code_challenge", create_s256_code_challenge(verifier)),
            ("code_challenge_method", "S256"),
        ]
        return str(add_params_to_uri(metadata["authorization_endpoint"], asked))

    async def claims(
        self, code: str, verifier: str, nonce: str, issuer: str | None
    ) -> dict[str, Any]:
        """What the provider says of who has come back with this code; ``sub`` is a string.

        ``issuer``: the one that the answer names, if it does (RFC 9207). Raises
        Fault("unauthenticated") for anything that does not fit, "backend_unavailable".
        """
        metadata = await self._discovered()
        says_issuer = metadata.get("authorization_response_iss_parameter_supported") is True
        if (issuer is not None or says_issuer) and issuer != self._issuer:
            raise self._refused("its answer is another issuer's")
        token = await self._exchanged(metadata, code, verifier)
        claims = await self._checked(metadata, token, nonce)
        endpoint = metadata.get("userinfo_endpoint")
        if isinstance(endpoint, str) and isinstance(token.get("access_token"), str):
            bearer = {"authorization": f"Bearer {token['access_token']}"}
            more = await self._json(endpoint, bearer)
            # Core 1.0, section 5.3.2: else it may be somebody else's.
            if more.get("sub") != claims["sub"]:
                raise self._refused("its user info is another user's")
            claims = {**more, **claims}
        return claims

    # --- what the provider tells ---

    async def _discovered(self) -> Mapping[str, Any]:
        """The discovery document (Discovery 1.0, section 4)."""
        async with self._lock:
            if self._metadata_until > time.monotonic():
                return self._metadata
            url = self._issuer.rstrip("/") + "/.well-known/openid-configuration"
            document = await self._json(url)
            if document.get("issuer") != self._issuer:
                raise self._away("its discovery document is of another issuer")
            for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
                if not self._is_ours(document.get(name)):
                    raise self._away(f"its discovery document has no good {name}")
            if not self._is_ours(document.get("userinfo_endpoint")):
                document.pop("userinfo_endpoint", None)
            self._metadata = document
            self._metadata_until = time.monotonic() + KEPT_S
            return document

    def _is_ours(self, url: Any) -> bool:
        """Whether secrets may be sent there: as safe a way as to the issuer."""
        return isinstance(url, str) and (
            url.startswith("https://") or (not self._encrypted and url.startswith("http://"))
        )

    async def _key_set(self, metadata: Mapping[str, Any], *, anew: bool = False) -> KeySet:
        async with self._lock:
            if self._keys is None or anew or self._keys_until <= time.monotonic():
                found = await self._json(metadata["jwks_uri"])
                try:
                    self._keys = KeySet.import_key_set(found)  # type: ignore[arg-type]
                except (JoseError, ValueError, KeyError, TypeError):
                    raise self._away("its keys cannot be read") from None
                self._keys_until = time.monotonic() + KEPT_S
            return self._keys

    async def _exchanged(
        self, metadata: Mapping[str, Any], code: str, verifier: str
    ) -> Mapping[str, Any]:
        """The answer of the token endpoint (RFC 6749, section 4.1.3)."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "code_verifier": verifier,
            "redirect_uri": self._redirect_uri,
        }
        auth: httpx.Auth = httpx.Auth()  # which does nothing
        secret = self.provider.client_secret
        known = metadata.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        if secret is None:
            form["client_id"] = self.provider.client_id
        elif "client_secret_basic" in known or "client_secret_post" not in known:
            # Section 2.3.1: both are form-encoded first.
            auth = httpx.BasicAuth(
                quote_plus(self.provider.client_id), quote_plus(secret.get_secret_value())
            )
        else:
            form["client_id"] = self.provider.client_id
            form["client_secret"] = secret.get_secret_value()
        client = await self._connected()
        try:
            answer = await client.post(metadata["token_endpoint"], data=form, auth=auth)
            token = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise self._away(type(error).__name__) from None
        if not isinstance(token, dict) or answer.status_code >= 500:
            raise self._away(f"its token endpoint answered {answer.status_code}")
        if answer.status_code != 200 or "error" in token:
            told = str(token.get("error"))
            why = told if _WORD.fullmatch(told) else "no reason"
            raise self._refused(f"it refused the code: {why}")
        return token

    async def _checked(
        self, metadata: Mapping[str, Any], token: Mapping[str, Any], nonce: str
    ) -> dict[str, Any]:
        """The claims of the ID token (Core 1.0, section 3.1.3.7)."""
        written = token.get("id_token")
        if not isinstance(written, str):
            raise self._refused("it sent no ID token")
        supported = metadata.get("id_token_signing_alg_values_supported") or ["RS256"]
        algorithms = [name for name in supported if name in _ALGORITHMS]
        options = {
            "iss": {"essential": True, "value": self._issuer},
            "aud": {"essential": True, "value": self.provider.client_id},
            "nonce": {"essential": True, "value": nonce},
        }
        params = {
            "nonce": nonce,
            "client_id": self.provider.client_id,
            "access_token": token.get("access_token"),
        }
        try:
            try:
                keys = await self._key_set(metadata)
                decoded = jwt.decode(written, keys, algorithms=algorithms)
            except InvalidKeyIdError:
                keys = await self._key_set(metadata, anew=True)
                decoded = jwt.decode(written, keys, algorithms=algorithms)
            claims = CodeIDToken(decoded.claims, decoded.header, options, params)
            claims.validate(leeway=LEEWAY_S)
        except (JoseError, AuthlibBaseError, ValueError, TypeError, KeyError) as error:
            raise self._refused(f"its ID token does not hold: {_name(error)}") from None
        subject = decoded.claims.get("sub")
        if not isinstance(subject, str) or not 0 < len(subject) <= 255:
            raise self._refused("its ID token names nobody")
        return dict(decoded.claims)

    # --- over HTTP ---

    async def _connected(self) -> httpx.AsyncClient:
        if self._client is None:
            # Loading the certificates takes 20 ms, which the loop does not have.
            verify: ssl.SSLContext | bool = False
            if self._encrypted:
                verify = await asyncio.to_thread(ssl.create_default_context)
            if self._client is None:
                self._client = httpx.AsyncClient(
                    verify=verify, timeout=TIMEOUT_S, trust_env=self._encrypted
                )
        return self._client

    async def _json(self, url: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        client = await self._connected()
        try:
            answer = await client.get(url, headers=headers)
            value = answer.json() if answer.status_code == 200 else None
        except (httpx.HTTPError, ValueError) as error:
            raise self._away(type(error).__name__) from None
        if not isinstance(value, dict):
            raise self._away(f"{urlsplit(url).path} answered {answer.status_code}")
        return value

    def _away(self, why: str) -> Fault:
        log.warning("an identity provider cannot be used", provider=self.provider.name, why=why)
        return Fault("backend_unavailable", "The identity provider does not answer. Try again.")

    def _refused(self, why: str) -> Fault:
        log.warning("a sign-in by a provider was refused", provider=self.provider.name, why=why)
        return Fault("unauthenticated", "The sign-in was not valid. Begin again.")


def _name(error: Exception) -> str:
    """What is wrong, in a word: an error's text may hold what was sent."""
    return str(getattr(error, "error", "") or type(error).__name__)
