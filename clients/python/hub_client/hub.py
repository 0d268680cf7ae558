"""The hub as its user sees it: ``async with connect(...) as hub``."""

import re
from collections.abc import Callable, Generator, Mapping
from typing import Any, Final, Self

from hub_client.addresses import parse_address
from hub_client.auth import Auth, CodeSource, LoginAuth, TokenAuth, TokenSource
from hub_client.callbacks import Callback, Callbacks, Registration
from hub_client.connection import Connection
from hub_client.conversations import Conversations
from hub_client.events import Event, Since
from hub_client.frames import Notice
from hub_client.records import Model
from hub_client.retry import Backoff
from hub_client.runs import BUFFER, Runs
from hub_client.subscription import Subscription

API_KEY: Final = "ahk_"
_SESSION_KEY: Final = re.compile(r"[\x21-\x7e]{1,128}")


class Hub:
    """A connection to the hub that mends itself. Made by ``connect``.

    Its methods may be called from any number of tasks of one event loop.
    """

    def __init__(self, connection: Connection, auth: Auth, callbacks: Callbacks) -> None:
        self._connection = connection
        self._auth = auth
        self._callbacks = callbacks
        self.conversations = Conversations(connection)
        self.runs = Runs(connection)

    @property
    def session(self) -> Mapping[str, Any]:
        """The last ``session.ready``: ``{connection_id, node, user, tenant, roles, …}``."""
        return self._connection.ready

    async def call(self, method: str, *, timeout: float | None = None, **params: Any) -> Any:
        """Call any method of the hub by its name; answers its result as it is.

        Raises the Fault that the hub answers, CallTimedOut, ConnectionLost, ConnectionClosed.
        """
        return await self._connection.call(method, params, timeout)

    async def models(self) -> list[Model]:
        """The models that runs can name; the default one first."""
        answer = await self._connection.call("model.list", {})
        return [Model.parse(item) for item in answer["items"]]

    @property
    def resumed(self) -> tuple[str, ...]:
        """The channels that came back with the persistent session and that nobody has subscribed
        yet. Their events wait, from where they were acknowledged.
        """
        progress = self._connection.progress
        return progress.unclaimed if progress is not None else ()

    def subscribe(
        self,
        channel: str,
        since: Since = None,
        *,
        buffer: int = BUFFER,
        acknowledge: bool = True,
    ) -> Subscription:
        """The events of any channel (``conversation:<id>``, ``user:<id>``, ``audit``).

        With a ``session_key``, one that the session remembers goes on where it was acknowledged,
        whatever ``since`` says. ``acknowledge=False``: only ``Subscription.acknowledge`` does.
        """
        return self._connection.subscribe(
            channel, since, buffer, remember=True, acknowledge=acknowledge
        )

    def on(self, type: str, callback: Callback) -> Registration:
        """Call ``callback`` with each Event of this type on the channels that are subscribed, or
        each Notice of this method; ``"*"`` stands for all of them.

        Beside the hub's own notices (``session.ready``, ``session.expiring``, …) there is
        ``disconnected {code, reason}``. The callback may be asynchronous and call the SDK.
        """
        return self._callbacks.on(type, callback)

    async def ping(self) -> None:
        """Go to the hub and back."""
        await self._connection.call("session.ping", {})

    async def change_password(self, current: str, password: str, *, keys: bool = False) -> None:
        """Change the password; the account's other sessions end, and this one goes on. ``keys``:
        its API keys end too.

        Raises PermissionDenied (the current one is wrong), InvalidParams (the new one),
        RateLimited.
        """
        params: dict[str, Any] = {"current": current, "password": password}
        params |= {"keys": True} if keys else {}
        await self._connection.call("account.change_password", params)
        self._auth.password_is(password)

    async def change_email(self, email: str, password: str) -> None:
        """Have a letter sent to another address, which is the account's once ``verify_email`` has
        had the letter's token. Nothing tells whether it has an account of its own.

        Raises PermissionDenied (the password is wrong), InvalidParams, RateLimited.
        """
        params = {"email": email, "password": password}
        await self._connection.call("account.change_email", params)

    async def rename(self, name: str | None) -> None:
        """Change the name of the account; a tenant may call it something else. Raises
        InvalidParams.
        """
        await self._connection.call("account.update", {"name": name})

    async def logout(self, *, everywhere: bool = False, keys: bool = False) -> None:
        """End the login session, or all of the account's, and close. ``keys``: with ``everywhere``,
        its API keys too.
        """
        try:
            if everywhere:
                params = {"everywhere": True, **({"keys": True} if keys else {})}
                await self._connection.call("account.logout", params)
            else:
                await self._auth.logout()
        finally:
            await self.close()

    async def wait_closed(self) -> None:
        """Until the connection has ended for good."""
        await self._connection.closed.wait()

    async def close(self) -> None:
        """Close the connection and end every task. Runs go on at the hub. Idempotent."""
        await self._callbacks.close()
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Connecting:
    """What ``connect`` answers: ``async with`` it, or ``await`` it and close the hub yourself."""

    def __init__(self, make: Callable[[], tuple[Hub, Connection]]) -> None:
        self._make = make
        self._hub: Hub | None = None

    def __await__(self) -> Generator[Any, None, Hub]:
        return self.open().__await__()

    async def __aenter__(self) -> Hub:
        self._hub = await self.open()
        return self._hub

    async def __aexit__(self, *_: object) -> None:
        if self._hub is not None:
            await self._hub.close()

    async def open(self) -> Hub:
        """Connect; close the hub yourself."""
        hub, connection = self._make()
        await connection.open()
        return hub


