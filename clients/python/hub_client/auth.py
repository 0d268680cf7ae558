"""Signing in: tokens, passwords, login links, and keeping an access token fresh.

A refresh token works once: two refreshes at a time would look like a stolen token and end the
login session. So one runs at a time, and one that has begun is finished even if its caller goes.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

import httpx

from hub_client.addresses import Address, parse_address
from hub_client.faults import (
    ConnectFailed,
    Fault,
    HubError,
    MethodNotFound,
    SecondFactorRequired,
    TokenExpired,
    Unauthenticated,
    fault_from,
)

log = logging.getLogger("hub_client")

TIMEOUT_S: Final = 20.0
TokenSource = Callable[[], Awaitable[str]]
CodeSource = Callable[[], Awaitable[str]]
"""Answers a code of the second factor, or a recovery code."""


class Auth(Protocol):
    """Where the access tokens of a connection come from."""

    @property
    def renewable(self) -> bool:
        """Whether ``access(renew=True)`` can give another token."""

    @property
    def refresh_in(self) -> float | None:
        """Seconds until the token should be renewed; None when that is unknown."""

    async def access(self, *, renew: bool = False) -> str:
        """A valid access token. Raises Fault or ConnectFailed."""

    async def logout(self) -> None:
        """End the login session, if there is one."""

    def password_is(self, password: str) -> None:
        """The account has another password now."""

    async def close(self) -> None:
        """Let go of connections and tasks."""


class TokenAuth:
    """An access token that somebody else looks after, or an API key."""

    def __init__(self, token: str | TokenSource) -> None:
        self._token = token
        self.renewable = not isinstance(token, str)
        self.refresh_in: float | None = None

    async def access(self, *, renew: bool = False) -> str:
        if not isinstance(self._token, str):
            return await _asked(self._token, "token")
        if renew:
            raise TokenExpired("The access token has expired, and this client cannot renew it.")
        return self._token

    async def logout(self) -> None:
        return None

    def password_is(self, password: str) -> None:
        return None

    async def close(self) -> None:
        return None


class LoginAuth:
    """A login session of our own: signs in once, then refreshes.

    ``body`` goes to ``/v1/auth/<how>``: ``login {email, password, tenant?, invitation?}`` or ``link
    {code}`` (which works once, as the invitation does). A password is kept, to sign in again when
    the login session has ended.
    ``second_factor`` is asked for a code where the hub wants one.
    """

    renewable = True

    def __init__(
        self,
        address: Address,
        how: str,
        body: Mapping[str, Any],
        second_factor: CodeSource | None = None,
    ) -> None:
        self._how, self._body = how, dict(body)
        self._second_factor = second_factor
        self._client = http_client(address)
        self._access: str | None = None
        self._refresh: str | None = None
        self._expires = 0.0
        self._life = 0.0
        self._renewal: asyncio.Task[None] | None = None

    @property
    def refresh_in(self) -> float | None:
        if self._access is None:
            return None
        # The wall clock: a laptop that slept comes back with a token that is long past. A fifth
        # of the life is time to try again when the hub is away for a while.
        return self._expires - time.time() - min(120.0, self._life / 5)

    async def access(self, *, renew: bool = False) -> str:
        renewal = self._renewal
        if renewal is None or renewal.done():
            due = self.refresh_in
            if not renew and self._access is not None and due is not None and due > 0:
                return self._access
            renewal = self._renewal = asyncio.create_task(self._renew(), name="hub-refresh")
            renewal.add_done_callback(_seen)
        await asyncio.shield(renewal)
        assert self._access is not None
        return self._access

    async def logout(self) -> None:
        if self._access is not None:
            headers = {"Authorization": f"Bearer {self._access}"}
            await post(self._client, "/v1/auth/logout", {}, headers)
            self._access = self._refresh = None

    def password_is(self, password: str) -> None:
        if "password" in self._body:
            self._body["password"] = password

    async def close(self) -> None:
        if self._renewal is not None and not self._renewal.done():
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)
        await self._client.aclose()

    async def _renew(self) -> None:
        if self._refresh is not None:
            try:
                refresh = {"refresh_token": self._refresh}
                return self._keep(await post(self._client, "/v1/auth/refresh", refresh))
            except (Unauthenticated, TokenExpired):
                self._refresh = None
                if self._how != "login":
                    raise
        if self._how != "login" and self._access is not None:
            raise Unauthenticated("The login session has ended; sign in again.")
        return self._keep(await self._sign_in())

    async def _sign_in(self) -> dict[str, Any]:
        try:
            return await post(self._client, f"/v1/auth/{self._how}", self._body)
        except SecondFactorRequired as fault:
            if self._second_factor is None:
                raise
            challenge = fault.details.get("challenge")
        code = await _asked(self._second_factor, "second_factor")
        answer = {"challenge": challenge, "code": code}
        if "invitation" in self._body:
            answer["invitation"] = self._body["invitation"]
        return await post(self._client, "/v1/auth/factor", answer)

    def _keep(self, answer: Mapping[str, Any]) -> None:
        try:
            self._access = str(answer["access_token"])
            self._life = float(answer["expires_in"])
        except (KeyError, TypeError, ValueError) as error:
            raise ConnectFailed("The hub's answer to the sign-in holds no token.") from error
        self._refresh = answer.get("refresh_token", self._refresh)
        self._expires = time.time() + self._life


async def register(
    url: str,
    *,
    email: str,
    password: str,
    name: str | None = None,
    invitation: str | None = None,
) -> dict[str, Any]:
    """Make an account: ``{user: {id, email, name?}, tenant: {id, name}}``.

    With an invitation it joins that tenant, without one it gets a tenant of its own. Where an
    address must be verified, it joins when it is; one that has an account gets the same answer,
    with ids of nothing, and a letter. Raises Conflict (it has one, where nothing is verified),
    InvalidParams, PermissionDenied (registration is closed), RateLimited, ConnectFailed.
    """
    body = {"email": email, "password": password, "name": name, "invitation": invitation}
    given = {key: value for key, value in body.items() if value is not None}
    async with http_client(parse_address(url)) as client:
        return await post(client, "/v1/auth/register", given)


async def _asked(source: Callable[[], Awaitable[str]], name: str) -> str:
    """What the user's own function answers. A failure of it may pass, as that of any server may:
    it is told, and raised as ConnectFailed. Raises HubError as it is.
    """
    try:
        return await source()
    except HubError:
        raise
    except Exception as error:
        log.warning("the function given as %s failed", name, exc_info=True)
        what = f"{type(error).__name__}: {error}"
        raise ConnectFailed(f"The function given as {name} failed: {what}") from error


def _seen(renewal: asyncio.Task[None]) -> None:
    """Its failure is for who waits for it; that may be nobody any more."""
    if not renewal.cancelled():
        renewal.exception()


def http_client(address: Address) -> httpx.AsyncClient:
    """A client of the hub's REST side."""
    return httpx.AsyncClient(
        base_url=address.http,
        timeout=TIMEOUT_S,
        trust_env=not address.local,
        verify=address.encrypted,  # without TLS, loading the certificates is 20 ms for nothing
    )


async def post(
    client: httpx.AsyncClient,
    path: str,
    body: Mapping[str, Any],
    headers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The JSON answer (``{}`` when empty). Raises the Fault it holds, or ConnectFailed."""
    try:
        answer = await client.post(path, json=body, headers=headers)
    except httpx.HTTPError as error:
        what = str(error) or type(error).__name__
        raise ConnectFailed(f"No answer from {client.base_url}: {what}") from error
    finally:
        client.cookies.clear()  # the refresh cookie is for browsers; two copies would disagree
    try:
        value = answer.json() if answer.content else {}
    except ValueError:
        value = None
    if answer.is_success and isinstance(value, dict):
        return value
    if isinstance(value, dict) and isinstance(value.get("error"), dict):
        fault: Fault = fault_from(value["error"])
        if not isinstance(fault, MethodNotFound):  # a hub, but not at this path
            raise fault
    status = answer.status_code
    url = str(client.base_url).rstrip("/")
    advice = parse_address(url).advice(status) or ": is it a hub?"
    raise ConnectFailed(f"{url} answered {status}{advice}", status=status)
