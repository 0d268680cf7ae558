"""A second factor that was lost: taken away by who reads a letter, whoever asked for it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from itertools import count
from typing import Final

import httpx
import pyotp
import pytest
import pytest_asyncio
from sqlmodel import col, select, update

from hub.faults import Fault
from hub.identity.sessions import throttle
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import AccountToken, AuditEntry, now
from tests.interaction.drivers import Refused, open_socket
from tests.parts.hub import PASSWORD, ServedHub, ServeHub, serving
from tests.parts.mail import MailServer, mail_serving
from tests.parts.scripted import ScriptedModel

pytestmark = pytest.mark.asyncio(loop_scope="module")

NEW: Final = "a better horse and battery"
ASKED, DONE = "factor.reset", "account.reset_factor"
_NUMBERS = count(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mail() -> AsyncIterator[MailServer]:
    async with mail_serving(MailServer()) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub(
    tmp_path_factory: pytest.TempPathFactory, scripted_model: ScriptedModel, mail: MailServer
) -> AsyncIterator[ServedHub]:
    """A hub that mails."""
    folder = tmp_path_factory.mktemp("hub") / ".hub"
    async with serving(
        folder, worker=False, OLLAMA_HOST=scripted_model.host, HUB_SMTP_URL=mail.url
    ) as served:
        yield served


async def post(hub: ServedHub, path: str, **body: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=hub.url, trust_env=False) as client:
        return await client.post(f"/v1/auth/{path}", json=body)


@dataclass
class Bob:
    """Somebody who has lost his second factor, if he has one: a member of ``main``, whose
    administrator has the ``token``, and of ``other``, if that is said.
    """

    hub: ServedHub
    user_id: str
    email: str
    main: str
    token: str
    other: str = ""

    async def ask(self) -> None:
        """Have the administrator ask for the letter."""
        async with open_socket(self.hub.ws_url, self.token) as admin:
            assert await admin.ask("factor.reset", {"user_id": self.user_id}) == {}

    async def show(self, token: str) -> int:
        """Open the link of a letter; the status."""
        return (await post(self.hub, "factor/reset", token=token)).status_code

    async def enrol(self) -> None:
        factors = self.hub.hub.services.factors
        secret = (await factors.enrol(self.user_id, self.main)).secret
        await factors.confirm(self.user_id, self.main, pyotp.TOTP(secret).now())

    async def protected(self) -> bool:
        """Whether his password alone does not let him in."""
        answer = await post(self.hub, "login", email=self.email, password=PASSWORD)
        if answer.is_success:
            return False
        assert answer.json()["error"]["data"]["reason"] == "second_factor_required"
        return True

    async def trail(self, tenant_id: str) -> list[str]:
        """What a tenant's trail says of it."""
        of = select(AuditEntry.action).where(
            AuditEntry.resource_id == self.user_id,
            AuditEntry.outcome == "done",
            col(AuditEntry.action).in_((ASKED, DONE)),
        )
        async with self.hub.hub.services.database.read(tenant_id) as session:
            return list((await session.exec(of.order_by(col(AuditEntry.seq)))).all())


async def bob_of(hub: ServedHub, *, enrolled: bool = True, elsewhere: bool = True) -> Bob:
    services, number = hub.hub.services, next(_NUMBERS)
    main, email = f"main-{number}", f"bob-{number}@hub.example"
    user, tenant = await services.accounts.create_user(email, PASSWORD, main, "member")
    admin = f"ada-{number}@hub.example"
    await services.accounts.create_user(admin, PASSWORD, main, "owner")
    answer = await post(hub, "login", email=admin, password=PASSWORD)
    bob = Bob(hub, user.id, email, tenant.id, str(answer.json()["access_token"]))
    if elsewhere:
        _, other = await services.accounts.create_user(
            f"eve-{number}@hub.example", PASSWORD, f"other-{number}", "owner"
        )
        await services.members.join(user.id, await services.accounts.invite(other.id, "owner"))
        bob.other = other.id
    if enrolled:
        await bob.enrol()
    return bob


