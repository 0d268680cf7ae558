"""Users whom an administrator makes and helps, and what they may of an account that others have."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, NamedTuple

import httpx
import pytest
import pytest_asyncio
from sqlmodel import col, select

from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import AuditEntry
from hub.storage.tenant_settings import TenantSettings
from tests.interaction.drivers import Refused, Socket, open_socket
from tests.parts.hub import PASSWORD, ServedHub, ServeHub, serving
from tests.parts.mail import MailServer, mail_serving
from tests.parts.scripted import ScriptedModel

pytestmark = pytest.mark.asyncio(loop_scope="module")

NEW = "a better horse and battery"
_NUMBERS = count(1)


class Names(NamedTuple):
    """What is called so in one test: two tenants, and the address of Bob."""

    main: str
    other: str
    bob: str


@pytest.fixture
def names() -> Names:
    number = next(_NUMBERS)
    return Names(f"main-{number}", f"other-{number}", f"bob-{number}@hub.example")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mail() -> AsyncIterator[MailServer]:
    async with mail_serving(MailServer()) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def open_hub(
    tmp_path_factory: pytest.TempPathFactory, scripted_model: ScriptedModel, mail: MailServer
) -> AsyncIterator[ServedHub]:
    """A hub that mails, where one signs in before an address is verified."""
    folder = tmp_path_factory.mktemp("hub") / ".hub"
    async with serving(
        folder, worker=False, OLLAMA_HOST=scripted_model.host, HUB_SMTP_URL=mail.url
    ) as served:
        yield served


@pytest_asyncio.fixture(loop_scope="module")
async def strict_hub(serve_hub: ServeHub, mail: MailServer) -> AsyncIterator[ServedHub]:
    """A hub that mails, and wants verified addresses."""
    async with serve_hub(
        HUB_SMTP_URL=mail.url,
        HUB_REQUIRE_VERIFIED="true",
        HUB_REGISTRATION="off",
        HUB_PUBLIC_URL="https://hub.example",
    ) as served:
        yield served


async def post(hub: ServedHub, path: str, **body: Any) -> httpx.Response:
    async with httpx.AsyncClient(base_url=hub.url, trust_env=False) as client:
        return await client.post(f"/v1/auth/{path}", json=body)


async def token_of(hub: ServedHub, email: str, password: str = PASSWORD, **more: str) -> str:
    answer = await post(hub, "login", email=email, password=password, **more)
    return str(answer.raise_for_status().json()["access_token"])


async def peopled(hub: ServedHub, role: str, tenant: str, email: str = "") -> str:
    """Somebody in a tenant, as the operator makes them: an access token."""
    email = email or f"{role}@{tenant}.example"
    await hub.hub.services.accounts.create_user(email, PASSWORD, tenant, role)
    return await token_of(hub, email)


async def reason(asked: Any) -> str:
    with pytest.raises(Refused) as caught:
        await asked
    return caught.value.reason


async def actions(hub: ServedHub, tenant: str) -> list[str]:
    """What a tenant's trail says was done to users."""
    services = hub.hub.services
    tenant_id = (await services.tenants.find(tenant)).id
    wanted = select(AuditEntry.action).where(
        AuditEntry.tenant_id == tenant_id,
        AuditEntry.outcome == "done",
        col(AuditEntry.action).startswith("user.") | (AuditEntry.action == "account.update"),
    )
    async with services.database.read(EVERY_TENANT) as session:
        found = (await session.exec(wanted.order_by(col(AuditEntry.seq)))).all()
    return [action for action in found if action != "user.create"]


async def in_two(hub: ServedHub, names: Names) -> str:
    """Bob, a member of both tenants: his id."""
    services = hub.hub.services
    bob, _ = await services.accounts.create_user(names.bob, PASSWORD, names.main, "member", "Bob")
    _, other = await services.accounts.create_user(
        f"x@{names.other}.example", PASSWORD, names.other, "owner"
    )
    code = await services.accounts.invite(other.id, "member")
    await services.members.join(bob.id, code)
    return bob.id


