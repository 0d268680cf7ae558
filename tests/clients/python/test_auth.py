"""Signing in and staying signed in."""

import asyncio
import time

import pytest
from hub_client import ConnectFailed, ConnectionClosed, connect, register
from hub_client.addresses import parse_address
from hub_client.auth import LoginAuth
from hub_client.faults import TokenExpired, Unauthenticated
from hub_client.retry import Backoff

from tests.clients.python.scripted_hub import Conversations, Params, Refusal

EMAIL, PASSWORD = "me@example.org", "secret"
LOGIN = {"email": EMAIL, "password": PASSWORD}


class Accounts:
    """The sign-in of a scripted hub. Tokens are numbered; a refresh token works once."""

    def __init__(self, server: Conversations, life: float = 600.0) -> None:
        self.server = server
        self.life = life
        self.issued = 0
        self.refresh: str | None = None
        self.hold: asyncio.Event | None = None
        server.tokens = set()
        server.http |= {
            "/v1/auth/login": self.login,
            "/v1/auth/link": self.link,
            "/v1/auth/refresh": self.renew,
            "/v1/auth/logout": self.logout,
        }

    async def login(self, params: Params) -> Params:
        if params != LOGIN:
            raise Refusal(4010, "unauthenticated")
        return self.issue()

    async def link(self, params: Params) -> Params:
        return self.issue()

    async def renew(self, params: Params) -> Params:
        if self.hold is not None:
            await self.hold.wait()
        if params["refresh_token"] != self.refresh:
            raise Refusal(4010, "unauthenticated")
        return self.issue()

    async def logout(self, params: Params) -> Params:
        self.refresh = None
        return {}

    def issue(self) -> Params:
        self.issued += 1
        self.refresh = f"refresh-{self.issued}"
        self.server.tokens = {f"access-{self.issued}"}
        return {
            "access_token": f"access-{self.issued}",
            "refresh_token": self.refresh,
            "token_type": "bearer",
            "expires_in": self.life,
            "session_id": "s_1",
        }

    @property
    def ways(self) -> list[str]:
        return [path.rpartition("/")[2] for path, _ in self.server.posts]


@pytest.fixture
def accounts(server: Conversations) -> Accounts:
    return Accounts(server)


def auth(server: Conversations, how: str = "login") -> LoginAuth:
    body = LOGIN if how == "login" else {"code": "c"}
    return LoginAuth(parse_address(server.url), how, body)


async def test_a_password_signs_in_once_for_the_whole_connection(
    server: Conversations, accounts: Accounts
) -> None:
    async with connect(server.url, email=EMAIL, password=PASSWORD) as client:
        await client.ping()
    assert accounts.ways == ["login"]


async def test_a_wrong_password_raises_unauthenticated_and_leaves_nothing(
    server: Conversations, accounts: Accounts
) -> None:
    with pytest.raises(Unauthenticated):
        await connect(server.url, email="me@example.org", password="wrong")
    assert not [t for t in asyncio.all_tasks() if t.get_name().startswith("hub-")]


async def test_a_login_link_signs_in(server: Conversations, accounts: Accounts) -> None:
    async with connect(server.url, code="c-1") as client:
        await client.ping()
    assert server.posts == [("/v1/auth/link", {"code": "c-1"})]


async def test_the_token_is_renewed_on_the_open_socket_when_the_hub_says_it_expires(
    server: Conversations, accounts: Accounts
) -> None:
    async with connect(server.url, email=EMAIL, password=PASSWORD):
        peer = await server.joined.get()
        await peer.notify("session.expiring", {"expires_at": "2026-01-01T00:00:00Z"})
        assert await server.until("session.refresh") == {"token": "access-2"}
    assert server.joined.empty()


async def test_the_token_is_renewed_before_it_expires_without_a_word_of_the_hub(
    server: Conversations, accounts: Accounts
) -> None:
    accounts.life = 0.5
    async with connect(server.url, email=EMAIL, password=PASSWORD):
        before = time.monotonic()
        assert await server.until("session.refresh") == {"token": "access-2"}
        assert time.monotonic() - before < 0.5
        assert await server.until("session.refresh") == {"token": "access-3"}


async def test_a_close_for_an_expired_token_renews_it_and_reconnects(
    server: Conversations, accounts: Accounts
) -> None:
    async with connect(
        server.url, email=EMAIL, password=PASSWORD, backoff=Backoff(lambda: 0.0)
    ) as client:
        await server.joined.get()
        await server.close(4005, '{"reason":"token_expired"}')
        peer = await server.joined.get()
        assert peer.token == "access-2"
        await client.ping()
    assert accounts.ways == ["login", "refresh"]