async def test_who_reads_the_letter_does_without_the_factor_in_all_of_their_tenants(
    hub: ServedHub, mail: MailServer
) -> None:
    bob = await bob_of(hub)
    await bob.ask()
    token = await mail.token_to(bob.email, "factor")
    assert await bob.protected(), "an administrator alone takes nothing away"
    assert (await bob.trail(bob.main), await bob.trail(bob.other)) == ([ASKED], [])
    assert await bob.show(token) == 200
    assert not await bob.protected()
    assert (await bob.trail(bob.main), await bob.trail(bob.other)) == ([ASKED, DONE], [DONE])
    await bob.enrol()
    assert await bob.show(token) == 401, "it works once"
    assert await bob.protected()


async def test_the_letter_is_the_same_whether_there_is_a_factor_or_another_tenant_or_neither(
    hub: ServedHub, mail: MailServer
) -> None:
    letters = set()
    for enrolled, elsewhere in ((True, True), (True, False), (False, True), (False, False)):
        bob = await bob_of(hub, enrolled=enrolled, elsewhere=elsewhere)
        await bob.ask()
        text = (await mail.letter_to(bob.email)).get_content()
        said, _, rest = text.partition("/#factor=")
        token, _, more = rest.partition("\n")
        letters.add((said, more))
        assert await bob.show(token) == 200
        assert not await bob.protected()
        # Nor does the tenant learn by its trail whether there was one.
        assert await bob.trail(bob.main) == [ASKED, DONE]
    assert len(letters) == 1


async def test_a_token_that_many_show_at_once_is_good_once(hub: ServedHub) -> None:
    bob = await bob_of(hub)
    token = await hub.letter(bob.user_id, "factor")
    shown = await asyncio.gather(*(bob.show(token) for _ in range(8)))
    assert sorted(shown) == [200] + [401] * 7
    assert await bob.trail(bob.main) == await bob.trail(bob.other) == [DONE]


async def _reset(bob: Bob) -> None:
    proof = await bob.hub.letter(bob.user_id, "reset")
    assert (await post(bob.hub, "reset", token=proof, password=NEW)).status_code == 200


async def _move(bob: Bob) -> None:
    """And back."""
    moves = bob.hub.hub.services.moves
    for address in (f"a.{bob.email}", bob.email):
        await moves.set(bob.user_id, address)


async def _wait(bob: Bob) -> None:
    """Until the letter is too old."""
    theirs = col(AccountToken.user_id) == bob.user_id
    async with bob.hub.hub.services.database.write(EVERY_TENANT) as session:
        await session.exec(update(AccountToken).where(theirs).values(expires_at=now()))


async def _enrol_anew(bob: Bob) -> None:
    await bob.hub.hub.services.factor_resets.by_operator(bob.user_id)
    await bob.enrol()


async def _open_another(bob: Bob) -> None:
    """Letter, and have another factor."""
    assert await bob.show(await bob.hub.letter(bob.user_id, "factor")) == 200
    await bob.enrol()


Deed = Callable[[Bob], Awaitable[object]]
VOIDS: Final[dict[str, Deed]] = {
    "a password that is chosen by a letter": _reset,
    "a password that is changed": lambda bob: bob.hub.hub.services.recovery.change(
        bob.user_id, "", PASSWORD, NEW
    ),
    "a password that the operator sets": lambda bob: bob.hub.hub.services.recovery.set(
        bob.user_id, NEW
    ),
    "signing out everywhere": lambda bob: bob.hub.hub.services.accounts.logout_everywhere(
        bob.user_id
    ),
    "another address": _move,
    "a day": _wait,
    "a factor that is enrolled after it": _enrol_anew,
    "another letter": _open_another,
}