@asynccontextmanager
async def bob_in_two(
    hub: ServedHub, names: Names
) -> AsyncIterator[tuple[dict[str, str], Socket, Socket, Socket]]:
    """Bob, and sockets of an admin of the main tenant, of Bob there, and of Bob in the other."""
    bob = {"user_id": await in_two(hub, names)}
    here = await token_of(hub, names.bob, tenant=names.main)
    there = await token_of(hub, names.bob, tenant=names.other)
    token = await peopled(hub, "admin", names.main)
    async with (
        open_socket(hub.ws_url, token) as admin,
        open_socket(hub.ws_url, here) as in_main,
        open_socket(hub.ws_url, there) as in_other,
    ):
        await in_main.notice("session.ready")
        yield bob, admin, in_main, in_other


# --- making ---------------------------------------------------------------------------------------


async def test_who_is_made_is_a_member_at_once_and_comes_in_by_a_password_of_their_own(
    open_hub: ServedHub, mail: MailServer, names: Names
) -> None:
    token = await peopled(open_hub, "admin", names.main)
    async with open_socket(open_hub.ws_url, token) as admin:
        made = await admin.ask("user.create", {"email": names.bob.title(), "name": "Bob"})
        assert (made["user"]["email"], made["user"]["roles"]) == (names.bob, ["member"])
        listed = await admin.ask("user.list", {"email": names.bob})
        assert [user["id"] for user in listed["items"]] == [made["user"]["id"]]
        again = admin.ask("user.create", {"email": names.bob})
        assert await reason(again) == "conflict"
    proof = await mail.token_to(names.bob, "reset")
    assert (await post(open_hub, "login", email=names.bob, password=PASSWORD)).status_code == 401
    assert (await post(open_hub, "reset", token=proof, password=NEW)).status_code == 200
    async with open_socket(open_hub.ws_url, await token_of(open_hub, names.bob, NEW)) as bob:
        account = await bob.ask("account.get")
        assert (account["name"], "verified_at" in account) == ("Bob", True)


async def test_nobody_makes_a_user_above_them_or_of_an_address_that_the_tenant_does_not_take(
    open_hub: ServedHub, names: Names
) -> None:
    token = await peopled(open_hub, "admin", names.main)
    tenants = open_hub.hub.services.tenants
    main = await tenants.find(names.main)
    async with open_socket(open_hub.ws_url, token) as admin:

        async def refused(**params: str) -> str:
            return await reason(admin.ask("user.create", {"email": names.bob, **params}))

        assert await refused(role="owner") == "permission_denied"
        assert await refused(role="emperor") == "not_found"
        assert await refused(email=f"admin@{names.main}.example") == "conflict"
        assert await refused(password=NEW) == "invalid_params"
        settled = TenantSettings(invitation_domains=["corp.example"])
        await tenants.update(main.id, settled, by=None)
        assert await refused() == "conflict"
        assert [user["email"] for user in (await admin.ask("user.list"))["items"]] == [
            f"admin@{names.main}.example"
        ]


