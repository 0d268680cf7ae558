"""A data directory serves one hub at a time, unless Redis lets several share the work."""

import os
import subprocess
import sys

from tests.parts.hub import ROOT, HubProcess
from tests.parts.ports import free_port
from tests.parts.redis import RedisProcess


def test_a_second_hub_on_a_data_directory_is_refused_and_the_first_goes_on(
    hub_process: HubProcess,
) -> None:
    hub_process.start()
    second = subprocess.run(
        [sys.executable, "-m", "hub", "serve", "--port", "0"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HUB_DATA_DIR": str(hub_process.data_dir)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert second.returncode == 1
    assert "another hub uses" in second.stderr
    assert "Traceback" not in second.stderr
    assert hub_process.stop() == 0


def test_a_killed_hub_leaves_no_claim_behind(hub_process: HubProcess) -> None:
    hub_process.start()
    hub_process.kill()
    hub_process.start()
    assert hub_process.stop() == 0


def test_hubs_on_redis_share_a_data_directory(
    hub_process: HubProcess, redis_server: RedisProcess
) -> None:
    hub_process.environment["HUB_REDIS_URL"] = redis_server.url
    other = HubProcess(hub_process.data_dir, free_port(), hub_process.environment)
    hub_process.start()
    try:
        other.start()
        assert other.stop() == 0
    finally:
        if other.process is not None and other.process.poll() is None:
            other.kill()
    assert hub_process.stop() == 0
