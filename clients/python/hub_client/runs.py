"""Runs: streaming one from its message to its end, looking at them, cancelling them."""

import asyncio
import uuid
import weakref
from collections import deque
from collections.abc import AsyncIterator, Generator
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self

from hub_client.connection import Connection
from hub_client.events import SNAPSHOT, Event, Position
from hub_client.faults import CallTimedOut, ConnectionClosed, HubError, SubscriberTooSlow
from hub_client.follow import RunFollower
from hub_client.pages import pages
from hub_client.records import Message, Run
from hub_client.subscription import Subscription, defer

SILENCE_S: Final = 30.0
"""After so long without an event, the hub is asked whether the run is still active."""
BUFFER: Final = 4096
"""Events that a subscriber may have unread."""

OnBusy = Literal["queue", "reject", "interrupt", "steer"]


@dataclass(slots=True)
class _Link:
    """What has to be let go of when a stream is abandoned, apart from the stream itself."""

    connection: Connection
    cancel: bool
    run_id: str | None = None
    finished: bool = False
    subscription: Subscription | None = None

    def drop(self) -> None:
        if self.subscription is not None:
            self.subscription.close()
        if self.cancel and self.run_id is not None and not self.finished:
            self.connection.post("run.cancel", {"run_id": self.run_id})
        self.finished = True


@dataclass(slots=True)
class Sending:
    """A message to be sent."""

    content: str
    model: str | None = None
    on_busy: OnBusy | None = None
    client_message_id: str | None = None
    params: dict[str, Any] = field(default_factory=dict)

    def body(self, conversation_id: str) -> dict[str, Any]:
        """The parameters of ``message.send``."""
        given = {
            "conversation_id": conversation_id,
            "client_message_id": self.client_message_id or uuid.uuid4().hex,
            "content": self.content,
            "model": self.model,
            "on_busy": self.on_busy,
        }
        return {key: value for key, value in given.items() if value is not None} | self.params