async def test_where_addresses_are_verified_nobody_learns_which_have_an_account(
    strict_hub: ServedHub, mail: MailServer, names: Names
) -> None:
    token = await peopled(strict_hub, "admin", names.main)
    await peopled(strict_hub, "owner", names.other, names.bob)
    async with open_socket(strict_hub.ws_url, token) as admin:
        answers = {
            email: await admin.ask("user.create", {"email": email, "role": "operator"})
            for email in (names.bob, f"new@{names.main}.example")
        }
        for answer in answers.values():
            assert set(answer) == {"invitation"}
            assert answer["invitation"]["role"] == "operator"
        assert set(answers[names.bob]["invitation"]) == set(
            answers[f"new@{names.main}.example"]["invitation"]
        )
        waiting = (await admin.ask("invitation.list"))["items"]
        assert {each["email"] for each in waiting} == set(answers)

        async def members() -> set[str]:
            return {user["email"] for user in (await admin.ask("user.list"))["items"]}

        assert await members() == {f"admin@{names.main}.example"}
        # Who is new comes in as they choose their password; who has an account, by the code.
        proof = await mail.token_to(f"new@{names.main}.example", "reset")
        assert (await post(strict_hub, "reset", token=proof, password=NEW)).status_code == 200
        assert await members() == {f"admin@{names.main}.example", f"new@{names.main}.example"}
        letter = (await mail.letter_to(names.bob, "invited")).get_content()
        code = letter.rstrip().rpartition("\n")[2]
        await token_of(strict_hub, names.bob, invitation=code)
        assert await members() == {
            f"admin@{names.main}.example",
            f"new@{names.main}.example",
            names.bob,
        }
        assert (await admin.ask("invitation.list"))["items"] == []


# --- helping --------------------------------------------------------------------------------------


async def test_a_password_is_chosen_by_whose_it_is_and_other_tenants_notice_nothing(
    open_hub: ServedHub, mail: MailServer, names: Names
) -> None:
    async with bob_in_two(open_hub, names) as (bob, admin, in_main, in_other):
        await admin.ask("user.reset_password", bob)
        assert (await in_main.notice("session.revoked", within=1))["reason"] == "session_revoked"
        await in_other.ask("session.info")
        # Nobody but Bob has the password, and nobody but he is sent the letter.
        await token_of(open_hub, names.bob)
        proof = await mail.token_to(names.bob, "reset")
        assert (await post(open_hub, "reset", token=proof, password=NEW)).status_code == 200
    await token_of(open_hub, names.bob, NEW)
    assert await actions(open_hub, names.main) == ["user.reset_password"]
    assert await actions(open_hub, names.other) == []


async def test_an_address_is_verified_by_who_reads_its_letters_and_by_no_administrator(
    open_hub: ServedHub, mail: MailServer, names: Names
) -> None:
    token = await peopled(open_hub, "admin", names.main)
    async with open_socket(open_hub.ws_url, token) as admin:
        made = await admin.ask("user.create", {"email": names.bob})
        bob = {"user_id": made["user"]["id"]}
        await admin.ask("user.verify", bob)
        assert "verified_at" not in await admin.ask("user.get", bob)
        proof = await mail.token_to(names.bob, "verify")
        assert (await post(open_hub, "verify", token=proof)).status_code == 200
        assert "verified_at" in await admin.ask("user.get", bob)


async def test_nobody_helps_a_senior_themselves_or_who_is_not_there(
    open_hub: ServedHub, mail: MailServer, names: Names
) -> None:
    services = open_hub.hub.services
    token = await peopled(open_hub, "admin", names.main)
    owner, _ = await services.accounts.create_user(
        f"o@{names.main}.example", PASSWORD, names.main, "owner"
    )
    eve, _ = await services.accounts.create_user(
        f"e@{names.main}.example", PASSWORD, names.other, "member"
    )
    async with open_socket(open_hub.ws_url, token) as admin:
        own = (await admin.ask("session.info"))["user_id"]
        service = (await admin.ask("service.create", {"name": "ticker"}))["id"]
        told: dict[str, list[str]] = {}
        for method in (
            "user.reset_password",
            "user.verify",
            "user.update",
            "user.sign_out",
            "factor.reset",
        ):
            more = {"name": "Changed"} if method == "user.update" else {}
            told[method] = [
                await reason(admin.ask(method, {"user_id": user_id, **more}))
                for user_id in (owner.id, own, eve.id)
            ]
            if method != "user.sign_out":
                named = {"user_id": service, **more}
                assert await reason(admin.ask(method, named)) == "conflict"
    for method, reasons in told.items():
        assert reasons == ["permission_denied", "conflict", "not_found"], method
    await services.recovery._mailing.sent()
    asked_of = {f"o@{names.main}.example", f"e@{names.main}.example"}
    assert not [letter for letter in mail.letters if letter["To"] in asked_of]
    assert await actions(open_hub, names.main) == []