async def test_a_token_that_cannot_be_renewed_ends_the_connection(server: Conversations) -> None:
    async with connect(server.url, token="t") as client:
        await server.joined.get()
        await server.close(4005)
        async with asyncio.timeout(5):
            await client.wait_closed()
        with pytest.raises(ConnectionClosed, match="token ran out"):
            await client.ping()


async def test_a_function_that_fails_to_answer_a_token_is_asked_again(
    server: Conversations, caplog: pytest.LogCaptureFixture
) -> None:
    answers = iter(["one", None, "two"])

    async def token() -> str:
        answer = next(answers)
        if answer is None:
            raise OSError("the vault is away")
        return answer

    async with connect(server.url, token=token, backoff=Backoff(lambda: 0.0)) as client:
        await server.joined.get()
        await server.cut()
        assert (await server.joined.get()).token == "two"
        await client.ping()
    assert "the function given as token failed" in caplog.text


async def test_a_function_that_answers_no_token_at_first_says_so(server: Conversations) -> None:
    async def token() -> str:
        raise OSError("no vault")

    with pytest.raises(ConnectFailed, match="no vault") as caught:
        await connect(server.url, token=token)
    assert isinstance(caught.value.__cause__, OSError)


async def test_one_refresh_at_a_time_however_many_ask(
    server: Conversations, accounts: Accounts
) -> None:
    source = auth(server)
    await source.access()
    tokens = await asyncio.gather(*(source.access(renew=True) for _ in range(5)))
    assert set(tokens) == {"access-2"}
    assert accounts.ways == ["login", "refresh"]
    await source.close()


async def test_a_refresh_whose_caller_left_is_finished_and_its_token_kept(
    server: Conversations, accounts: Accounts
) -> None:
    source = auth(server)
    await source.access()
    accounts.hold = asyncio.Event()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await source.access(renew=True)
    accounts.hold.set()
    assert await source.access(renew=True) == "access-2"
    assert await source.access(renew=True) == "access-3"
    assert accounts.ways == ["login", "refresh", "refresh"]
    await source.close()


async def test_a_login_session_that_was_ended_is_begun_anew_with_the_password(
    server: Conversations, accounts: Accounts
) -> None:
    source = auth(server)
    await source.access()
    accounts.refresh = "another"
    assert await source.access(renew=True) == "access-2"
    assert accounts.ways == ["login", "refresh", "login"]
    await source.close()


async def test_a_login_link_is_not_used_twice(server: Conversations, accounts: Accounts) -> None:
    source = auth(server, "link")
    await source.access()
    accounts.refresh = "another"
    for _ in range(2):
        with pytest.raises((Unauthenticated, TokenExpired)):
            await source.access(renew=True)
    assert accounts.ways.count("link") == 1
    await source.close()


async def test_logout_ends_the_session_and_the_connection(
    server: Conversations, accounts: Accounts
) -> None:
    client = await connect(server.url, email=EMAIL, password=PASSWORD)
    await client.logout()
    assert accounts.ways == ["login", "logout"]
    with pytest.raises(ConnectionClosed):
        await client.ping()


async def test_an_account_is_made(server: Conversations) -> None:
    async def answer(params: Params) -> Params:
        return {"user": {"id": "u_1", "email": params["email"]}, "tenant": {"id": "t_1"}}

    server.http["/v1/auth/register"] = answer
    made = await register(server.url, **LOGIN, name="Me")
    assert made["user"]["email"] == "me@example.org"
    assert server.posts == [("/v1/auth/register", LOGIN | {"name": "Me"})]


async def test_what_is_no_hub_is_said_to_be_none(server: Conversations) -> None:
    async def hello(params: Params) -> list[str]:
        return ["hello"]

    server.http["/v1/auth/login"] = hello
    with pytest.raises(ConnectFailed, match="is it a hub"):
        await connect(server.url, email=EMAIL, password=PASSWORD)


@pytest.mark.parametrize(
    "credentials",
    [{}, {"token": "t", "code": "c"}, {"email": "e"}, {"token": "t", **LOGIN}],
)
def test_connect_takes_exactly_one_credential(credentials: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="connect"):
        connect("http://127.0.0.1:8000", **credentials)  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://me:secret@x", "http://x?token=t"])
def test_an_address_that_cannot_be_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="hub"):
        connect(url, token="t")
