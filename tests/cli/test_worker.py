"""What a worker process offers besides its work."""

import asyncio
from pathlib import Path

import httpx

from hub.cli import serving
from hub.settings import read_settings
from tests.interaction.drivers import eventually
from tests.parts.ports import free_port
from tests.parts.redis import RedisProcess
from tests.parts.scripted import ScriptedModel


async def test_a_worker_serves_its_metrics_where_the_setting_says(
    tmp_path: Path, redis_server: RedisProcess, scripted_model: ScriptedModel
) -> None:
    port = free_port()
    settings = read_settings(
        HUB_DATA_DIR=tmp_path / ".hub",
        HUB_REDIS_URL=redis_server.url,
        HUB_METRICS_PORT=port,
        OLLAMA_HOST=scripted_model.host,
    )
    settings.data_dir.mkdir()
    async with httpx.AsyncClient(trust_env=False) as client:

        async def served() -> bool:
            assert not worker.done(), worker.result()
            try:
                answer = await client.get(f"http://127.0.0.1:{port}/metrics")
            except httpx.ConnectError:
                return False
            return "hub_connections" in answer.text

        worker = asyncio.create_task(serving._work(settings))
        try:
            await eventually(served)
        finally:
            worker.cancel()
            await asyncio.wait({worker})