async def test_letters_to_one_user_are_few(
    open_hub: ServedHub, mail: MailServer, names: Names
) -> None:
    token = await peopled(open_hub, "admin", names.main)
    async with open_socket(open_hub.ws_url, token) as admin:
        made = await admin.ask("user.create", {"email": names.bob})
        bob = {"user_id": made["user"]["id"]}
        for _ in range(4):
            await admin.ask("user.verify", bob)
        with pytest.raises(Refused) as caught:
            await admin.ask("user.verify", bob)
    assert caught.value.reason == "rate_limited"
    assert caught.value.details["retry_after_ms"] > 0


# --- names ----------------------------------------------------------------------------------------


async def named(socket: Socket) -> Any:
    return (await socket.ask("account.get")).get("name")


async def test_one_changes_ones_name_everywhere_and_each_tenant_notes_it(
    open_hub: ServedHub, names: Names
) -> None:
    await in_two(open_hub, names)
    async with open_socket(open_hub.ws_url, await token_of(open_hub, names.bob)) as bob:
        changed = await bob.ask("account.update", {"name": "Robert"})
        assert changed["name"] == await named(bob) == "Robert"
        assert await reason(bob.ask("account.update", {})) == "invalid_params"
        await bob.ask("account.update", {"name": None})
        assert await named(bob) is None
    for tenant in (names.main, names.other):
        assert await actions(open_hub, tenant) == ["account.update"] * 2


async def test_a_tenant_calls_its_users_as_it_likes_and_nobody_else_notices(
    open_hub: ServedHub, names: Names
) -> None:
    """Whoever else they are a member of."""
    bob = {"user_id": await in_two(open_hub, names)}
    other = await token_of(open_hub, f"x@{names.other}.example")
    token = await peopled(open_hub, "admin", names.main)
    async with (
        open_socket(open_hub.ws_url, token) as admin,
        open_socket(open_hub.ws_url, other) as abroad,
        open_socket(open_hub.ws_url, await token_of(open_hub, names.bob)) as himself,
    ):
        for name in ("Robert", "Bobby"):
            assert (await admin.ask("user.update", {**bob, "name": name}))["name"] == name
            assert (await admin.ask("user.get", bob))["name"] == name
        assert (await abroad.ask("user.get", bob))["name"] == "Bob"
        assert await named(himself) == "Bob"
        await himself.ask("account.update", {"name": "Bert"})
        assert (await admin.ask("user.get", bob))["name"] == "Bobby"
        assert (await abroad.ask("user.get", bob))["name"] == "Bert"
        assert (await admin.ask("user.update", {**bob, "name": None}))["name"] == "Bert"
        assert (await admin.ask("user.update", {**bob, "name": None}))["name"] == "Bert"
        made = await admin.ask("user.create", {"email": f"new@{names.main}.example"})
        of_new = {"user_id": made["user"]["id"]}
        assert (await admin.ask("user.update", {**of_new, "name": "Nell"}))["name"] == "Nell"
        assert "name" not in await admin.ask("user.update", {**of_new, "name": None})
    updates = [each for each in await actions(open_hub, names.main) if each == "user.update"]
    assert len(updates) == 6
    assert await actions(open_hub, names.other) == ["account.update"]


async def test_signing_a_user_out_is_of_the_tenant_alone(open_hub: ServedHub, names: Names) -> None:
    async with bob_in_two(open_hub, names) as (bob, admin, in_main, in_other):
        await admin.ask("user.sign_out", bob)
        assert (await in_main.notice("session.revoked", within=1))["reason"] == "session_revoked"
        await in_other.ask("session.info")
        assert (await admin.ask("user.sessions", bob))["items"] == []
    assert await actions(open_hub, names.main) == ["user.sign_out"]
