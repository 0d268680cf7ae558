"""Quotas and usage, asked for through every transport."""

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.interaction.conftest import Person, World
from tests.interaction.drivers import Refused, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def _send(person: Person, conversation: str, content: str = "Hello there") -> str:
    params = {
        "conversation_id": conversation,
        "client_message_id": datetime.now(UTC).isoformat(),
        "content": content,
    }
    return str((await person.ask("message.send", params))["run_id"])


async def _answered(person: Person, run_id: str) -> dict[str, Any]:
    run: dict[str, Any] = {}

    async def ended() -> bool:
        run.update(await person.ask("run.get", {"run_id": run_id}))
        return run["status"] in ("succeeded", "failed", "cancelled")

    await eventually(ended)
    return run


async def _user(person: Person) -> str:
    return f"user:{(await person.ask('session.info'))['user_id']}"


async def test_a_quota_that_is_set_acts_on_the_next_message(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "member")
    conversation = await bob.conversation()
    assert (await bob.ask("quota.get", {"subject": "me"}))["quotas"] == []
    await _send(bob, conversation)
    subject = await _user(bob)
    answer = await ada.ask("quota.set", {"subject": subject, "quota": "requests.day", "limit": 2})
    (quota,) = answer["quotas"]
    assert (quota["limit"], quota["used"], quota["remaining"]) == (2, 1, 1)
    assert quota["source"] == "set"
    await _send(bob, conversation)
    with pytest.raises(Refused, match="quota_exceeded") as refusal:
        await _send(bob, conversation)
    assert refusal.value.details["limit"] == 2
    told = await bob.ask("quota.get", {"subject": "me"})
    assert told["subject"] == subject
    (quota,) = told["quotas"]
    assert (quota["quota"], quota["used"], quota["remaining"]) == ("requests.day", 2, 0)
    until = datetime.fromisoformat(quota["resets_at"]) - datetime.now(UTC)
    assert abs(until.total_seconds() * 1000 - refusal.value.details["retry_after_ms"]) < 60_000
    await ada.ask("quota.set", {"subject": subject, "quota": "requests.day", "limit": None})
    await _send(bob, conversation)


async def test_a_run_that_has_ended_makes_room_for_the_next(world: World) -> None:
    ada = await world.owner()
    await ada.ask("quota.set", {"subject": "me", "quota": "runs", "limit": 1})
    slow = await ada.conversation(model="stall")
    run = await _send(ada, slow)
    with pytest.raises(Refused, match="quota_exceeded") as refusal:
        await _send(ada, await ada.conversation())
    assert "retry_after_ms" not in refusal.value.details
    await ada.ask("run.cancel", {"run_id": run})
    await _answered(ada, run)
    await _answered(ada, await _send(ada, await ada.conversation()))


async def test_an_answer_that_was_cut_off_has_used_what_it_said(world: World) -> None:
    ada = await world.owner()
    await ada.ask("quota.set", {"subject": "me", "quota": "tokens.day", "limit": 100_000})
    conversation = await ada.conversation(model="stall")
    run_id = await _send(ada, conversation)

    async def said() -> bool:
        past = await ada.ask("channel.history", {"channel": f"conversation:{conversation}"})
        return any("three" in item["event"].get("delta", "") for item in past["items"])

    await eventually(said)
    await ada.ask("run.cancel", {"run_id": run_id})
    run = await _answered(ada, run_id)
    assert run["status"] == "cancelled"
    (usage,) = run["usage"]
    assert usage["input_tokens"] > 0
    assert usage["output_tokens"] > 0
    (quota,) = (await ada.ask("quota.get", {"subject": "me"}))["quotas"]
    assert quota["used"] == usage["input_tokens"] + usage["output_tokens"]
    assert quota["reserved"] == 0


async def test_the_quotas_that_were_set_are_listed_page_by_page(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "member")
    subject = await _user(bob)
    wanted = {(subject, "runs", 3), ("tenant", "tokens.month", 9), (subject, "budget.day", 7)}
    for whose, quota, limit in wanted:
        await ada.ask("quota.set", {"subject": whose, "quota": quota, "limit": limit})
    found, cursor = set(), None
    while True:
        page = await ada.ask("quota.list", {"limit": 1, **({"cursor": cursor} if cursor else {})})
        found |= {(item["subject"], item["quota"], item["limit"]) for item in page["items"]}
        cursor = page.get("next_cursor")
        if cursor is None:
            break
    assert found == wanted
    for role in ("viewer", "member"):
        someone = await world.colleague(ada, role)
        with pytest.raises(Refused, match="permission_denied"):
            await someone.ask("quota.list")
    operator = await world.colleague(ada, "operator")
    assert len((await operator.ask("quota.list"))["items"]) == 3


async def test_where_others_stand_is_for_who_may_read_it(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "member")
    operator = await world.colleague(ada, "operator")
    for subject in ("tenant", await _user(ada)):
        for method in ("quota.get", "usage.get"):
            with pytest.raises(Refused, match="not_found"):
                await bob.ask(method, {"subject": subject})
            assert (await operator.ask(method, {"subject": subject}))["subject"] == subject


