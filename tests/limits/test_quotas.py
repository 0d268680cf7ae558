"""Quotas of runs, on SQLite and PostgreSQL: reserved with the message, settled with the end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event, update
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.agents.run_state import RunEvent
from hub.backplane.interface import LeaseLost
from hub.faults import Fault
from hub.ids import new_id
from hub.limits import book
from hub.limits.ledger import NAMES, Account, QuotaName
from hub.limits.setting import Subject
from hub.storage.tables import Message, Quota, Run, Usage, now
from tests.limits.conftest import Desk, MakeDesk, used

PRICED = {"HUB_MODEL_PRICES": "dear=10/20,*=0/0"}


async def refused(desk: Desk, conversation: str, **how: Any) -> Fault:
    with pytest.raises(Fault, match="quota_exceeded") as refusal:
        await desk.send(conversation, **how)
    return refusal.value


@pytest.mark.parametrize(
    ("name", "whose"),
    [
        ("requests.day", "user"),
        ("runs", "tenant"),
        ("tokens.month", "user"),
        ("budget.day", "tenant"),
        ("budget.day", "key"),
    ],
)
async def test_of_a_hundred_that_ask_at_once_one_gets_a_budget_of_one(
    make_desk: MakeDesk, name: QuotaName, whose: str
) -> None:
    desk = await make_desk(**PRICED)
    bot = replace(desk.actor, session_id=new_id("ak"))
    subject = {"user": desk.me, "tenant": desk.tenant, "key": desk.key(bot)}[whose]
    await desk.set(name, 1, subject)
    conversations = [await desk.conversation("dear") for _ in range(10)]
    answers = await asyncio.gather(
        *(desk.send(conversations[at % 10], actor=bot) for at in range(100)),
        return_exceptions=True,
    )
    faults = [answer for answer in answers if isinstance(answer, Fault)]
    assert [fault.reason for fault in faults] == ["quota_exceeded"] * 99
    async with desk.database.read(desk.actor.tenant_id) as session:
        runs = (await session.exec(select(Run.id))).all()
        messages = (await session.exec(select(Message.id))).all()
    assert (len(runs), len(messages)) == (1, 1), "nothing is left of who was refused"
    assert sum(await desk.stands(name, subject)) == 1
    refusals = desk.metrics.quota_refusals.labels(whose, name)
    assert refusals._value.get() == 99


async def test_many_users_that_begin_at_once_share_what_the_tenant_has(desk: Desk) -> None:
    await desk.set("runs", 5, desk.tenant)
    people = [desk.actor, *[await desk.colleague() for _ in range(4)]]
    conversations = [await desk.conversation() for _ in range(10)]
    answers = await asyncio.gather(
        *(desk.send(conversations[at % 10], actor=people[at % 5]) for at in range(40)),
        return_exceptions=True,
    )
    assert sum(isinstance(answer, Fault) for answer in answers) == 35
    assert await desk.stands("runs", desk.tenant) == (0, 5)


async def test_a_refusal_says_what_is_used_up_and_when_to_come_back(desk: Desk) -> None:
    await desk.set("requests.day", 2)
    conversation = await desk.conversation()
    for _ in range(2):
        await desk.send(conversation)
    details = (await refused(desk, conversation)).details
    retry = details.pop("retry_after_ms")
    assert 0 < retry <= 86_400_000
    assert details == {
        "quota": "requests.day", "subject": "user", "limit": 2, "used": 2, "reserved": 0
    }  # fmt: skip
    await desk.set("runs", 1)
    await desk.set("requests.day", None)
    details = (await refused(desk, conversation)).details
    assert "retry_after_ms" not in details, "a run ends when it ends"


async def test_what_others_have_used_is_not_told(desk: Desk) -> None:
    await desk.set("requests.day", 1, desk.tenant)
    conversation = await desk.conversation()
    await desk.send(conversation, actor=await desk.colleague())
    details = (await refused(desk, conversation)).details
    assert set(details) == {"quota", "subject", "retry_after_ms"}


async def test_what_a_run_used_takes_the_place_of_what_it_had_reserved(
    make_desk: MakeDesk,
) -> None:
    desk = await make_desk(**PRICED, HUB_QUOTA_ANSWER_TOKENS="100")
    for name in NAMES:
        await desk.set(name, 1_000_000)
    conversation = await desk.conversation("dear")
    await desk.send(conversation, "Hello!")
    # 4 tokens of a message and 2 of its text, at 10; and 100 of the answer, at 20.
    asked, cost = 6 + 100, 6 * 10 + 100 * 20
    assert [await desk.stands(name) for name in NAMES] == [
        (1, 0), (1, 0), (0, 1), (0, asked), (0, asked), (0, cost), (0, cost)
    ]  # fmt: skip
    run = await desk.begin(conversation)
    assert await desk.finish(run, (30, 12), model="dear")
    tokens, cost = 42, 30 * 10 + 12 * 20
    assert [await desk.stands(name) for name in NAMES] == [
        (1, 0), (1, 0), (0, 0), (tokens, 0), (tokens, 0), (cost, 0), (cost, 0)
    ]  # fmt: skip
    async with desk.database.read(desk.actor.tenant_id) as session:
        assert (await session.exec(select(Usage.cost))).all() == [cost]


async def test_a_message_that_is_sent_again_reserves_nothing_more(desk: Desk) -> None:
    await desk.set("requests.day", 1)
    await desk.set("tokens.day", 10)
    conversation = await desk.conversation()
    answers = await asyncio.gather(*(desk.send(conversation, name="one") for _ in range(20)))
    assert len(set(answers)) == 1
    assert await desk.stands("requests.day") == (1, 0)
    assert await desk.stands("tokens.day") == (0, 10)


async def test_a_run_that_is_cancelled_before_it_began_gives_all_back(desk: Desk) -> None:
    await desk.set("runs", 1)
    await desk.set("tokens.day", 10)
    conversation = await desk.conversation()
    sent = await desk.send(conversation)
    await refused(desk, conversation)
    await desk.orchestrator.cancel(desk.actor.tenant_id, sent.run_id)
    await desk.orchestrator.cancel(desk.actor.tenant_id, sent.run_id)
    assert await desk.stands("tokens.day") == (0, 0)
    assert await desk.stands("runs") == (0, 0)
    await desk.send(conversation)


async def test_a_run_that_is_cancelled_under_way_is_settled_when_it_ends(desk: Desk) -> None:
    await desk.set("tokens.day", 1000)
    await desk.set("runs", 3)
    conversation = await desk.conversation()
    sent = await desk.send(conversation)
    run = await desk.begin(conversation)
    await desk.orchestrator.cancel(desk.actor.tenant_id, sent.run_id)
    assert await desk.stands("runs") == (0, 1)
    await desk.finish(run, (5, 5), RunEvent.CANCELLED)
    assert await desk.stands("runs") == (0, 0)
    assert await desk.stands("tokens.day") == (10, 0)


@pytest.mark.parametrize("begun", [False, True])
async def test_who_interrupts_takes_the_place_of_the_run_that_ends(desk: Desk, begun: bool) -> None:
    await desk.set("runs", 1)
    conversation = await desk.conversation()
    await desk.send(conversation)
    run = await desk.begin(conversation) if begun else None
    assert (await refused(desk, conversation)).details["quota"] == "runs"
    await desk.send(conversation, on_busy="interrupt")
    assert await desk.stands("runs") == (0, 1)
    if run is not None:
        await desk.finish(run, event=RunEvent.CANCELLED)
        assert await desk.stands("runs") == (0, 1), "the place is the second run's"


async def test_an_interrupt_that_is_refused_interrupts_nothing(desk: Desk) -> None:
    await desk.set("requests.day", 1)
    conversation = await desk.conversation()
    sent = await desk.send(conversation)
    await refused(desk, conversation, on_busy="interrupt")
    async with desk.database.read(desk.actor.tenant_id) as session:
        run = await session.get_one(Run, sent.run_id)
    assert run.status == "queued"


async def test_a_message_that_steers_is_a_request_and_reserves_more_for_its_run(
    make_desk: MakeDesk,
) -> None:
    desk = await make_desk(HUB_QUOTA_ANSWER_TOKENS="94")
    names: tuple[QuotaName, ...] = ("requests.day", "runs", "tokens.day")
    for name in names:
        await desk.set(name, 1000)
    conversation = await desk.conversation()
    sent = await desk.send(conversation, "Hello!")
    run = await desk.begin(conversation)
    assert (await desk.send(conversation, "Wait!!", on_busy="steer")).run_id == sent.run_id
    assert await desk.stands("requests.day") == (2, 0)
    assert await desk.stands("runs") == (0, 1)
    assert await desk.stands("tokens.day") == (0, 200)
    # The worker began it before it was steered, and ends all that is reserved.
    await desk.finish(run, (70, 7), RunEvent.FAILED)
    assert await desk.stands("runs") == (0, 0)
    assert await desk.stands("tokens.day") == (77, 0)


async def test_a_run_that_was_taken_over_is_settled_once(desk: Desk) -> None:
    await desk.set("tokens.day", 1000)
    await desk.set("runs", 3)
    conversation = await desk.conversation()
    await desk.send(conversation)
    lost, taken = await desk.begin(conversation), await desk.begin(conversation)
    ends = await asyncio.gather(
        desk.finish(lost, (500, 0)),
        *(desk.finish(taken, (10, 20)) for _ in range(5)),
        return_exceptions=True,
    )
    assert [end for end in ends if not isinstance(end, LeaseLost)] == [True]
    assert await desk.stands("tokens.day") == (30, 0)
    assert await desk.stands("runs") == (0, 0)


async def test_a_run_has_used_what_all_its_answers_took_and_those_of_lost_workers(
    make_desk: MakeDesk,
) -> None:
    desk = await make_desk(**PRICED)
    await desk.set("tokens.day", 100_000)
    await desk.set("budget.day", 100_000)
    conversation = await desk.conversation("dear")
    await desk.send(conversation)
    lost = await desk.begin(conversation)
    await desk.keep(lost, (10, 1), "dear")
    taken = await desk.begin(conversation)
    gone = used(taken, (20, 2), "dear")
    assert gone is not None
    assert await desk.orchestrator.count_lost(taken, gone)
    again = used(taken, (20, 2), "dear")
    assert again is not None
    again.id = gone.id
    assert not await desk.orchestrator.count_lost(taken, again), "it is counted already"
    with pytest.raises(LeaseLost):
        await desk.orchestrator.count_lost(lost, again)
    assert await desk.finish(taken, (30, 3), model="dear", number=1)
    assert await desk.stands("tokens.day") == (66, 0)
    assert await desk.stands("budget.day") == (60 * 10 + 6 * 20, 0)


async def test_a_model_that_costs_nothing_may_be_asked_when_the_budget_is_used_up(
    make_desk: MakeDesk,
) -> None:
    desk = await make_desk(**PRICED)
    await desk.set("budget.month", 1)
    conversation = await desk.conversation("free")
    await desk.send(conversation, model="dear")
    await refused(desk, conversation, model="dear")
    await desk.send(conversation)
    unnamed = await desk.conversation()
    await refused(desk, unnamed)  # which model it will be is not known: the dearest, perhaps


async def test_a_day_that_begins_begins_with_nothing_used(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.set("requests.day", 1)
    await desk.set("tokens.day", 100)
    conversation = await desk.conversation()
    await desk.send(conversation)
    run = await desk.begin(conversation)
    await refused(desk, conversation)
    tomorrow = now().replace(year=now().year + 1)
    monkeypatch.setattr(book, "now", lambda: tomorrow)
    await desk.send(conversation)
    async with desk.database.read(desk.actor.tenant_id) as session:
        account = Account(desk.actor.tenant_id, "user", desk.actor.user_id, "tokens.day")
        before = await session.get_one(Quota, account.id)
        # What yesterday's run used is yesterday's.
        await desk.finish(run, (60, 40))
        async with desk.database.read(desk.actor.tenant_id) as later:
            after = await later.get_one(Quota, account.id)
    assert (before.used, before.reserved) == (after.used, after.reserved) == (0, 100)


async def test_a_quota_that_is_set_later_counts_what_was_used_before(desk: Desk) -> None:
    conversation = await desk.conversation()
    for _ in range(3):
        await desk.send(conversation)
        run = await desk.begin(conversation)
        await desk.finish(run, (100, 20))
        await desk.orchestrator.announced([run.id])
    other = await desk.colleague()
    for subject in (desk.me, desk.tenant):
        await desk.set("tokens.day", 200, subject)
        await desk.set("requests.month", 4, subject)
        assert (await desk.standing("tokens.day", subject)).used == 360
        assert (await desk.standing("requests.month", subject)).used == 3
    theirs = Subject(desk.actor.tenant_id, "user", other.user_id)
    await desk.set("tokens.day", 200, theirs)
    assert await desk.stands("tokens.day", theirs) == (0, 0)
    assert (await desk.standing("tokens.day")).remaining == 0
    assert (await refused(desk, conversation)).details["used"] == 360


async def test_a_default_limits_who_has_no_quota_of_their_own(make_desk: MakeDesk) -> None:
    desk = await make_desk(HUB_QUOTA_USER="requests.day=1", HUB_QUOTA_TENANT="requests.day=3")
    conversation = await desk.conversation()
    assert (await desk.standing("requests.day")).source == "default"
    await desk.send(conversation)
    assert (await refused(desk, conversation)).details["subject"] == "user"
    await desk.set("requests.day", 0)  # no limit
    await desk.send(conversation)
    await desk.send(conversation)
    assert (await refused(desk, conversation)).details["subject"] == "tenant"
    await desk.set("requests.day", None)
    assert await desk.stands("requests.day") == (3, 0), "what was not counted was looked up"


async def test_other_tenants_quotas_are_others(desk: Desk, make_desk: MakeDesk) -> None:
    other = await make_desk()
    await other.set("requests.day", 1, other.tenant)
    await other.send(await other.conversation())
    conversation = await desk.conversation()
    await desk.send(conversation)
    await desk.send(conversation)


async def test_a_message_without_quotas_costs_no_question_about_them(desk: Desk) -> None:
    conversation = await desk.conversation()
    await desk.send(conversation)
    asked: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    engines = {desk.database._reader.sync_engine, desk.database._writer.sync_engine}
    for engine in engines:
        event.listen(engine, "before_cursor_execute", note)
    await desk.send(conversation)
    run = await desk.begin(conversation)
    await desk.finish(run, (3, 4))
    for engine in engines:
        event.remove(engine, "before_cursor_execute", note)
    assert asked
    assert not [statement for statement in asked if "quotas" in statement]


async def test_a_run_outlives_the_quota_it_was_counted_in(desk: Desk) -> None:
    await desk.set("runs", 1)
    conversation = await desk.conversation()
    await desk.send(conversation)
    run = await desk.begin(conversation)
    async with desk.database.write(desk.actor.tenant_id) as session:
        account = await session.get_one(Quota, desk.me.account("runs").id)
        await session.delete(account)
    await desk.quotas.changed(desk.actor.tenant_id)
    assert await desk.finish(run, (1, 1))


async def test_a_change_that_nobody_told_is_found_within_seconds(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.set("requests.day", 5)
    conversation = await desk.conversation()
    await desk.send(conversation)
    async with desk.database.write(desk.actor.tenant_id) as session:
        await session.exec(
            update(Quota)
            .where(col(Quota.id) == desk.me.account("requests.day").id)
            .values(amount=1)
        )
    await refused(desk, conversation, name=new_id("x"))  # the limit is what the row says now


async def test_a_quota_that_is_set_while_runs_are_under_way_counts_them(desk: Desk) -> None:
    theirs = await desk.colleague()
    conversations = [await desk.conversation() for _ in range(3)]
    await desk.send(conversations[0])
    await desk.send(conversations[1])
    await desk.send(conversations[2], actor=theirs)
    run = await desk.begin(conversations[0])
    await desk.set("runs", 2)
    await desk.set("tokens.day", 100_000, desk.tenant)
    assert await desk.stands("runs") == (0, 2)
    assert await desk.stands("tokens.day", desk.tenant) == (0, 3 * 1024)
    await refused(desk, conversations[2])
    await desk.finish(run, (3, 4))
    assert await desk.stands("runs") == (0, 1)
    assert await desk.stands("tokens.day", desk.tenant) == (7, 2 * 1024)
    await desk.send(conversations[2])


async def test_a_key_has_quotas_beside_those_of_its_user(make_desk: MakeDesk) -> None:
    desk = await make_desk(HUB_QUOTA_KEY="requests.day=1", HUB_QUOTA_USER="requests.day=3")
    keys = [replace(desk.actor, session_id=new_id("ak")) for _ in range(2)]
    conversation = await desk.conversation()
    for key in keys:
        await desk.send(conversation, actor=key)
        details = (await refused(desk, conversation, actor=key)).details
        assert (details["subject"], details["limit"]) == ("key", 1)
    await desk.send(conversation)
    assert (await refused(desk, conversation)).details["subject"] == "user"
    mine = desk.key(keys[0])
    await desk.set("requests.day", 2, mine)
    await desk.set("requests.day", 4)
    await desk.send(conversation, actor=keys[0])
    assert await desk.stands("requests.day", mine) == (2, 0)


@pytest.mark.parametrize("name", ["requests.day", "runs", "tokens.day", "budget.month"])
async def test_of_each_thing_a_key_may_have_less_than_its_user(
    make_desk: MakeDesk, name: QuotaName
) -> None:
    desk = await make_desk(**PRICED)
    bot, other = (replace(desk.actor, session_id=new_id("ak")) for _ in range(2))
    conversation = await desk.conversation("dear")
    await desk.send(conversation, actor=bot)
    run = await desk.begin(conversation)
    await desk.set(name, 50_000, desk.key(bot))
    used_at_once = name == "requests.day"
    assert (await desk.stands(name, desk.key(bot)))[1] > 0 or used_at_once, "it is under way"
    await desk.finish(run, (600, 40), model="dear")
    done = {"requests.day": 1, "runs": 0, "tokens.day": 640, "budget.month": 600 * 10 + 40 * 20}
    assert await desk.stands(name, desk.key(bot)) == (done[name], 0)
    # What was used before anybody counted is known, too.
    await desk.set(name, None, desk.key(bot))
    await desk.set(name, max(done[name], 1), desk.key(bot))
    assert await desk.stands(name, desk.key(bot)) == (done[name], 0)
    if name == "runs":
        await desk.send(conversation, actor=bot)
    refusal = (await refused(desk, conversation, actor=bot)).details
    assert (refusal["quota"], refusal["subject"]) == (name, "key")
    await desk.send(conversation, actor=other)
    await desk.send(conversation)


async def test_what_changes_while_it_is_looked_up_is_looked_up_again_and_others_are_not(
    make_desk: MakeDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = await make_desk()
    ours, quotas, read = desk.actor.tenant_id, desk.quotas, desk.database.read
    asked = 0

    @asynccontextmanager
    async def in_a_storm(scope: str) -> AsyncIterator[AsyncSession]:
        nonlocal asked
        asked += 1
        async with read(scope) as session:
            yield session
        await quotas.changed(ours if asked == 1 else new_id("t"))

    await desk.set("requests.day", 1)
    monkeypatch.setattr(desk.database, "read", in_a_storm)
    async with asyncio.timeout(5):
        allowance = await quotas.allowance(desk.actor)
    assert allowance is not None
    assert asked == 2
    assert not quotas._changed_since, "nothing is left of it"
