"""The benchmarks run. What they measure is for eyes: nothing here judges a time."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.events.delivery import Delivery
from tests.bench.__main__ import BENCHMARKS, announced, chosen, main
from tests.bench.ages import Ages, stamped, stamps
from tests.bench.returners import Returner, busiest
from tests.bench.revocation import AT_PAUSE, KNOWN, Shown, histogram
from tests.bench.servers.furnishing import KINDS
from tests.bench.slope import slope, stretches

ROOT = Path(__file__).resolve().parent.parent


def _run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    paths = os.pathsep.join([str(ROOT), str(ROOT / "clients/python")])
    return subprocess.run(
        [sys.executable, "-P", "-m", "tests.bench", *arguments],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,  # they take half a minute where nothing else runs
        check=False,
    )


def test_a_quick_fan_out_prints_its_table_beside_the_floor_and_the_peers(tmp_path: Path) -> None:
    pytest.importorskip("socketio")
    done = _run("fanout", "--quick", "--json", str(tmp_path / "figures.json"))
    assert done.returncode == 0, done.stderr
    assert " cores of " in done.stdout
    figures = json.loads((tmp_path / "figures.json").read_text())
    table, split = figures["tables"]
    at = table["columns"].index("x floor")
    ratios = {(row[0], row[1]): row[at] for row in table["rows"]}
    for (name, _), ratio in ratios.items():
        assert name in done.stdout
        assert ratio > 0
    for subscribers in (1, 100):
        assert ratios["floor: a ready frame on raw transports", subscribers] == 1
    assert {name for name, _ in ratios} >= {
        "hub",
        "hub, 10 events in one turn, 20 conversations a socket",
        "websockets.broadcast",
        "python-socketio, a room",
    }
    assert any(row[-1] for row in split["rows"])
    for name, cost, *of_stages, looks in split["rows"]:
        assert "floor: " in name or "hub" in name
        assert sum(of_stages) == pytest.approx(cost if looks else 0)


@pytest.mark.usefixtures("redis_installed", "postgres_programs")
def test_a_quick_look_at_the_doors_prints_what_they_cost(tmp_path: Path) -> None:
    done = _run("trust", "--quick", "--json", str(tmp_path / "figures.json"))
    assert done.returncode == 0, done.stderr
    checks, doors, alike, *floods = json.loads((tmp_path / "figures.json").read_text())["tables"]
    assert [row[0] for row in checks["rows"]] == [
        "session.ping",
        "conversation.get",
        "message.send",
    ]
    assert {row[0] for row in doors["rows"]} >= {"register", "sign in", "refresh"}
    assert [row[0].partition(",")[0] for row in alike["rows"]] == ["unknown", "known", "disabled"]
    assert [len(flood["rows"]) for flood in floods] == [5, 5]
    for flood in floods:
        for _, p50, p99, _, slowest, *_ in flood["rows"]:
            assert 0 < p50 <= p99 <= slowest


@pytest.mark.usefixtures("redis_installed")
def test_what_is_taken_away_on_another_node_is_timed_with_redis_and_without(tmp_path: Path) -> None:
    done = _run("revocation", "--quick", "--json", str(tmp_path / "figures.json"))
    assert done.returncode == 0, done.stderr
    tables = json.loads((tmp_path / "figures.json").read_text())["tables"]
    for table, begun in zip(tables, ([], [AT_PAUSE, KNOWN]), strict=True):
        at = {name: number for number, name in enumerate(table["columns"])}
        rows = {row[0]: row for row in table["rows"]}
        assert set(rows) == {*KINDS, *begun, "all"}
        assert rows["all"][at["trials"]] == len(KINDS)
        assert rows["all"][at["not ended"]] == 0


def test_a_histogram_has_a_bar_for_each_stretch_that_has_any_and_those_between() -> None:
    shown = Shown(1e3, "ms", "", (0, 0.01, 0.02, 0.03, 0.04, 1e9))
    assert histogram([], shown) == []
    assert [line.split() for line in histogram([0.01, 0.012, 0.019, 0.03], shown)] == [
        ["from", "10", "ms", "3", "#" * 40],
        ["from", "20", "ms", "0"],
        ["from", "30", "ms", "1", "#" * 14],
    ]


def test_an_unknown_benchmark_is_refused_with_the_names_of_those_there_are() -> None:
    done = _run("nothing")
    assert done.returncode == 2
    for name in BENCHMARKS:
        assert name in done.stderr


def test_all_are_measured_with_the_soaks_at_the_end_unless_they_are_left_out() -> None:
    assert chosen([], []) == list(BENCHMARKS)
    assert list(BENCHMARKS)[-2:] == ["soak", "haste"]
    assert chosen([], ["soak", "haste"]) == list(BENCHMARKS)[:-2]
    assert chosen(["haste", "idle"], ["idle"]) == ["haste"]


def test_how_long_it_takes_is_said_before_it_begins() -> None:
    whole = announced(list(BENCHMARKS), 30.0, quick=False)
    assert "--without soak haste" in whole
    assert "40 of them" in whole
    assert announced(["soak", "haste"], 60.0, quick=False) == "about 80 minutes"
    assert "minutes" not in announced(list(BENCHMARKS), 30.0, quick=True)


@pytest.mark.parametrize(
    "words", [["--without", "nothing"], ["idle", "--without", "idle"], ["--minutes", "0"]]
)
def test_a_choice_of_nothing_is_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "tests/bench/run: error: " in capsys.readouterr().err


@pytest.mark.usefixtures("redis_installed")
def test_clients_that_lose_their_node_resume_on_the_other_and_are_counted(tmp_path: Path) -> None:
    done = _run("failover", "--quick", "--json", str(tmp_path / "figures.json"))
    assert done.returncode == 0, done.stderr
    [table] = json.loads((tmp_path / "figures.json").read_text())["tables"]
    at = {name: number for number, name in enumerate(table["columns"])}
    rows = {row[0]: row for row in table["rows"]}
    assert set(rows) == {"floor: a bare echo, killed", "hub, killed", "hub, drained"}
    for row in rows.values():
        assert row[at["back"]] == "100"
        assert row[at["gaps"]] == row[at["repeats"]] == 0


def test_the_busiest_second_is_found_wherever_it_begins() -> None:
    assert busiest([]) == 0
    assert busiest([0.0, 5.0]) == 1  # one of them is not back
    assert busiest([3.9, 1.0, 2.5, 3.0, 3.4, 9.0]) == 3
    assert busiest([1.0, 1.5, 2.0, 2.5]) == 3


async def test_a_returner_counts_what_it_missed_and_what_it_heard_twice() -> None:
    returner = Returner("c_1", "token")
    returner.hear(b'{"jsonrpc":"2.0","id":1,"result":{"epoch":"e1","seq":4,"recovered":true}}')
    for seq in (5, 6, 8, 8, 9):
        returner.hear(Delivery("conversation:c_1", "e1", seq, stamped()).payload)
    assert (returner.gaps, returner.repeats, returner.seq) == (1, 1, 9)
    assert returner.here


async def test_a_returner_sees_a_resume_that_skips_and_one_that_is_not_possible() -> None:
    returner = Returner("c_1", "token")
    for seq, recovered in ((4, True), (4, True), (6, True), (9, False)):
        result = {"epoch": "e1", "seq": seq, "recovered": recovered}
        returner.hear(json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}).encode())
    assert (returner.gaps, returner.unrecovered) == (1, 1)


def test_events_that_were_joined_are_as_old_as_each_of_them() -> None:
    one, other = stamped(), stamped(100)
    assert len(stamps(one + other)) == 2
    ages = Ages()
    ages.heard(one + other)
    taken = ages.take()
    assert taken["count"] == 2
    assert ages.take()["count"] == 0


@given(
    st.lists(st.integers(0, 1_000), min_size=3, max_size=40, unique=True),
    st.integers(-1_000, 1_000),
    st.integers(-1_000, 1_000),
)
def test_the_slope_of_a_line_is_found_and_flat_only_if_it_is(
    times: list[int], rise: int, start: int
) -> None:
    times.sort()
    found = slope(times, [start + rise * time for time in times])
    assert found.slope == rise
    assert found.low <= rise <= found.high
    assert found.flat == (rise == 0)


@given(st.lists(st.integers(-5, 5), min_size=30, max_size=60), st.randoms(use_true_random=False))
def test_noise_and_a_peak_are_flat_and_growth_beneath_them_is_not(
    noise: list[int], dice: random.Random
) -> None:
    # Each up has its down: there is no trend but the one that is added.
    values = [float(one) for pair in ((n, -n) for n in noise) for one in pair]
    dice.shuffle(values)
    times = list(range(len(values)))
    growing = [value + 5 * time for time, value in zip(times, values, strict=True)]
    growing[len(values) // 2] += 10_000
    found = slope(times, growing)
    assert not found.flat
    assert abs(found.slope - 5) < 1
    level = [7.0] * len(values)
    level[len(values) // 2] = 10_000
    assert slope(times, level).flat


def test_stretches_are_the_medians_in_order() -> None:
    times, values = stretches([0, 1, 2, 3, 4, 5], [1, 9, 2, 5, 5, 6], 2)
    assert times == [1, 4]
    assert values == [2, 5]
    assert stretches([0, 1], [3, 4], 40) == ([0, 1], [3, 4])
