"""RFC 6455 by an independent suite: Autobahn's cases, against the protocol that the hub serves.

An echo server is what the suite asks for, so the hub's own server is given an echo application, and
a limit on messages that the cases fit in: those of 9.* go to 16 MiB, in one frame or in fragments
of 64 bytes.
"""

import asyncio
import logging
from collections import Counter
from typing import Final

import kosoku
import pytest

from hub.cli import serving
from tests.interaction.drivers import eventually
from tests.parts.figures import Figures
from tests.transports.hostile.echo import echo_server

LEFT_OUT: Final = {
    "12.*": "they are about permessage-deflate, which the hub does not negotiate",
    "13.*": "they are about permessage-deflate, which the hub does not negotiate",
}
ALLOWED: Final = {"7.1.5": "a close amid a fragmented message: RFC 6455 asks for no code"}
CASES: Final = 301


async def test_the_hubs_protocol_passes_the_cases_of_autobahn(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    figures: Figures,
) -> None:
    monkeypatch.setattr(serving, "MAX_FRAME_BYTES", 16 << 20)
    # A case takes a ping that it did not ask for as a wrong answer.
    monkeypatch.setattr(serving, "HEARTBEAT_S", 1e6)
    tasks = asyncio.all_tasks()
    async with echo_server() as (server, url):
        try:
            results = await kosoku.run_fuzzingclient(
                url, exclude_cases=list(LEFT_OUT), concurrency=4
            )
        except kosoku.FailureError as failure:
            results = failure.results

        async def gone() -> bool:
            return not server.server_state.connections and not server.server_state.tasks

        await eventually(gone)
    verdicts = Counter(one.behavior.value for one in results)
    failed = {one.case_id: one.result_close for one in results if not one.passed}
    figures(f"RFC 6455: {len(results)} cases, {dict(verdicts)}, failed: {sorted(failed)}")
    assert len(results) == CASES
    assert failed.keys() <= ALLOWED.keys(), failed
    assert asyncio.all_tasks() <= tasks
    assert [r for r in caplog.records if r.levelno >= logging.WARNING or r.exc_info] == []