@pytest.mark.parametrize("what", VOIDS)
async def test_a_letter_is_void_after(hub: ServedHub, what: str) -> None:
    bob = await bob_of(hub, elsewhere=False)
    token = await hub.letter(bob.user_id, "factor")
    await VOIDS[what](bob)
    answer = await post(hub, "factor/reset", token=token)
    assert answer.status_code == 401
    assert "Ask for another" in answer.json()["error"]["message"]
    assert (await hub.hub.services.factors.state(bob.user_id)).confirmed_at is not None


async def test_a_letter_stays_good_whatever_a_tenant_does_about_its_member(
    hub: ServedHub, mail: MailServer
) -> None:
    bob = await bob_of(hub)
    token = await hub.letter(bob.user_id, "factor")
    async with open_socket(hub.ws_url, bob.token) as admin:
        for deed in ("user.sign_out", "user.reset_password", "user.disable", "member.remove"):
            await admin.ask(deed, {"user_id": bob.user_id})
    await mail.token_to(bob.email, "reset")
    assert await bob.show(token) == 200
    assert (await bob.trail(bob.main), await bob.trail(bob.other)) == ([], [DONE])


async def test_a_token_is_for_its_purpose_alone(hub: ServedHub) -> None:
    bob = await bob_of(hub, elsewhere=False)
    tokens = {each: await hub.letter(bob.user_id, each) for each in ("verify", "reset", "factor")}
    for other in ("verify", "reset"):
        assert await bob.show(tokens[other]) == 401
    assert (await post(hub, "verify", token=tokens["factor"])).status_code == 401
    reset = await post(hub, "reset", token=tokens["factor"], password=NEW)
    assert reset.status_code == 401
    assert await bob.protected()
    assert await bob.show(tokens["factor"]) == 200


async def test_letters_to_one_user_are_few_and_so_are_guesses_from_one_place(
    hub: ServedHub,
) -> None:
    bob = await bob_of(hub, elsewhere=False)
    for _ in range(throttle.OF_REQUESTS[1].burst):
        await bob.ask()
    with pytest.raises(Refused) as refusal:
        await bob.ask()
    assert refusal.value.reason == "rate_limited"
    assert refusal.value.details["retry_after_ms"] > 0
    resets, said = hub.hub.services.factor_resets, []
    for _ in range(throttle.OF_TOKENS.burst + 1):
        with pytest.raises(Fault) as caught:
            await resets.by_letter("no token", "198.51.100.7")
        said.append(caught.value.reason)
    assert said == ["unauthenticated"] * throttle.OF_TOKENS.burst + ["rate_limited"]


async def test_a_factor_that_is_enrolled_as_a_letter_is_opened_stays_or_was_never_there(
    serve_hub: ServeHub, postgres_url: str
) -> None:
    """And whoever takes the account back at that moment waits for neither without end."""
    async with serve_hub(worker=False, HUB_DATABASE_URL=postgres_url) as hub:
        services = hub.hub.services
        for _ in range(6):
            bob = await bob_of(hub, enrolled=False, elsewhere=False)
            secret = (await services.factors.enrol(bob.user_id, bob.main)).secret
            token = await hub.letter(bob.user_id, "factor")
            confirmed, opened, *others = await asyncio.gather(
                services.factors.confirm(bob.user_id, bob.main, pyotp.TOTP(secret).now()),
                services.factor_resets.by_letter(token, None),
                services.accounts.logout_everywhere(bob.user_id),
                services.moves.set(bob.user_id, f"a.{bob.email}"),
                return_exceptions=True,
            )
            assert not [each for each in others if isinstance(each, Exception)]
            if isinstance(opened, Fault):
                assert opened.reason == "unauthenticated"
                assert not isinstance(confirmed, Exception), confirmed
            if isinstance(confirmed, Fault):
                assert (confirmed.reason, opened) == ("conflict", None)
            state = await services.factors.state(bob.user_id)
            assert (state.confirmed_at is None) == isinstance(confirmed, Exception)