class RunStream:
    """The events of one run, to its last. Made by ``conversation.send`` and ``runs.follow``.

    The message is sent when iteration begins, or at once with ``await stream``, which answers the
    stream. A run that fails yields ``RUN_ERROR`` and then raises its Fault. Leaving the loop does
    not cancel the run, unless ``cancel_on_break``. Events that the SDK had to make from stored
    messages, because the log no longer held them, have ``recovered`` set.

    Raises CallTimedOut after ``timeout`` seconds in all, ConnectionClosed, and the Fault of the
    request. ``run_id`` and ``message_id`` (the user's message) are known once it was sent;
    ``texts`` holds the text so far of each message of the run.
    """

    def __init__(
        self,
        connection: Connection,
        conversation_id: str,
        target: Sending | Run,
        *,
        cancel_on_break: bool = False,
        timeout: float | None = None,
    ) -> None:
        self.conversation_id = conversation_id
        self._connection = connection
        self._target = target
        self._body = target.body(conversation_id) if isinstance(target, Sending) else {}
        self._timeout = timeout
        self._deadline: float | None = None
        self._follower: RunFollower | None = None
        self._subscription: Subscription | None = None
        self._snapshot: Event | None = None
        self._made: deque[Event] = deque()
        self._raised = False
        self._link = _Link(connection, cancel_on_break)
        # The link must not hold this stream, or it would never be found abandoned.
        loop = asyncio.get_running_loop()
        self._abandoned = weakref.finalize(self, defer, loop, self._link.drop)
        self._abandoned.atexit = False

    @property
    def run_id(self) -> str | None:
        return self._follower.run_id if self._follower else None

    @property
    def message_id(self) -> str | None:
        return self._follower.message_id if self._follower else None

    @property
    def texts(self) -> dict[str, str]:
        return self._follower.texts if self._follower else {}

    @property
    def follower(self) -> RunFollower:
        """What is known of the run. Only once it was sent."""
        assert self._follower is not None
        return self._follower

    def __await__(self) -> Generator[Any, None, Self]:
        return self._begin().__await__()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        await self._begin()
        follower = self.follower
        while not self._made:
            if follower.finished:
                self.close()
                if follower.error is not None and not self._raised:
                    self._raised = True
                    raise follower.error
                raise StopAsyncIteration
            try:
                async with asyncio.timeout_at(self._deadline):
                    self._made.extend(await self._step())
            except TimeoutError as error:
                if isinstance(error, CallTimedOut):
                    raise
                raise self._too_late() from None
        return self._made.popleft()

    async def cancel(self) -> None:
        """Cancel the run; its stream goes on to its ``RUN_FINISHED``."""
        if self.run_id is not None:
            await self._connection.call("run.cancel", {"run_id": self.run_id})

    def close(self) -> None:
        """Let go of the run (and cancel it, with ``cancel_on_break``). Idempotent."""
        if self._follower is not None and self._follower.finished:
            self._link.finished = True
        if self._abandoned.detach() is not None:
            self._link.drop()

    async def __aenter__(self) -> Self:
        return await self._begin()

    async def __aexit__(self, *_: object) -> None:
        self.close()

    # --- inside ---

    async def _begin(self) -> Self:
        if self._follower is None:
            if self._timeout is not None:
                self._deadline = asyncio.get_running_loop().time() + self._timeout
            try:
                async with asyncio.timeout_at(self._deadline):
                    await self._start()
            except TimeoutError as error:
                if isinstance(error, CallTimedOut):
                    raise
                raise self._too_late() from None
            except HubError:
                # Nothing is held for a message that was refused; trying again is safe.
                if self._subscription is not None:
                    self._subscription.close()
                    self._subscription = None
                raise
        return self

    async def _start(self) -> None:
        target = self._target
        if isinstance(target, Run):
            follower = RunFollower(target.id, target.message_id)
            if target.active:
                await self._subscribe("start")
            else:
                await self._settle(follower, target)
        else:
            # Subscribed first, so that not even the run's first event can be missed.
            subscription = self._subscription or await self._subscribe(None)
            sent = await self._connection.call("message.send", self._body)
            steered = target.on_busy == "steer"
            follower = RunFollower(sent["run_id"], sent["message_id"])
            if steered or target.client_message_id is not None:
                # It may be a run that was under way, or over, before we subscribed.
                run = await self._get(follower.run_id)
                if not run.active:
                    await self._settle(follower, run)
                elif steered and run.message_id != follower.message_id:
                    follower = RunFollower(run.id, follower.message_id, inside=True)
                else:
                    subscription.close()
                    await self._subscribe("start")
        self._follower = follower
        self._link.run_id = follower.run_id

    async def _subscribe(self, since: Literal["start"] | Position | None) -> Subscription:
        channel = f"conversation:{self.conversation_id}"
        subscription = self._connection.subscribe(channel, since, BUFFER)
        self._link.subscription = subscription
        await subscription.ready(None if self._timeout is not None else SILENCE_S)
        self._subscription = subscription
        return subscription

    async def _step(self) -> list[Event]:
        """Wait for the next event and see what to yield for it."""
        subscription, follower = self._subscription, self.follower
        assert subscription is not None
        if self._snapshot is not None:
            return await self._recover(self._snapshot)
        try:
            async with asyncio.timeout(SILENCE_S):
                event = await anext(subscription)
        except StopAsyncIteration:
            raise ConnectionClosed(1000, message="The hub was closed by this client") from None
        except SubscriberTooSlow as slow:
            subscription.close()
            await self._subscribe(Position(*slow.position))
            return []
        except TimeoutError as error:
            if isinstance(error, CallTimedOut):
                raise
            run = await self._get(follower.run_id)
            return [] if run.active else await self._settle(follower, run)
        if event.type != SNAPSHOT or not event.recovered:
            return follower.feed(event)
        self._snapshot = event  # kept: this may be cancelled while it looks, and called again
        return await self._recover(event)

    async def _recover(self, snapshot: Event) -> list[Event]:
        follower = self.follower
        run = await self._get(follower.run_id)
        events = follower.patch(snapshot) if run.active else await self._settle(follower, run)
        self._snapshot = None
        return events

    async def _settle(self, follower: RunFollower, run: Run) -> list[Event]:
        conversation = {"conversation_id": self.conversation_id}
        stored = [
            Message.parse(item)
            async for item in pages(self._connection, "message.list", conversation)
        ]
        position = self._subscription.position if self._subscription else None
        epoch, seq = position or ("", 0)
        at = Event(f"conversation:{self.conversation_id}", epoch, seq, 0, SNAPSHOT, {})
        events = follower.settle(at, run, stored)
        if self._follower is None:
            self._made.extend(events)
        return events

    async def _get(self, run_id: str) -> Run:
        return Run.parse(await self._connection.call("run.get", {"run_id": run_id}))

    def _too_late(self) -> CallTimedOut:
        return CallTimedOut(f"The run did not end in {self._timeout:g} s; it goes on at the hub")


class Runs:
    """``hub.runs``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def get(self, run_id: str) -> Run:
        """Raises NotFound."""
        return Run.parse(await self._connection.call("run.get", {"run_id": run_id}))

    async def list(self, conversation_id: str) -> AsyncIterator[Run]:
        """The runs of a conversation, page by page as they are asked for."""
        params = {"conversation_id": conversation_id}
        async for item in pages(self._connection, "run.list", params):
            yield Run.parse(item)

    async def cancel(self, run_id: str) -> Run:
        """Cancel a run; one that has ended stays as it is. Raises NotFound."""
        return Run.parse(await self._connection.call("run.cancel", {"run_id": run_id}))

    async def follow(
        self, run_id: str, *, cancel_on_break: bool = False, timeout: float | None = None
    ) -> RunStream:
        """The events of a run that exists, from its beginning. Raises NotFound."""
        run = await self.get(run_id)
        return RunStream(
            self._connection,
            run.conversation_id,
            run,
            cancel_on_break=cancel_on_break,
            timeout=timeout,
        )
