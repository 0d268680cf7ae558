"""What was used, summed up: by day, model and user, page by page, on SQLite and PostgreSQL."""

from datetime import date
from typing import Any

import pytest
from sqlalchemy import event

from hub.ids import new_id
from hub.limits.usage import By, Used, report
from hub.storage.tables import Usage
from tests.limits.conftest import Desk, MakeDesk

DAYS = [date(2026, 11, day) for day in (1, 2, 3)]


async def _used(desk: Desk, user_id: str, day: date, model: str, tokens: int, **more: Any) -> None:
    row = Usage(
        **{"run_id": new_id("r"), **more}, id=new_id("us"), tenant_id=desk.actor.tenant_id,
        user_id=user_id, provider="ollama", model=model, input_tokens=tokens,
        output_tokens=2 * tokens, cost=10 * tokens, day=day,
    )  # fmt: skip
    async with desk.database.write(desk.actor.tenant_id) as session:
        session.add(row)


async def _report(desk: Desk, by: By, **more: Any) -> tuple[list[Used], Used]:
    more.setdefault("limit", 100)
    async with desk.database.read(desk.actor.tenant_id) as session:
        found, total = await report(
            session, by, more.pop("first", DAYS[0]), more.pop("last", DAYS[-1]), **more
        )
    return list(found), total


@pytest.fixture
async def told(desk: Desk, make_desk: MakeDesk) -> tuple[Desk, str, str]:
    """A tenant, two of its users, and what they have used; another tenant has used as well."""
    other = (await desk.colleague()).user_id
    me = desk.actor.user_id
    for day, model, user_id, tokens in (
        (DAYS[0], "a", me, 1),
        (DAYS[0], "b", me, 2),
        (DAYS[1], "a", other, 4),
        (DAYS[2], "a", me, 8),
    ):
        await _used(desk, user_id, day, model, tokens)
    elsewhere = await make_desk()
    await _used(elsewhere, elsewhere.actor.user_id, DAYS[0], "a", 1000)
    return desk, me, other


def _sum(key: str, runs: int, tokens: int) -> Used:
    return Used(key, runs, tokens, 2 * tokens, 10 * tokens)


async def test_usage_is_summed_by_day_model_and_user(told: tuple[Desk, str, str]) -> None:
    desk, me, other = told
    days = [_sum("2026-11-01", 2, 3), _sum("2026-11-02", 1, 4), _sum("2026-11-03", 1, 8)]
    assert await _report(desk, "day") == (days, _sum("", 4, 15))
    assert await _report(desk, "model") == ([_sum("a", 3, 13), _sum("b", 1, 2)], _sum("", 4, 15))
    users = sorted([_sum(me, 3, 11), _sum(other, 1, 4)], key=lambda used: used.key)
    assert await _report(desk, "user") == (users, _sum("", 4, 15))


async def test_usage_of_one_user_and_of_some_days(told: tuple[Desk, str, str]) -> None:
    desk, me, _ = told
    assert await _report(desk, "user", user_id=me) == ([_sum(me, 3, 11)], _sum("", 3, 11))
    some = await _report(desk, "model", first=DAYS[1], last=DAYS[2])
    assert some == ([_sum("a", 2, 12)], _sum("", 2, 12))
    assert await _report(desk, "day", first=date(2020, 1, 1), last=DAYS[0]) == (
        [_sum("2026-11-01", 2, 3)], _sum("", 2, 3)
    )  # fmt: skip


async def test_usage_of_one_key_and_by_key(desk: Desk) -> None:
    me = desk.actor.user_id
    keys = sorted(new_id("ak") for _ in range(2))
    for key_id, tokens in ((keys[0], 1), (keys[0], 2), (keys[1], 4), (None, 8)):
        await _used(desk, me, DAYS[0], "a", tokens, key_id=key_id)
    assert await _report(desk, "key") == (
        [_sum(keys[0], 2, 3), _sum(keys[1], 1, 4)], _sum("", 3, 7)
    )  # fmt: skip
    assert await _report(desk, "key", after=keys[0]) == ([_sum(keys[1], 1, 4)], _sum("", 3, 7))
    assert await _report(desk, "model", key_id=keys[0]) == ([_sum("a", 2, 3)], _sum("", 2, 3))


async def test_a_run_of_several_answers_is_one(desk: Desk) -> None:
    run_id = new_id("r")
    for model in ("a", "a", "b"):
        await _used(desk, desk.actor.user_id, DAYS[0], model, 1, run_id=run_id)
    assert await _report(desk, "day") == ([_sum("2026-11-01", 1, 3)], _sum("", 1, 3))
    assert (await _report(desk, "model"))[0] == [_sum("a", 1, 2), _sum("b", 1, 1)]


@pytest.mark.parametrize("by", ["day", "model", "user"])
async def test_the_pages_together_are_the_whole(told: tuple[Desk, str, str], by: By) -> None:
    desk = told[0]
    whole, total = await _report(desk, by)
    paged: list[Used] = []
    while True:
        after = paged[-1].key if paged else None
        page, same = await _report(desk, by, after=after, limit=1)
        assert same == total
        if not page:
            break
        paged += page
    assert paged == whole


async def test_what_is_no_key_is_no_cursor(desk: Desk) -> None:
    with pytest.raises(ValueError, match="nonsense"):
        await _report(desk, "day", after="nonsense")


async def test_a_report_reads_by_the_index(told: tuple[Desk, str, str]) -> None:
    desk, me, _ = told
    if not desk.database.embedded:
        pytest.skip("PostgreSQL reads a table as small as this one whole, and rightly")
    asked: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, parameters))

    engine = desk.database._reader.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    await _report(desk, "day")
    await _report(desk, "model", user_id=me)
    await _report(desk, "day", key_id=new_id("ak"))
    event.remove(engine, "before_cursor_execute", note)
    plans = []
    async with desk.database._reader.connect() as connection:
        for statement, parameters in asked:
            found = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.append(" ".join(str(tuple(row)) for row in found.all()))
    assert ["ix_usage_by_day" in plan for plan in plans[:2]] == [True, True], plans
    assert ["ix_usage_by_user" in plan for plan in plans[2:4]] == [True, True], plans
    assert ["ix_usage_by_key" in plan for plan in plans[4:]] == [True, True], plans
