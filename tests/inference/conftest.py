"""What the tests of models share: the requests they ask, and the embedded model, if installed."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from hub.inference.interface import ChatMessage, ChatPart, ChatRequest, TextDelta
from hub.inference.local.extra import INSTALL, missing
from hub.inference.ollama import OllamaClient


def ask(model: str, prompt: str = "hello", **options: object) -> ChatRequest:
    return ChatRequest(model, (ChatMessage("user", prompt),), dict(options))


async def collect(client: OllamaClient, request: ChatRequest) -> list[ChatPart]:
    return [part async for part in client.chat(request)]


def text(parts: list[ChatPart]) -> str:
    return "".join(part.text for part in parts if isinstance(part, TextDelta))


async def until(true: Callable[[], bool], within: float = 10.0) -> None:
    """Wait for what other threads or processes bring about. Raises TimeoutError."""
    async with asyncio.timeout(within):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.fixture(scope="session")
def extra() -> None:
    """Asks for the extra local-model: without it the test is skipped, and in CI it fails."""
    if (reason := missing(None)) is None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(f"needs the extra local-model: {INSTALL}")


@pytest.fixture(scope="session")
def local_model(extra: None) -> Iterator[str]:
    """The embedded model server, running alone; its URL."""
    command = [sys.executable, "-m", "hub.inference.local", "--exit-on-eof"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            announced = json.loads(child.stdout.readline())
            assert announced["model"] == "smollm2:135m"
            yield f"http://127.0.0.1:{announced['port']}"
        finally:
            child.stdin.close()
            assert child.wait(10) == 0