async def test_who_is_not_above_sets_nothing(world: World) -> None:
    ada = await world.owner()
    admin = await world.colleague(ada, "admin")
    bob = await world.colleague(ada, "member")
    for subject in ("me", "tenant", await _user(ada)):
        with pytest.raises(Refused, match="permission_denied"):
            await admin.ask("quota.set", {"subject": subject, "quota": "runs", "limit": 9})
    with pytest.raises(Refused, match="permission_denied"):
        await bob.ask("quota.set", {"subject": "me", "quota": "runs", "limit": 9})
    await admin.ask("quota.set", {"subject": await _user(bob), "quota": "runs", "limit": 9})


async def test_usage_is_told_by_day_model_and_user(world: World) -> None:
    ada = await world.owner()
    bob = await world.colleague(ada, "member")
    ada_run = await _answered(ada, await _send(ada, await ada.conversation(), "one two"))
    bob_run = await _answered(bob, await _send(bob, await bob.conversation(), "one two three"))
    used = [run["usage"][0] for run in (ada_run, bob_run)]
    outputs = [usage["output_tokens"] for usage in used]
    mine = await bob.ask("usage.get")
    today = datetime.now(UTC).date().isoformat()
    assert mine["items"] == [{"day": today, **_sums(used[1:])}]
    assert (mine["total"], mine["subject"]) == (_sums(used[1:]), await _user(bob))
    whole = await ada.ask("usage.get", {"subject": "tenant", "by": "user"})
    assert sorted(item["output_tokens"] for item in whole["items"]) == sorted(outputs)
    assert whole["total"] == _sums(used)
    models = await ada.ask("usage.get", {"subject": "tenant", "by": "model"})
    assert models["items"] == [{"model": "echo", **_sums(used)}]
    past = {"first_day": "2020-01-01", "last_day": "2020-02-01"}
    assert (await ada.ask("usage.get", past))["items"] == []
    for bad in (
        {"first_day": "2026-01-02", "last_day": "2026-01-01"},
        {"first_day": "2020-01-01"},
        {"cursor": "nonsense"},
        {"subject": "key:k_1"},
    ):
        with pytest.raises(Refused, match="invalid_params"):
            await ada.ask("usage.get", bad)


def _sums(used: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "runs": len(used),
        "input_tokens": sum(usage["input_tokens"] for usage in used),
        "output_tokens": sum(usage["output_tokens"] for usage in used),
        "cost": 0,
    }


async def test_what_was_used_stays_used_when_its_conversation_is_deleted(world: World) -> None:
    ada = await world.owner()
    conversation = await ada.conversation()
    await _answered(ada, await _send(ada, conversation))
    before = await ada.ask("usage.get")
    assert before["total"]["runs"] == 1
    await ada.ask("conversation.delete", {"conversation_id": conversation})
    assert await ada.ask("usage.get") == before


async def test_an_api_key_has_quotas_of_its_own(world: World) -> None:
    ada, eve = await world.owner(), await world.owner()
    made = await ada.ask("apikey.create", {"name": "a bot"})
    subject = f"key:{made['id']}"
    conversation = await ada.conversation()
    bot = Person("", {}, (await world.transport.caller(made["key"])).ask)
    await ada.ask("quota.set", {"subject": subject, "quota": "requests.day", "limit": 1})
    run = await _send(bot, conversation)
    with pytest.raises(Refused, match="quota_exceeded") as refusal:
        await _send(bot, conversation)
    assert refusal.value.details["subject"] == "key"
    await _answered(ada, await _send(ada, conversation))  # their user's is another
    (usage,) = (await _answered(bot, run))["usage"]
    told = await bot.ask("usage.get", {"subject": subject})
    assert (told["subject"], told["total"]) == (subject, _sums([usage]))
    by_key = await ada.ask("usage.get", {"subject": "tenant", "by": "key"})
    assert by_key["items"] == [{"key_id": made["id"], **_sums([usage])}]
    assert (await ada.ask("usage.get"))["total"]["runs"] == 2
    (quota,) = (await bot.ask("quota.get", {"subject": subject}))["quotas"]
    assert (quota["used"], quota["remaining"]) == (1, 0)
    with pytest.raises(Refused, match="permission_denied"):
        await bot.ask("quota.set", {"subject": subject, "quota": "requests.day", "limit": 9})
    limit = {"quota": "runs", "limit": 1}
    for method, more in (("quota.get", {}), ("quota.set", limit), ("usage.get", {})):
        with pytest.raises(Refused, match="not_found"):
            await eve.ask(method, {"subject": subject, **more})
    admin = await world.colleague(ada, "admin")
    with pytest.raises(Refused, match="permission_denied"):
        await admin.ask("quota.set", {"subject": subject, "quota": "runs", "limit": 1})
