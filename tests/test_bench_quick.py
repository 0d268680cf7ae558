"""Those benchmarks that are no others' smoke: each runs, briefly, and its table is what it says.

``tests/test_bench.py`` has those that are run by their command. Nothing here judges a time.
"""

import re
from collections.abc import Sequence
from typing import Any

import pytest

from tests.bench.across import across
from tests.bench.append import append
from tests.bench.audit import audit
from tests.bench.backs import EMBEDDED, backs
from tests.bench.first_token import first_token
from tests.bench.idle import idle
from tests.bench.report import Table
from tests.bench.soak import haste, soak
from tests.bench.stall import stall
from tests.bench.tokens import tokens

CENSUS = ("private memory, MiB", "resident memory, MiB", "tasks", "descriptors", "threads")


def _rows(table: Table) -> dict[str, dict[str, Any]]:
    """By their names, and by the names of the columns: of two alike the second. As many cells as
    columns, and all of them shown.
    """
    for row in table.rows:
        assert len(row) == len(table.columns)
        assert str(row[0]) in table.text()
    rows = {str(row[0]): dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert len(rows) == len(table.rows)
    return rows


def _positive(rows: Sequence[dict[str, Any]], *columns: str) -> None:
    for row in rows:
        for column in columns:
            assert row[column] > 0, (row, column)


def test_idle_connections_take_memory_beside_an_echos() -> None:
    [table] = idle(quick=True)
    rows = _rows(table)
    floor, hub, subscribed = rows
    assert floor.startswith("floor: ")
    assert "authenticated" in hub
    assert "subscription" in subscribed
    assert rows[floor]["x floor"] == 1
    _positive(list(rows.values()), "connections", "KiB each", "x floor", "MiB before")
    for row in rows.values():
        assert row["MiB after"] > row["MiB before"]


@pytest.mark.usefixtures("redis_installed")
def test_an_append_costs_something_in_memory_on_redis_and_bare() -> None:
    [table] = append(quick=True)
    by_writers: dict[int, dict[str, Any]] = {}
    for row in table.rows:
        by_writers.setdefault(row[1], {})[row[0]] = dict(zip(table.columns, row, strict=True))
    assert set(by_writers) == {1, 100}
    for rows in by_writers.values():
        assert set(rows) == {"memory", "Redis", "a bare pipeline"}
        _positive(list(rows.values()), "µs/event", "lowest", "highest")
        _positive([rows["Redis"]], "x bare", "redis-server")
        assert rows["a bare pipeline"]["x bare"] == 1


def test_an_audit_entry_is_written_and_verified_in_each_database() -> None:
    written, verified = audit(quick=True)
    names = [name.partition(",")[0] for name in backs()]
    assert [row[0] for row in written.rows] == [name for name in names for _ in range(2)]
    for row in written.rows:
        assert row[1] in (1, 20)
        assert all(figure > 0 for at, figure in enumerate(row[2:], 2) if at != 4)
    rows = _rows(verified)
    assert list(rows) == [*names, "hashing alone"]
    assert len({rows[name]["entries"] for name in names}) == 1
    _positive(list(rows.values()), "entries", "entries/s", "CPU µs/entry")


def test_a_token_costs_what_its_stages_do() -> None:
    table, stages = tokens(quick=True)
    rows, split = _rows(table), _rows(stages)
    hub, read, floor = rows
    assert set(split) == {hub, read}
    assert "floor" in floor
    assert rows[floor]["x floor"] == 1
    _positive(list(rows.values()), "µs/token", "x floor", "whole answers", "tokens/s")
    for name, of_stages in split.items():
        del of_stages[""]
        found = sum(of_stages.values())
        # So short a stretch may go by without a look at the stack.
        assert found == 0 or found == pytest.approx(rows[name]["µs/token"])


@pytest.mark.usefixtures("redis_installed")
def test_events_are_heard_across_nodes_and_below_them() -> None:
    [table] = across(quick=True)
    rows = _rows(table)
    assert len(rows) == 2
    for row in rows.values():
        assert 0 < row["p50"] <= row["p99"] <= row["slowest"]


def test_a_healthy_reader_hears_all_beside_those_that_stall() -> None:
    table, memory = stall(quick=True)
    rows, sizes = _rows(table), _rows(memory)
    assert list(rows) == list(sizes) == ["alone", "beside 2 that read", "beside 2 that stall"]
    _positive(list(rows.values()), "p99 x alone")
    _positive([rows["beside 2 that stall"]], "p99 x reading")
    _positive(list(sizes.values()), "before", "at the peak", "at the end")
    for row in rows.values():
        assert 0 < row["p50"] <= row["p99"] <= row["slowest"]


def test_a_first_token_comes_through_the_hub_and_from_the_model_alone() -> None:
    table, stages = first_token(quick=True)
    rows = _rows(table)
    assert list(rows) == ["the model alone", EMBEDDED]
    for row in rows.values():
        assert row["p50"] <= row["p99"]
        assert row["failed"] == 0
        assert row["runs/s"] > 0
    assert 0 < rows[EMBEDDED]["ack p50"] <= rows[EMBEDDED]["ack p99"]
    assert list(_rows(stages)) == [EMBEDDED]


def test_a_soaked_hub_is_looked_at_by_time() -> None:
    [table] = soak(quick=True)
    _soaked(table)
    for row in table.rows:
        _sloped(dict(zip(table.columns[4:8], row[4:8], strict=True)), "an hour")


def test_who_makes_haste_has_many_answers_and_the_slope_of_a_thousand() -> None:
    [table] = haste(quick=True)
    _soaked(table)
    found = re.search(r"answers: (\d+)", " ".join(table.notes))
    assert found is not None
    assert int(found[1]) > 5
    for row in table.rows:
        _sloped(dict(zip(table.columns[8:12], row[8:12], strict=True)), "1,000 answers")


def _soaked(table: Table) -> None:
    rows = _rows(table)
    assert tuple(rows) == CENSUS
    _positive(list(rows.values()), "at first", "then", "at last")
    told = " ".join(table.notes)
    for bad in ("failed", "not resumed", "run errors"):  # what never happened is not told
        assert bad not in told


def _sloped(row: dict[str, Any], name: str) -> None:
    assert row["from"] <= row[name] <= row["to"]
    assert row["flat"] == ("yes" if row["from"] <= 0 <= row["to"] else "no")
