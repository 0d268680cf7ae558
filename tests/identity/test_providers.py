"""Signing in through a real identity provider, from the button to the session."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import orjson
import pyotp
import pytest
import pytest_asyncio
from sqlmodel import col, delete, select

from hub.audit.denials import OF_SOURCE
from hub.identity.keys.api_keys import Wanted
from hub.identity.providers.openid import OpenId
from hub.identity.providers.provisioning import Provisioning
from hub.identity.providers.redirects import Providers
from hub.identity.tokens.seal import seal_of
from hub.ids import new_id
from hub.settings import read_settings
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import (
    AuditEntry,
    DisabledMember,
    LoginSession,
    Membership,
    ProvidedRole,
    ProviderIdentity,
    Tenant,
    User,
)
from tests.parts.hub import PASSWORD, ServedHub, serving
from tests.parts.ports import free_port
from tests.parts.provider import NAME, SECRET, Browser, IdentityProvider, fragment
from tests.parts.scripted import ScriptedModel

pytestmark = pytest.mark.asyncio(loop_scope="module")

_NUMBERS = count(1)
RULES = ["groups=hub-admins:admin", "groups=hub-owners:owner", "groups=staff:member"]


@dataclass
class World:
    """A hub that knows the provider, and whoever is at it."""

    hub: ServedHub
    provider: IdentityProvider
    stack: AsyncExitStack

    @property
    def services(self) -> Any:
        return self.hub.hub.services

    def browser(self) -> Browser:
        client = httpx.AsyncClient(trust_env=False, timeout=20)
        self.stack.push_async_callback(client.aclose)
        return Browser(client)

    def somebody(self, **claims: Any) -> str:
        """Somebody new at the provider: their login."""
        login = f"person{next(_NUMBERS)}"
        self.provider.account(login, **claims)
        return login

    async def told(self, login: str, query: str = "", **more: Any) -> dict[str, str]:
        """What the web client is told at the end of a sign-in."""
        return fragment(await self.browser().sign_in(self.hub.url, login, query, **more))

    async def redeem(self, code: str) -> httpx.Response:
        client = httpx.AsyncClient(base_url=self.hub.url, trust_env=False)
        async with client:
            return await client.post("/v1/auth/link", json={"code": code})

    async def session(self, login: str, query: str = "") -> dict[str, Any]:
        told = await self.told(login, query)
        answer = await self.redeem(told["code"])
        session: dict[str, Any] = answer.raise_for_status().json()
        return session

    async def info(self, session: dict[str, Any]) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {session['access_token']}"}
        async with httpx.AsyncClient(base_url=self.hub.url, trust_env=False) as client:
            answer = await client.get("/v1/sessions/current", headers=headers)
            info: dict[str, Any] = answer.raise_for_status().json()
            return info

    async def roles(self, login: str, query: str = "") -> list[str]:
        return list((await self.info(await self.session(login, query)))["roles"])

    def configure(self, **more: Any) -> None:
        """Other rules for the provider, as if the hub had been started with them."""
        services = self.services
        settings = read_settings(HUB_OIDC_PROVIDERS=self.provider.settings(**more))
        known: OpenId = services.providers._known[NAME]
        known.provider = settings.providers[0]

    async def user(self, login: str) -> User | None:
        async with self.services.database.read(EVERY_TENANT) as session:
            address = User.email == f"{login}@corp.example"
            found: User | None = (await session.exec(select(User).where(address))).first()
            return found

    async def refusals(self, kind: str, id: str) -> list[tuple[str, str, str, str | None]]:
        """What the trails tell of sign-ins that were refused: tenant, outcome, reason, address."""
        await self.services.audit.denials.written()
        async with self.services.database.read(EVERY_TENANT) as session:
            rows = await session.exec(
                select(AuditEntry)
                .where(AuditEntry.resource_kind == kind, AuditEntry.resource_id == id)
                .where(AuditEntry.action == "provider.sign_in", AuditEntry.outcome != "done")
                .order_by(col(AuditEntry.seq))
            )
            return [
                (row.tenant_id, row.outcome, orjson.loads(row.details)["reason"], row.address)
                for row in rows.all()
            ]

    async def tenant(self, name: str) -> str:
        async with self.services.database.read(EVERY_TENANT) as session:
            return str((await session.exec(select(Tenant.id).where(Tenant.name == name))).one())

    async def audited(self, user_id: str) -> list[str]:
        async with self.services.database.read(EVERY_TENANT) as session:
            statement = select(AuditEntry.action).where(
                AuditEntry.resource_id == user_id, AuditEntry.actor_id == user_id
            )
            return list((await session.exec(statement.order_by(col(AuditEntry.seq)))).all())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(
    tmp_path_factory: pytest.TempPathFactory,
    scripted_model: ScriptedModel,
    identity_provider: IdentityProvider,
) -> AsyncIterator[tuple[ServedHub, IdentityProvider]]:
    folder = tmp_path_factory.mktemp("hub")
    providers, model = identity_provider.settings(), scripted_model.host
    with pytest.MonkeyPatch.context() as patch:
        # All of them come from one address, which is more than one source is noted of.
        patch.setattr("hub.audit.denials.OF_SOURCE", dict.fromkeys(OF_SOURCE, (1_000, 1.0)))
        async with serving(folder / ".hub", OLLAMA_HOST=model, HUB_OIDC_PROVIDERS=providers) as hub:
            await hub.hub.services.accounts.ensure_administrator()
            identity_provider.start(hub.url)
            yield hub, identity_provider


@pytest_asyncio.fixture(loop_scope="module")
async def world(house: tuple[ServedHub, IdentityProvider]) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        world = World(*house, stack)
        world.configure()
        yield world


# --- the way there and back -----------------------------------------------------------------------


async def test_somebody_new_signs_in_and_is_a_member(world: World) -> None:
    login = world.somebody(name="Ada Lovelace")
    info = await world.info(await world.session(login))
    assert info["roles"] == ["member"]
    user = await world.user(login)
    assert user is not None
    assert (user.id, user.name, user.password_hash) == (info["user_id"], "Ada Lovelace", None)
    assert await world.audited(user.id) == ["user.create", "provider.grant", "provider.sign_in"]


async def test_the_same_person_is_the_same_user_whatever_their_address_is_now(
    world: World,
) -> None:
    login = world.somebody()
    first = await world.info(await world.session(login))
    world.provider.account(login, email="another@corp.example", email_verified=False)
    again = await world.info(await world.session(login))
    assert again["user_id"] == first["user_id"]


async def test_no_token_and_no_secret_is_in_any_address(world: World) -> None:
    browser = world.browser()
    login = world.somebody()
    code = fragment(await browser.sign_in(world.hub.url, login))["code"]
    session = (await world.redeem(code)).json()
    for url in browser.seen:
        for secret in (session["access_token"], session["refresh_token"], SECRET, "eyJ"):
            assert secret not in url
    (asked,) = [parse_qs(urlsplit(url).query) for url in browser.seen if "/auth?" in url]
    assert asked["code_challenge_method"] == ["S256"]


async def test_the_code_works_once(world: World) -> None:
    code = (await world.told(world.somebody()))["code"]
    assert (await world.redeem(code)).status_code == 200
    assert (await world.redeem(code)).status_code == 401


async def test_an_answer_that_comes_twice_is_refused(world: World) -> None:
    browser = world.browser()
    login = world.somebody()
    await browser.sign_in(world.hub.url, login)
    (back,) = [url for url in browser.seen if "/callback?" in url]
    answer = await browser.client.get(back, headers={"accept": "text/html"})
    assert fragment(answer.headers["location"]) == {"problem": "unauthenticated"}


async def test_another_browser_cannot_finish_what_one_began(world: World) -> None:
    browser = world.browser()
    start = f"{world.hub.url}/v1/auth/oidc/{NAME}/start"
    back = await browser.until(start, lambda url: "/callback?" in url, world.somebody())
    answer = await world.browser().client.get(back)
    assert answer.status_code == 401
    assert answer.json()["error"]["data"]["reason"] == "unauthenticated"
    cookies = {cookie.name: cookie for cookie in browser.client.cookies.jar}
    ours = next(cookie for name, cookie in cookies.items() if name.startswith("hub_sign_in_"))
    assert ours.has_nonstandard_attr("HttpOnly")
    assert ours.path == "/v1/auth/oidc"
    wrong = back.replace("state=", "state=x")
    assert (await browser.client.get(wrong)).status_code == 401
    finished = await browser.client.get(back)
    assert "code" in fragment(finished.headers["location"])


async def test_two_tabs_may_be_on_their_way_at_once(world: World) -> None:
    browser = world.browser()
    login = world.somebody()
    start = f"{world.hub.url}/v1/auth/oidc/{NAME}/start"
    backs = [await browser.until(start, lambda url: "/callback?" in url, login) for _ in range(2)]
    for back in backs:
        assert "code" in fragment((await browser.client.get(back)).headers["location"])


async def test_who_cancels_at_the_provider_is_told_so(world: World) -> None:
    assert await world.told(world.somebody(), cancel=True) == {"problem": "permission_denied"}


async def test_a_provider_that_is_not_there_is_not_found(world: World) -> None:
    client = world.browser().client
    for part in ("start", "callback"):
        answer = await client.get(f"{world.hub.url}/v1/auth/oidc/none/{part}")
        assert answer.status_code in (401, 404)


async def test_the_buttons_are_told(world: World) -> None:
    answer = await world.browser().client.get(f"{world.hub.url}/v1/providers")
    start = f"/v1/auth/oidc/{NAME}/start"
    assert answer.json() == {"items": [{"name": NAME, "label": "Main Street", "start": start}]}


async def test_the_providers_new_keys_are_taken(world: World) -> None:
    login = world.somebody()
    await world.session(login)
    await asyncio.to_thread(world.provider.start, world.hub.url)
    await world.session(login)


# --- what the claims give -------------------------------------------------------------------------


async def test_the_mapping_is_applied_at_each_sign_in(world: World) -> None:
    world.configure(role=None, roles=RULES)
    login = world.somebody(groups=["hub-admins", "staff"])
    session = await world.session(login)
    assert (await world.info(session))["roles"] == ["admin", "member"]
    world.provider.account(login, groups=["staff"])
    assert await world.roles(login) == ["member"]
    assert (await world.info(session))["roles"] == ["member"]  # the older session too
    world.provider.account(login, groups=[])
    assert await world.told(login) == {"problem": "permission_denied"}
    user = await world.user(login)
    assert user is not None
    async with world.services.database.read(EVERY_TENANT) as session_:
        left = await session_.exec(select(Membership).where(Membership.user_id == user.id))
        assert left.all() == []


async def test_nobody_gets_more_than_the_ceiling(world: World) -> None:
    world.configure(role=None, roles=RULES)
    login = world.somebody(groups=["hub-owners"])
    assert await world.roles(login) == ["admin"]
    world.configure(role=None, roles=RULES, ceiling="viewer")
    assert await world.roles(login) == ["viewer"]


async def test_a_role_that_was_given_by_hand_stays(world: World) -> None:
    world.configure(role=None, roles=RULES)
    login = world.somebody(groups=["staff"])
    info = await world.info(await world.session(login))
    async with world.services.database.write(EVERY_TENANT) as session:
        by_hand = {"user_id": info["user_id"], "tenant_id": info["tenant_id"]}
        session.add(Membership(id=new_id("ms"), role_id="operator", **by_hand))
    assert await world.roles(login) == ["member", "operator"]
    world.provider.account(login, groups=["hub-admins"])
    assert await world.roles(login) == ["admin", "operator"]


async def test_the_last_owner_of_a_tenant_stays_one(world: World) -> None:
    rules = ["groups=owners:owner@made", "groups=staff:member@made"]
    async with world.services.database.write(EVERY_TENANT) as session:
        session.add(Tenant(id=new_id("t"), name="made"))
    world.configure(role=None, roles=rules, ceiling="owner")
    login = world.somebody(groups=["owners"])
    assert await world.roles(login) == ["owner"]
    world.provider.account(login, groups=["staff"])
    assert await world.roles(login) == ["member", "owner"]
    other = world.somebody(groups=["owners"])
    there = await world.info(await world.session(other))
    # Whom the tenant has disabled is no owner to leave it to.
    disabled = {"user_id": there["user_id"], "tenant_id": there["tenant_id"]}
    async with world.services.database.write(EVERY_TENANT) as session:
        session.add(DisabledMember(**disabled))
    assert await world.roles(login) == ["member", "owner"]
    async with world.services.database.write(EVERY_TENANT) as session:
        await session.exec(delete(DisabledMember))
    assert await world.roles(login) == ["member"]


async def test_who_was_removed_and_comes_back_comes_by_a_new_session_alone(world: World) -> None:
    login = world.somebody()
    before = await world.session(login)
    info = await world.info(before)
    await world.services.members.remove(info["tenant_id"], info["user_id"], by=None)
    assert (await world.info(await world.session(login)))["user_id"] == info["user_id"]
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        await world.info(before)


async def test_claims_may_lead_to_several_tenants_of_which_one_chooses(world: World) -> None:
    second = new_id("t")
    async with world.services.database.write(EVERY_TENANT) as session:
        session.add(Tenant(id=second, name="second"))
    world.configure(role="member", roles=["groups=ops:operator@second", "groups=ops:viewer"])
    login = world.somebody(groups=["ops"])
    assert (await world.info(await world.session(login)))["tenant_id"] == second
    assert await world.roles(login, "?tenant=default") == ["viewer"]
    assert await world.told(login, "?tenant=elsewhere") == {"problem": "permission_denied"}


async def test_a_rule_that_gives_what_is_not_there_gives_nothing(world: World) -> None:
    world.configure(role=None, roles=["groups=staff:member@nowhere", "groups=staff:none"])
    login = world.somebody(groups=["staff"])
    assert await world.told(login) == {"problem": "permission_denied"}
    assert await world.user(login) is None


# --- who comes in ---------------------------------------------------------------------------------


async def test_only_addresses_of_the_allowed_domains_come_in(world: World) -> None:
    world.configure(domains=["corp.example"])
    await world.session(world.somebody())
    stranger = world.somebody(email="stranger@elsewhere.example")
    assert await world.told(stranger) == {"problem": "permission_denied"}
    unsure = world.somebody(email_verified=False)
    assert await world.told(unsure) == {"problem": "permission_denied"}


async def test_unknown_users_are_not_made_where_that_is_off(world: World) -> None:
    world.configure(create=False)
    login = world.somebody()
    assert await world.told(login) == {"problem": "permission_denied"}
    assert await world.user(login) is None


async def test_an_account_is_linked_by_its_verified_address_where_that_is_on(
    world: World,
) -> None:
    login = world.somebody()
    email = f"{login}@corp.example"
    squatter = await world.hub.sign_up(email)
    claims = world.services.tokens.read(squatter["access_token"])
    theirs = (claims.user_id, claims.tenant_id)
    _, key = await world.services.api_keys.create(None, *theirs, Wanted("a way back"))
    link = await world.services.accounts.login_link(*theirs)
    assert (await world.info({"access_token": key}))["user_id"] == claims.user_id
    assert await world.told(login) == {"problem": "conflict"}
    world.configure(link=True)
    world.provider.account(login, email_verified=False)
    assert await world.told(login) == {"problem": "permission_denied"}
    world.provider.account(login)
    info = await world.info(await world.session(login))
    assert info["user_id"] == claims.user_id
    # Whoever registered the address had never shown that it is theirs.
    for token in (squatter["access_token"], key):
        with pytest.raises(httpx.HTTPStatusError, match="401"):
            await world.info({"access_token": token})
    assert (await world.redeem(link)).status_code == 401
    async with httpx.AsyncClient(base_url=world.hub.url, trust_env=False) as client:
        account = {"email": email, "password": PASSWORD}
        assert (await client.post("/v1/auth/login", json=account)).status_code == 401
    told = await world.audited(info["user_id"])
    assert {"provider.link", "provider.take_over"} <= set(told)


async def test_who_has_shown_here_that_the_address_is_theirs_keeps_the_password(
    world: World,
) -> None:
    login = world.somebody()
    email = f"{login}@corp.example"
    _, tenant = await world.services.accounts.create_user(email, PASSWORD, "default", "viewer")
    world.configure(link=True)
    assert await world.roles(login) == ["member", "viewer"]
    async with httpx.AsyncClient(base_url=world.hub.url, trust_env=False) as client:
        account = {"email": email, "password": PASSWORD, "tenant": tenant.id}
        assert (await client.post("/v1/auth/login", json=account)).status_code == 200


async def test_two_first_sign_ins_at_once_make_one_user(world: World) -> None:
    login = world.somebody()
    told = await asyncio.gather(*(world.told(login) for _ in range(3)))
    assert all("code" in each for each in told)
    async with world.services.database.read(EVERY_TENANT) as session:
        of = ProviderIdentity.subject == login
        (identity,) = (await session.exec(select(ProviderIdentity).where(of))).all()
        given = ProvidedRole.user_id == identity.user_id
        assert len((await session.exec(select(ProvidedRole).where(given))).all()) == 1


# --- who does not, in the trail -------------------------------------------------------------------


async def test_who_is_refused_is_in_the_trail_of_the_tenant_that_they_would_have_entered(
    world: World,
) -> None:
    world.configure(role=None, roles=RULES)
    login = world.somebody(groups=["staff"])
    info = await world.info(await world.session(login))
    world.provider.account(login, groups=[])
    assert await world.told(login) == {"problem": "permission_denied"}
    denied = (info["tenant_id"], "denied", "permission_denied", "127.0.0.1")
    assert await world.refusals("user", info["user_id"]) == [denied]


async def test_who_has_an_account_that_is_not_linked_is_told_of_where_it_is(world: World) -> None:
    login = world.somebody()
    session = await world.hub.sign_up(f"{login}@corp.example")
    claims = world.services.tokens.read(session["access_token"])
    assert await world.told(login) == {"problem": "conflict"}
    denied = (claims.tenant_id, "denied", "conflict", "127.0.0.1")
    assert await world.refusals("user", claims.user_id) == [denied]


async def test_what_came_to_no_name_is_the_operators_to_know(world: World) -> None:
    home = await world.tenant("default")
    before = len(await world.refusals("provider", NAME))
    assert await world.told(world.somebody(), cancel=True) == {"problem": "permission_denied"}
    back = f"{world.hub.url}/v1/auth/oidc/{NAME}/callback?state=made-up&code=none"
    assert (await world.browser().client.get(back)).status_code == 401
    told = (await world.refusals("provider", NAME))[before:]
    address = "127.0.0.1"
    assert told == [
        (home, "denied", "permission_denied", address), (home, "failed", "unauthenticated", address)
    ]  # fmt: skip


# --- the second factor ----------------------------------------------------------------------------


async def test_the_hubs_second_factor_is_asked_for_too_unless_the_providers_is_enough(
    world: World,
) -> None:
    login = world.somebody()
    session = await world.session(login)
    claims = world.services.tokens.read(session["access_token"])
    factors = world.services.factors
    secret = (await factors.enrol(claims.user_id, claims.tenant_id)).secret
    await factors.confirm(claims.user_id, claims.tenant_id, pyotp.TOTP(secret).now())
    answer = await world.redeem((await world.told(login))["code"])
    assert answer.status_code == 401
    assert answer.json()["error"]["data"]["reason"] == "second_factor_required"
    world.configure(second_factor="provider")
    session = await world.session(login)
    async with world.services.database.read(EVERY_TENANT) as reading:
        row = await reading.get(LoginSession, session["session_id"])
        assert row.second_factor == "provider"


# --- when the provider is away --------------------------------------------------------------------


async def test_a_provider_that_is_away_is_said_to_be(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = read_settings(
        HUB_DATA_DIR=str(tmp_path),
        HUB_OIDC_PROVIDERS=IdentityProvider(tmp_path, free_port()).settings(),
    )
    services = world.services
    provisioning = Provisioning(
        services.database, services.accounts.login_sessions, changed=services.authority.changed
    )
    away = Providers(settings.providers, settings.url, seal_of(settings), provisioning)
    known, services.providers._known = services.providers._known, away._known
    try:
        start = f"{world.hub.url}/v1/auth/oidc/{NAME}/start"
        client = world.browser().client
        answer = await client.get(start)
        assert answer.status_code == 503
        assert answer.json()["error"]["data"]["retryable"] is True
        shown = await client.get(start, headers={"accept": "text/html"})
        assert fragment(shown.headers["location"]) == {"problem": "backend_unavailable"}
    finally:
        services.providers._known = known
        await away.close()
    assert SECRET not in caplog.text
