"""The conversation in a terminal: prompt, answer, commands."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

from hub_client.conversations import Conversation
from hub_client.faults import BadFrame, ConnectionClosed, Fault, HubError, InvalidParams
from hub_client.hub import Hub
from hub_client.records import Model
from hub_client.runs import RunStream
from hub_client.terminal import Screen, Terminal

HELP: Final = """\
/new [TITLE]   begin another conversation
/list          your conversations
/open ID       go on with one of them
/model [NAME]  the model that answers; with a name, change it
/models        the models there are
/history       what was said in this conversation
/quit          leave (or ctrl-D)
ctrl-C         stop the answer that is coming"""


PROMPT: Final = "you> "
NO_CONVERSATION: Final = "{!r} is not the id of a conversation, like c_01J…; {} lists yours"


async def stream_answer(stream: RunStream, terminal: Terminal) -> str:
    """Show an answer as it comes; ctrl-C cancels its run, and again stops waiting for it.

    Answers the outcome: ``success``, ``cancelled`` or ``interrupt``. Raises what the stream does.
    """
    tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(_show(stream, terminal.screen))]
    showing = tasks[0]
    try:
        for _ in range(2):
            hit = asyncio.ensure_future(terminal.interrupts.wait())
            tasks.append(hit)
            await asyncio.wait([showing, hit], return_when=asyncio.FIRST_COMPLETED)
            hit.cancel()
            if showing.done():
                return str(showing.result())
            if stream.run_id is None:
                break
            tasks.append(asyncio.ensure_future(stream.cancel()))
        return "cancelled"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        stream.close()


async def _show(stream: RunStream, screen: Screen) -> str:
    shown, last = None, "\n"
    try:
        async for event in stream:
            if event.type != "TEXT_MESSAGE_CONTENT" or not event.delta:
                continue
            if shown is not None and shown != event.message_id:
                screen.write("\n\n")
            shown, last = event.message_id, event.delta
            screen.write(event.delta)
    finally:
        if not last.endswith("\n"):
            screen.write("\n")
    return stream.follower.outcome


async def begin(hub: Hub, text: str) -> Conversation:
    """A new conversation, named after its first message."""
    return await hub.conversations.create(title=text.strip()[:60])


async def stream_first_answer(
    conversation: Conversation, stream: RunStream, terminal: Terminal
) -> str:
    """``stream_answer`` of a new conversation, which is deleted when its message is refused."""
    try:
        return await stream_answer(stream, terminal)
    except (Fault, BadFrame):
        if stream.run_id is None:
            with contextlib.suppress(HubError):  # the refusal says more
                await conversation.delete()
        raise


async def choose_model(
    hub: Hub, screen: Screen, asked: str | None, conversation: Conversation | None
) -> str | None:
    """The model to name in messages (None: the hub's choice), with a word if it is a stand-in."""
    models = await hub.models()
    name = asked or (conversation.model if conversation else None)
    model = next((each for each in models if name in (None, each.name)), None)
    if model is not None:
        warn_of_stand_in(screen, model)
    return asked


def warn_of_stand_in(screen: Screen, model: Model) -> None:
    """An honest word about a model that is not a real one."""
    if model.stand_in:
        screen.note(
            f"Note: {model.name} is a small stand-in that answers because no real model is"
            " there; it is often wrong. Start Ollama for better answers."
        )


class Dialogue:
    """The interactive client."""

    def __init__(
        self,
        hub: Hub,
        terminal: Terminal,
        conversation: Conversation | None,
        model: str | None,
    ) -> None:
        self._hub, self._terminal = hub, terminal
        self._screen, self._lines = terminal.screen, terminal.lines
        self._interrupts = terminal.interrupts
        self._conversation = conversation
        self._model = model
        self._commands: dict[str, Callable[[str], Awaitable[None]]] = {
            "/new": self._new,
            "/list": self._list,
            "/open": self._open,
            "/model": self._choose,
            "/models": self._models,
            "/history": self._history,
            "/help": self._help,
        }

    async def run(self) -> int:
        """Until the user leaves (0) or the connection ends for good (raises ConnectionClosed)."""
        self._hub.on("disconnected", lambda _: self._screen.note("(connection lost; reconnecting)"))
        await self._attempt(self._begin())
        while (line := await self._read()) is not None:
            text = line.strip()
            if text in ("/quit", "/exit"):
                break
            if text:
                await self._attempt(self._act(text))
        return 0

    async def _begin(self) -> None:
        await choose_model(self._hub, self._screen, self._model, self._conversation)
        if self._conversation is not None:
            await self._history("")
        if self._lines.terminal:
            self._screen.line("Type a message; /help tells more.", dim=True)

    async def _attempt(self, what: Awaitable[None]) -> None:
        try:
            await what
        except ConnectionClosed:
            raise
        except HubError as error:
            self._screen.note(f"error: {error}")

    async def _act(self, text: str) -> None:
        name, _, rest = text.partition(" ")
        command = self._commands.get(name)
        if command is not None:
            await command(rest.strip())
        elif name.startswith("/"):
            self._screen.note(f"unknown command {name}; /help lists them")
        else:
            await self._say(text)

    async def _say(self, text: str) -> None:
        conversation = self._conversation or await begin(self._hub, text)
        stream = conversation.send(text, model=self._model)
        if self._conversation is None:
            self._conversation = conversation
            try:
                outcome = await stream_first_answer(conversation, stream, self._terminal)
            except (Fault, BadFrame):
                if stream.run_id is None:
                    self._conversation = None
                raise
        else:
            outcome = await stream_answer(stream, self._terminal)
        if outcome == "cancelled":
            self._screen.note("(cancelled)")

    async def _read(self) -> str | None:
        """The next line; None to leave: ctrl-D, or ctrl-C twice."""
        for hits in range(2):
            line = asyncio.ensure_future(self._lines.read(PROMPT))
            hit = asyncio.ensure_future(self._interrupts.wait())
            gone = asyncio.ensure_future(self._hub.wait_closed())
            waits: list[asyncio.Future[str | None] | asyncio.Future[None]] = [line, hit, gone]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                if line.done():
                    return line.result()
                if gone.done():
                    await self._hub.ping()  # raises why it has ended
            finally:
                for each in waits:
                    each.cancel()
                await asyncio.gather(*waits, return_exceptions=True)
            if hits == 0:
                self._screen.note("\n(ctrl-C again or ctrl-D to leave)")
                if self._lines.terminal:
                    self._screen.write(PROMPT)
        return None

    async def _new(self, title: str) -> None:
        self._conversation = None
        if title:
            self._conversation = await self._hub.conversations.create(title=title)
        self._screen.line("A new conversation.", dim=True)

    async def _list(self, _: str) -> None:
        async for each in self._hub.conversations.list():
            here = "*" if self._conversation and each.id == self._conversation.id else " "
            self._screen.line(f"{here} {each.id}  {each.title or ''}".rstrip())

    async def _open(self, id: str) -> None:
        try:
            self._conversation = await self._hub.conversations.get(id)
        except InvalidParams:
            self._screen.note(NO_CONVERSATION.format(id, "/list"))
            return
        await self._history("")

    async def _choose(self, name: str) -> None:
        models = await self._hub.models()
        if name:
            found = next((model for model in models if model.name == name), None)
            if found is None:
                self._screen.note(f"there is no model {name}; /models lists them")
                return
            self._model = name
            warn_of_stand_in(self._screen, found)
        current = self._conversation.model if self._conversation else None
        default = models[0].name if models else "none"
        self._screen.line(f"model: {self._model or current or default}")

    async def _models(self, _: str) -> None:
        for model in await self._hub.models():
            size = f", context {model.context_length}" if model.context_length else ""
            kind = ", a stand-in" if model.stand_in else ""
            self._screen.line(f"{model.name} ({model.provider}{size}{kind})")

    async def _history(self, _: str) -> None:
        if self._conversation is None:
            self._screen.line("Nothing was said yet.", dim=True)
            return
        async for message in self._conversation.messages():
            who = "you" if message.role == "user" else "hub"
            cut = "" if message.complete else " (cut off)"
            self._screen.line(f"{who}> {message.content}{cut}", dim=True)

    async def _help(self, _: str) -> None:
        self._screen.line(HELP)
