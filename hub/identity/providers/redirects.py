"""Signing in through identity providers: a browser leaves for one, and comes back.

What the hub must know when it comes back (state, nonce, PKCE's verifier) travels in a cookie that
only the hub can read or make, so no other browser can finish what this one began, and no node has
to remember it. What comes out is a one-time login code, as of a login link.
"""

import hmac
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from hub.faults import Fault
from hub.identity.providers.openid import OpenId
from hub.identity.providers.provisioning import Provisioning
from hub.identity.tokens.seal import Seal, Unreadable
from hub.settings.providers import ProviderSettings
from hub.telemetry.logs import log

LIFE_S: Final = 600
"""How long somebody may take at the provider."""
PATH: Final = "/v1/auth/oidc"

_ERROR: Final = re.compile(r"[a-z_]{1,60}")
_LOST: Final = "This sign-in took too long, or began in another browser. Begin again."


@dataclass(frozen=True, slots=True)
class Begun:
    """Where to send the browser, the ``state`` it will bring back, and what it keeps meanwhile."""

    url: str
    state: str
    kept: str


class Providers:
    """The identity providers of the settings."""

    def __init__(
        self,
        providers: Iterable[ProviderSettings],
        url: str,
        seal: Seal,
        provisioning: Provisioning,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._known = {
            one.name: OpenId(one, f"{url}{PATH}/{one.name}/callback") for one in providers
        }
        self._seal = seal
        self._provisioning = provisioning
        self._clock = clock

    @property
    def all(self) -> list[ProviderSettings]:
        """All of them, in the order of the settings."""
        return [one.provider for one in self._known.values()]

    async def close(self) -> None:
        """Let go of connections."""
        for one in self._known.values():
            await one.close()

    async def begin(self, name: str, tenant: str | None = None) -> Begun:
        """Begin a sign-in. ``tenant`` (id or name) chooses among those that it leads to.

        Raises Fault("not_found") for a provider that is not there, "backend_unavailable".
        """
        openid = self._find(name)
        state, nonce = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        verifier = secrets.token_urlsafe(48)
        flow = {
            "state": state,
            "nonce": nonce,
            "verifier": verifier,
            "tenant": tenant,
            "until": self._clock() + LIFE_S,
        }
        url = await openid.authorization(state, nonce, verifier)
        return Begun(url, state, self._seal.seal(orjson.dumps(flow), _purpose(name)))

    async def finish(self, name: str, answer: Mapping[str, str], kept: str | None) -> str:
        """A code that signs in once, for who has come back with the provider's ``answer``.

        Raises Fault: "unauthenticated" when this browser did not begin it, or the answer does not
        hold; "permission_denied" when the provider or the rules say no; "conflict" when the address
        has an account that is not linked; "not_found", "backend_unavailable".
        """
        openid = self._find(name)
        flow = self._opened(name, kept)
        given = answer.get("state", "").encode()
        if flow is None or not hmac.compare_digest(flow["state"].encode(), given):
            raise Fault("unauthenticated", _LOST)
        if "error" in answer:
            error = answer["error"]
            error = error if _ERROR.fullmatch(error) else "unknown"
            log.info("a provider did not sign somebody in", provider=name, error=error)
            raise Fault("permission_denied", f"The provider did not sign you in ({error}).")
        if not (code := answer.get("code", "")):
            raise Fault("unauthenticated", "The provider sent no code. Begin again.")
        claims = await openid.claims(code, flow["verifier"], flow["nonce"], answer.get("iss"))
        return await self._provisioning.admit(openid.provider, claims, flow["tenant"])

    def _find(self, name: str) -> OpenId:
        found = self._known.get(name)
        if found is None:
            raise Fault("not_found", "There is no such identity provider.")
        return found

    def _opened(self, name: str, kept: str | None) -> dict[str, Any] | None:
        try:
            opened = self._seal.open(kept or "", _purpose(name))
        except Unreadable:
            return None
        flow: dict[str, Any] = orjson.loads(opened.plain)
        return flow if flow["until"] > self._clock() else None


def _purpose(name: str) -> str:
    return f"sign-in by {name}"
