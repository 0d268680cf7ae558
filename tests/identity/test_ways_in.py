"""What somebody has left behind who had an account for a while, when it is taken back."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx
import orjson
import pyotp
import pytest
import pytest_asyncio
from sqlmodel import col, select

from hub.faults import Fault
from hub.identity.accounts import account_tokens
from hub.identity.keys.api_keys import Wanted
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import ApiKey, AuditEntry, User
from tests.interaction.drivers import open_socket
from tests.parts.hub import PASSWORD, ServedHub, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

NEW = "a better horse and battery"
_NUMBERS = count(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServedHub]:
    async with serving(tmp_path_factory.mktemp("hub") / ".hub", worker=False) as served:
        yield served


@dataclass
class LeftBehind:
    """A user with every way in there is."""

    hub: ServedHub
    user_id: str
    tenant_id: str
    access_token: str
    secret: str
    challenge: str
    link: str
    move: str
    letter: str
    key: str

    async def post(self, path: str, /, bearer: str = "", **body: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {bearer}"} if bearer else {}
        async with httpx.AsyncClient(base_url=self.hub.url, trust_env=False) as client:
            return await client.post(f"/v1/auth/{path}", json=body, headers=headers)

    async def reset(self, **more: bool) -> httpx.Response:
        proof = await self.hub.hub.services.recovery.reset_token(self.user_id)
        body: dict[str, Any] = {"token": proof, "password": NEW, **more}
        return await self.post("reset", **body)

    async def change(self, **more: bool) -> httpx.Response:
        body = {"current": PASSWORD, "password": NEW, **more}
        return await self.post("password", self.access_token, **body)

    async def logout(self, **more: bool) -> httpx.Response:
        return await self.post("logout", self.access_token, everywhere=True, **more)

    async def told(self, action: str) -> list[dict[str, Any]]:
        """The details of entries of the trail about the user."""
        of = select(AuditEntry.details).where(
            AuditEntry.resource_id == self.user_id, AuditEntry.action == action
        )
        async with self.hub.hub.services.database.read(self.tenant_id) as session:
            return [orjson.loads(each) for each in (await session.exec(of)).all()]

    async def open(self) -> set[str]:
        """Which of the ways are still open; each is tried."""
        link = await self.post("link", code=self.link)
        code = pyotp.TOTP(self.secret).at(int(time.time()) + 30)
        challenge = await self.post("factor", challenge=self.challenge, code=code)
        async with httpx.AsyncClient(base_url=self.hub.url, trust_env=False) as client:
            bearer = {"authorization": f"Bearer {self.key}"}
            key = await client.get("/v1/sessions/current", headers=bearer)
        asked_for_more = link.json()["error"]["data"]["reason"] == "second_factor_required"
        letter = await self.post("factor/reset", token=self.letter)
        move = await self.post("verify", token=self.move)
        tried = {"challenge": challenge, "letter": letter, "move": move, "key": key}
        ways = {way for way, answer in tried.items() if answer.is_success}
        return ways | ({"link"} if asked_for_more else set())


async def left_behind(hub: ServedHub) -> LeftBehind:
    services = hub.hub.services
    email = f"ada-{next(_NUMBERS)}@hub.example"
    session = await hub.sign_up(email)
    claims = services.tokens.read(session["access_token"])
    user_id, tenant_id = claims.user_id, claims.tenant_id
    secret = (await services.factors.enrol(user_id, tenant_id)).secret
    await services.factors.confirm(user_id, tenant_id, pyotp.TOTP(secret).now(), claims.session_id)
    with pytest.raises(Fault) as caught:
        await services.accounts.login(email, PASSWORD)
    _, key = await services.api_keys.create(None, user_id, tenant_id, Wanted("a bot"))
    async with services.database.write(EVERY_TENANT) as writing:
        user = await writing.get(User, user_id)
        assert user is not None
        move = account_tokens.make(writing, user, "move", address=f"eve.{email}")
    return LeftBehind(
        hub, user_id, tenant_id, session["access_token"], secret,
        challenge=caught.value.details["challenge"],
        link=await services.accounts.login_link(user_id, tenant_id),
        move=move,
        letter=await hub.letter(user_id, "factor"),
        key=key,
    )  # fmt: skip


async def test_every_way_is_open_that_is_closed_below(hub: ServedHub) -> None:
    ada = await left_behind(hub)
    assert await ada.open() == {"link", "challenge", "move", "letter", "key"}


@pytest.mark.parametrize(
    ("how", "action", "keys_stay"),
    [
        ("reset", "account.reset", False),
        ("change", "account.change_password", True),
        ("logout", "account.logout", True),
    ],
)
async def test_what_waits_to_become_a_session_ends_with_them_and_keys_as_it_is_said(
    hub: ServedHub, how: str, action: str, keys_stay: bool
) -> None:
    otherwise = {"keys": keys_stay}
    for said, stays in (({}, keys_stay), (otherwise, not keys_stay)):
        ada = await left_behind(hub)
        answer = await getattr(ada, how)(**said)
        assert answer.is_success, answer.text
        assert await ada.open() == ({"key"} if stays else set()), said
        (details,) = await ada.told(action)
        assert len(details.get("keys", [])) == (0 if stays else 1)


async def test_an_operator_who_sets_a_password_ends_all_of_it(hub: ServedHub) -> None:
    ada = await left_behind(hub)
    await hub.hub.services.recovery.set(ada.user_id, NEW)
    assert await ada.open() == set()


async def test_a_socket_of_a_key_closes_with_the_reset(hub: ServedHub) -> None:
    ada = await left_behind(hub)
    async with open_socket(hub.ws_url, ada.key) as socket:
        await socket.notice("session.ready")
        await ada.reset()
        await socket.notice("session.revoked", within=1)


async def test_a_tenant_that_signs_somebody_out_is_rid_of_what_waits_there_alone(
    hub: ServedHub,
) -> None:
    services = hub.hub.services
    _, other = await services.accounts.create_user("eve@other.example", PASSWORD, "other", "owner")
    for here in (True, False):
        ada = await left_behind(hub)
        await services.members.join(ada.user_id, await services.accounts.invite(other.id, "member"))
        await services.users.sign_out(ada.tenant_id if here else other.id, None, ada.user_id)
        stays = {"move", "letter", "key"} | (set() if here else {"link", "challenge"})
        assert await ada.open() == stays


async def test_keys_do_not_go_with_one_session(hub: ServedHub) -> None:
    ada = await left_behind(hub)
    answer = await ada.post("logout", ada.access_token, keys=True)
    assert answer.json()["error"]["data"]["reason"] == "invalid_params"
    assert await ada.open() == {"link", "challenge", "move", "letter", "key"}


async def test_no_key_is_made_by_a_session_that_has_ended_meanwhile(hub: ServedHub) -> None:
    ada = await left_behind(hub)
    services = hub.hub.services
    thief = await services.authority.actor(services.tokens.read(ada.access_token))
    makes = [
        services.api_keys.create(thief, ada.user_id, ada.tenant_id, Wanted(f"{at}"))
        for at in range(8)
    ]
    await asyncio.gather(*makes[:4], ada.reset(), *makes[4:], return_exceptions=True)
    with pytest.raises(Fault) as caught:
        await services.api_keys.create(thief, ada.user_id, ada.tenant_id, Wanted("late"))
    assert caught.value.reason == "unauthenticated"
    living = select(ApiKey.id).where(
        ApiKey.user_id == ada.user_id, col(ApiKey.revoked_at).is_(None)
    )
    async with services.database.read(EVERY_TENANT) as session:
        assert (await session.exec(living)).all() == []
