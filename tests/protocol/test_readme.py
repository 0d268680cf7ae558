"""The contract that users read says what the code does."""

import re
from pathlib import Path

import pytest

import hub.protocol
from hub.events.roster import LINGER_S, TYPING_S
from hub.events.seat import TYPING_BURST, TYPING_RATE
from hub.faults import CLOSES, FAULTS, CloseKind, FaultKind
from hub.protocol import limits
from hub.protocol.session import LIVE, TABLE, Event, State
from hub.transports.deadlines import BODY_S, HEAD_S
from hub.transports.wire import ABORT_S, SEND_S
from tests.protocol.vectors import rows

TEXT = (Path(hub.protocol.__file__).parent / "README.md").read_text("utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in TEXT.splitlines()
    if line.startswith("|")
]
FIRST = {row[0]: row for row in ROWS}


@pytest.mark.parametrize("kind", FAULTS.values(), ids=lambda kind: kind.reason)
def test_every_fault_is_documented(kind: FaultKind) -> None:
    reason, http, retryable = FIRST[str(kind.code).replace("-", "−")][1:]
    assert reason.startswith(f"`{kind.reason}`")
    assert http == str(kind.http)
    assert retryable.startswith("yes" if kind.retryable else "no")


@pytest.mark.parametrize("kind", CLOSES.values(), ids=lambda kind: kind.reason)
def test_every_close_code_is_documented(kind: CloseKind) -> None:
    assert FIRST[str(kind.code)][1] == f"`{kind.reason}`"


@pytest.mark.parametrize(("name", "value"), limits.CLIENT_LIMITS.items())
def test_every_limit_of_a_client_is_documented(name: str, value: int) -> None:
    assert FIRST[f"`{name}`"][1].rstrip(" |") == str(value)


def test_the_times_are_those_of_the_code() -> None:
    flat = " ".join(TEXT.split())
    assert f"comes whole within {HEAD_S:g} s, its body within {BODY_S:g} s more" in flat
    assert f"no valid ones {limits.AUTHENTICATE_DEADLINE_S:g} s after it opened the TCP" in flat
    assert f"pings every {limits.HEARTBEAT_S:.0f} s" in flat
    assert f"closes after {limits.PONG_DEADLINE_S:.0f} s without a pong" in flat
    assert f"`session.expiring` comes {limits.EXPIRING_NOTICE_S:.0f} s before" in flat
    assert f"a grace of {limits.EXPIRED_GRACE_S:.0f} s" in flat
    assert f"kept for {limits.SESSION_KEEP_S / 3600:.0f} h" in flat
    assert f"subprotocol `{limits.SUBPROTOCOL}`" in flat
    assert f"has up to {limits.OUTBOX_BYTES >> 20} MiB waiting for it" in flat
    assert f"has taken nothing for {SEND_S:g} s while something waits" in flat
    assert f"`too_slow` when {limits.OUTBOX_BYTES >> 20} MiB waits for it" in flat
    assert f"a client that takes nothing for {ABORT_S:g} s is cut off" in flat
    assert f"the last one has not for {LINGER_S:.0f} s" in flat
    assert f"Typing is over {TYPING_S:.0f} s after" in flat
    assert (
        f"begin {TYPING_BURST} times at once in a channel, then once in {1 / TYPING_RATE:.0f} s"
        in flat
    )


def test_every_notice_is_documented() -> None:
    notices = {
        row["frame"]["method"]
        for row in rows("frames.json")
        if row["direction"] == "hub_to_client" and row["frame"]["kind"] == "notification"
    }
    for method in notices - {"event"}:
        assert f"`{method}`" in FIRST, method


@pytest.mark.parametrize("state", State)
def test_every_state_is_documented(state: State) -> None:
    assert f"`{state}`" in FIRST


@pytest.mark.parametrize("state", LIVE)
def test_every_way_out_of_a_state_is_documented(state: State) -> None:
    ways = FIRST[f"`{state}`"][3]
    at_any_time = {event for event in Event if all((other, event) in TABLE for other in LIVE)}
    for (here, event), to in TABLE.items():
        # A node drains from every state, but not to the same end.
        if here is state and to.state is not state and event not in at_any_time - {Event.DRAIN}:
            assert (str(to.close_code) if to.close_code else to.state) in ways, event


def test_the_codes_that_any_state_closes_with_are_documented() -> None:
    codes = {to.close_code for to in TABLE.values() if to.close_code is not None}
    assert codes <= {int(code) for code in re.findall(r"\b[14]\d{3}\b", TEXT)}
