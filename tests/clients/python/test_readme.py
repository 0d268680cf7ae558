"""The README's examples run as they stand."""

import asyncio
import re
import textwrap
from pathlib import Path
from typing import Any

import hub_client
from hub_client import connect, faults

from tests.faults.processes import wait_until
from tests.parts.hub import ServedHub

README = Path(hub_client.__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
EMAIL, PASSWORD = "you@example.org", "correct horse battery"


async def run(block: str, **names: Any) -> None:
    body = textwrap.indent(block, "    ")
    scope = dict(names)
    exec(f"async def example():\n{body}\n    return None", scope)
    await scope["example"]()


async def test_the_first_steps_answer(served_hub: ServedHub, capsys: Any) -> None:
    first, register, *_ = BLOCKS
    await run(register.replace("http://127.0.0.1:8000", served_hub.url))
    program = first.replace("http://127.0.0.1:8000", served_hub.url)
    await run(program.replace("asyncio.run(main())", "await main()"))
    assert "Why is the sky blue?" in capsys.readouterr().out


async def test_the_other_examples_run(served_hub: ServedHub) -> None:
    await hub_client.register(served_hub.url, email=EMAIL, password=PASSWORD)
    async with connect(served_hub.url, email=EMAIL, password=PASSWORD) as hub:
        conversation = await hub.conversations.create(model="echo")
        accounts, tenant = served_hub.hub.services.accounts, hub.session["tenant"]
        await accounts.create_user("colleague@example.org", PASSWORD, tenant, "member")
        for block in BLOCKS[2:]:
            endless = "subscribe(since" in block
            body = block + "        break\n" if endless else block
            # Nobody else is there whose changes it could wait for.
            body = body.partition("    async for change in presence")[0]
            await run(body, hub=hub, conversation=conversation)


async def test_the_bot_of_the_example_goes_on_where_it_was(served_hub: ServedHub) -> None:
    token = (await served_hub.sign_up(EMAIL))["access_token"]
    (block,) = (block for block in BLOCKS if "session_key" in block)
    told: asyncio.Queue[str] = asyncio.Queue()
    scope: dict[str, Any] = {"connect": connect, "print": lambda _, run: told.put_nowait(run)}
    exec(block, scope)
    async with connect(served_hub.url, token=token) as hub, asyncio.timeout(20):
        key = (await hub.call("apikey.create", name="the bot"))["key"]
        conversation = await hub.conversations.create(model="echo")
        first = True
        for number in range(3):
            if not first:
                answer = await conversation.ask(f"while it was away {number}")
            bot = asyncio.create_task(scope["watch"](served_hub.url, key, conversation.channel))
            if first:
                followed = served_hub.hub.services.metrics.subscriptions._value.get
                await wait_until(followed, 10, "the bot follows the conversation")
                answer = await conversation.ask("while it watches")
                first = False
            assert await told.get() == answer.run_id
            bot.cancel()
            await asyncio.wait({bot})
        assert told.empty()


def test_the_tree_of_errors_names_only_what_there_is() -> None:
    tree = README.read_text(encoding="utf-8").split("```text\n")[1].split("```")[0]
    for name in re.findall(r"\b[A-Z]\w+(?:[A-Z]\w+)+", tree):
        assert hasattr(faults, name) or hasattr(__builtins__, name) or name == "TimeoutError"