def connect(
    url: str = "http://127.0.0.1:8000",
    *,
    token: str | TokenSource | None = None,
    api_key: str | None = None,
    email: str | None = None,
    password: str | None = None,
    tenant: str | None = None,
    code: str | None = None,
    second_factor: CodeSource | None = None,
    timeout: float = 30.0,
    backoff: Backoff | None = None,
    session_key: str | None = None,
) -> Connecting:
    """Connect to the hub at ``url`` with one of four credentials.

    ``token``: an access token, or an async function that answers one whenever one is needed; once
    connected, one that raises is asked again after a while.
    ``api_key``: a key of a bot, a service or a script (``ahk_…``), which needs no renewal.
    ``email`` and ``password`` (and ``tenant``, if there are several): signs in, and keeps the login
    fresh. ``code``: of a one-time login link. ``second_factor``: an async function that answers a
    code of the authenticator, for who has one.

    ``timeout``: seconds that a request may take, reconnecting included. ``session_key``: your name
    (1 to 128 visible ASCII characters) for a persistent session, which remembers for 24 h what is
    subscribed and how far it was dealt with; the newest connection has it, and ends the one before
    (ConnectionClosed 4505).

    Entering raises ConnectFailed, the Fault of the sign-in, or ConnectionClosed; it does not
    retry. Once connected, broken connections are replaced and subscriptions resumed without a
    word, for as long as it takes. Raises ValueError for a bad address or not one credential.
    """
    address = parse_address(url)
    if sum(given is not None for given in (token, api_key, email, code)) != 1:
        raise ValueError("connect takes one of token, api_key, email (with password) and code")
    if api_key is not None and not api_key.startswith(API_KEY):
        raise ValueError(f"an api_key begins with {API_KEY}")
    if email is not None and password is None:
        raise ValueError("connect needs the password that belongs to the email")
    if session_key is not None and not _SESSION_KEY.fullmatch(session_key):
        raise ValueError("a session_key is 1 to 128 visible ASCII characters")
    login = {"email": email, "password": password, "tenant": tenant}
    body = {key: value for key, value in login.items() if value is not None}

    def make() -> tuple[Hub, Connection]:
        callbacks = Callbacks()

        def sink(type: str, value: Mapping[str, Any] | Event) -> None:
            callbacks.dispatch(type, value if isinstance(value, Event) else Notice(type, value))

        source: Auth
        if token is not None or api_key is not None:
            source = TokenAuth(token or api_key or "")
        elif code is not None:
            source = LoginAuth(address, "link", {"code": code}, second_factor)
        else:
            source = LoginAuth(address, "login", body, second_factor)
        connection = Connection(
            address,
            source,
            timeout=timeout,
            sink=sink,
            backoff=backoff or Backoff(),
            session_key=session_key,
        )
        return Hub(connection, source, callbacks), connection

    return Connecting(make)
