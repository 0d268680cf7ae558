"""The runner: drives one run from its assignment to its terminal event.

It says the run's AG-UI events, reads the model, and ends the run durably before it says so. What
stops it early, and what then happens:

- a cancel: the model is stopped, the partial answer is kept, ``RUN_FINISHED`` says ``cancelled``;
- a permission taken away: the same as a fault, ``permission_denied``;
- a fault of the model: the partial answer is kept, ``RUN_ERROR`` says why;
- a lost lease: another worker has the run; nothing more is said or written;
- its own task cancelled (the worker shuts down): the run stays ``running`` and is taken over.
"""

import asyncio
from contextlib import aclosing
from time import perf_counter
from typing import Final

from hub.agents.answers import Answers, Shelf
from hub.agents.conversations.prompt import chat_request
from hub.agents.conversations.transcript import Transcript, as_event_message
from hub.agents.generation import Generation
from hub.agents.orchestrator import Assignment, Orchestrator
from hub.agents.permission import Permission, Permits
from hub.agents.restatement import restatement
from hub.agents.run_log import BACK_S, RunLog
from hub.agents.run_state import RunEvent, RunStatus
from hub.agents.tally import lost_row, row_of, summed, unknown
from hub.backplane.interface import Backplane, Lease, LeaseLost
from hub.events import vocabulary as say
from hub.events.fold import REASONING, OpenMessage, Progress
from hub.faults import Fault
from hub.ids import new_id
from hub.inference.catalogue import Catalogue
from hub.inference.interface import ChatDone, ModelInfo, ReasoningDelta
from hub.storage.tables import Message, Usage
from hub.telemetry.logs import log
from hub.telemetry.metrics import Metrics

MAX_ATTEMPTS: Final = 5
"""A run whose worker was lost as often as this is ended as failed: it may be what kills them."""

_OUTCOMES: Final = {RunStatus.SUCCEEDED: "success", RunStatus.CANCELLED: "cancelled"}


class Runner:
    """Drives one run. ``cancel`` may be called at any time."""

    def __init__(
        self,
        assignment: Assignment,
        lease: Lease,
        *,
        orchestrator: Orchestrator,
        transcript: Transcript,
        catalogue: Catalogue,
        backplane: Backplane,
        metrics: Metrics,
        permits: Permits,
        answers: Answers,
    ) -> None:
        self._answers = answers
        self._run = assignment.run
        self._assignment = assignment
        self._orchestrator = orchestrator
        self._transcript = transcript
        self._catalogue = catalogue
        self._metrics = metrics
        self._channel = f"conversation:{self._run.conversation_id}"
        self._log = RunLog(backplane, self._channel, lease, metrics)
        self._reading: asyncio.Task[None] | None = None
        self._restating = asyncio.Lock()
        self._cancelled = self._run.cancel_requested
        self._lease_lost = False
        self._permission = Permission(permits, self._run, self._stop_reading)
        self._generations: list[Generation] = []  # of this attempt
        self._model: ModelInfo | None = None
        self._used = list(assignment.usage)

    @property
    def run_id(self) -> str:
        return self._run.id

    @property
    def shared(self) -> bool:
        """Whether what it said last is in the log that all nodes read."""
        return self._log.shared

    def cancel(self) -> None:
        """Stop the model and end the run as cancelled."""
        self._cancelled = True
        self._stop_reading()

    def lose_lease(self) -> None:
        """Stop at once and say nothing more: the run is another worker's now."""
        self._lease_lost = True
        self._stop_reading()

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()

    async def drive(self) -> bool:
        """Drive the run to its end. True if its terminal event is in the log."""
        async with self._log:
            self._log.on_failure = self._stop_reading
            try:
                if not await self._begin():
                    return True
                if self._assignment.announce_only:
                    await self._announce(
                        RunStatus(self._run.status), self._run.error_code, self._run.error_message
                    )
                else:
                    async with self._permission:
                        await self._answer()
            except LeaseLost:
                log.warning("a run was lost to another worker", run=self._run.id)
                return False
            return True

    # --- beginning ---

    async def _begin(self) -> bool:
        """Say that the run begins, or, when another worker began it, go on from what is there.

        False if its terminal event is there, and nothing is left to be said.
        """
        run = self._run
        if run.attempt <= 1 and not self._assignment.announce_only:
            self._say_started()
            return True
        progress, at = await self._transcript.progress(self._channel)
        self._log.stand(at)
        if run.id in progress.ended:
            return False
        if progress.run_id != run.id:
            self._say_started()
            if any(row.run_id == run.id and row.role == "assistant" for row in self._history):
                await self._restate()
            return True
        for message in progress.messages.values():
            if not message.closed:
                thought = message.role == REASONING
                self._log.say((say.reasoning_message_end if thought else say.text_end)(message.id))
        for phase in progress.phases:
            self._log.say(say.reasoning_phase_end(phase))
        for step in progress.steps:
            self._log.say(say.step_finished(step))
        if not self._assignment.announce_only:
            await self._count_lost(progress)
        # What the lost worker has said and thought in part is void: the snapshot is without it.
        await self._restate()
        return True

    @property
    def _history(self) -> tuple[Message, ...]:
        return self._assignment.history

    def _say_started(self) -> None:
        run = self._run
        asked = [
            as_event_message(message)
            for message in self._history
            if message.turn == run.turn and message.role == "user"
        ]
        # The key tells a first append of unknown outcome from a repetition.
        started = say.run_started(run.conversation_id, run.id, asked)
        self._log.say(started, key=f"{run.id}:start:{run.attempt}")

    async def _count_lost(self, progress: Progress) -> None:
        """Count what the lost worker used for what it did not keep."""
        try:
            model = await self._catalogue.resolve(self._wanted)
        except Fault:  # it was used all the same
            model = unknown(self._wanted)
        prompt = chat_request(model, self._assignment.conversation.instructions, self._history)
        usage = lost_row(self._run, model, prompt.messages, progress, self._history)
        if usage is not None and await self._orchestrator.count_lost(self._run, usage):
            self._count(usage)

    @property
    def _wanted(self) -> str | None:
        assignment = self._assignment
        return self._run.model or assignment.conversation.model or assignment.default_model

    async def _restate(self) -> None:
        """Say all messages again."""
        run = self._run
        rows = await self._transcript.durable(run.tenant_id, run.conversation_id)
        self._log.say(restatement(run, rows, self._generations), whole=True)
        self._log.restated()

    async def _restate_when_due(self) -> None:
        async with self._restating:
            await self._log.settled()
            if self._log.needs_restating:
                await self._restate()

    async def _restate_in_silence(self) -> None:
        """Say all again when it is due, also while the model says nothing."""
        while True:
            await self._log.restating()
            try:
                await self._restate_when_due()
            except LeaseLost:
                return  # the reading is stopped by that, too
            except Fault as fault:
                log.warning("a run could not say again what it said", why=fault.reason)
            await asyncio.sleep(BACK_S)  # it may be due again at once, for as long as that lasts

    # --- answering ---

    async def _answer(self) -> None:
        history = list(self._history)
        number = sum(1 for row in history if row.turn == self._run.turn and row.role == "assistant")
        while True:
            generation = Generation(number)
            self._generations.append(generation)
            fault = await self._generate(generation, history)
            if self._lease_lost:
                raise LeaseLost(self._run.id)
            self._close_messages(generation)
            if fault is not None:
                event = RunEvent.FAILED
            elif generation.done is None:
                event = RunEvent.CANCELLED
            else:
                event = RunEvent.FINISHED
            await self._log.settled()
            if self._log.needs_restating:  # who reads the log must not miss what the old one has
                await self._restate()
                await self._log.settled()
            if await self._end(event, generation, fault):
                return
            history = await self._steer(generation, history)
            number += 1

    async def _generate(self, generation: Generation, history: list[Message]) -> Fault | None:
        """Read the model until it is done, fails, or is stopped; the fault if it failed."""
        if self._cancelled:
            return None
        if self._permission.taken:
            return self._permission.fault()
        if self._run.attempt > MAX_ATTEMPTS:
            return Fault("internal_error", f"The run's worker was lost {MAX_ATTEMPTS} times.")
        reading = self._reading = asyncio.create_task(self._read_model(generation, history))
        restating = asyncio.create_task(self._restate_in_silence())
        try:
            await asyncio.wait({reading})
        finally:
            self._reading = None
            reading.cancel()  # we may be being shut down: leave nothing running
            restating.cancel()
            await asyncio.wait({reading, restating})
        if reading.cancelled():
            self._raise_log_failure()
            taken = self._permission.taken and not self._cancelled
            return self._permission.fault() if taken else None
        failure = reading.exception()
        if failure is None or isinstance(failure, Fault):
            return failure
        if isinstance(failure, LeaseLost):
            raise failure
        log.error("a run failed unexpectedly", run=self._run.id, exc_info=failure)
        return Fault("internal_error")

    def _raise_log_failure(self) -> None:
        if not self._cancelled and not self._lease_lost and not self._permission.taken:
            # Only the log's own failure stops the reading otherwise; this raises it.
            self._log.say()

    async def _read_model(self, generation: Generation, history: list[Message]) -> None:
        await self._permission.given()
        assignment = self._assignment
        model = self._model = await self._catalogue.resolve(self._wanted)
        request = chat_request(model, assignment.conversation.instructions, history)
        generation.prompt = request.messages
        asked_at = perf_counter()
        waiting = True
        client = self._catalogue.client()
        since = assignment.answers_since
        shelf = Shelf(self._run.tenant_id, since, model.digest) if since is not None else None
        async with aclosing(self._answers.chat(client, request, shelf)) as parts:
            async for part in parts:
                if waiting:
                    waiting = False
                    self._metrics.first_token_seconds.labels(model.name).observe(
                        perf_counter() - asked_at
                    )
                if isinstance(part, ChatDone):
                    generation.done = part
                elif isinstance(part, ReasoningDelta):
                    self._think(generation, part.text)
                elif part.text:
                    self._speak(generation, part.text)
                if self._log.needs_restating:
                    await self._restate_when_due()
                if self._log.crowded:
                    await self._log.settled()

    def _think(self, generation: Generation, delta: str) -> None:
        thought = generation.thinking
        if thought is None:
            thought = OpenMessage(new_id("m"), REASONING)
            generation.thoughts.append(thought)
            self._log.say(*say.reasoning_start(thought.id))
        thought.parts.append(delta)
        self._log.text(thought.id, delta, reasoning=True)

    def _stop_thinking(self, generation: Generation) -> None:
        thought = generation.thinking
        if thought is not None:
            thought.closed = True
            self._log.say(*say.reasoning_end(thought.id))

    def _speak(self, generation: Generation, delta: str) -> None:
        if not generation.started:
            self._stop_thinking(generation)
            generation.started = True
            self._log.say(say.text_start(generation.message_id))
        generation.parts.append(delta)
        self._log.text(generation.message_id, delta)

    def _close_messages(self, generation: Generation) -> None:
        self._stop_thinking(generation)
        if generation.started:
            generation.closed = True
            self._log.say(say.text_end(generation.message_id))

    # --- ending ---

    async def _end(self, event: RunEvent, generation: Generation, fault: Fault | None) -> bool:
        usage = row_of(self._run, self._model, generation)
        ended = await self._orchestrator.finish(
            self._run,
            event,
            output=generation.output(complete=generation.done is not None),
            usage=usage,
            fault=fault,
        )
        if not ended:
            return False
        self._count(usage)
        status = {
            RunEvent.FINISHED: RunStatus.SUCCEEDED,
            RunEvent.CANCELLED: RunStatus.CANCELLED,
        }.get(event, RunStatus.FAILED)
        await self._announce(
            status, fault.reason if fault else None, fault.message if fault else None
        )
        self._metrics.runs.labels(str(status)).inc()
        if fault is not None and self._permission.taken:
            self._metrics.revocations.labels("run", fault.reason).inc()
        return True

    def _count(self, usage: Usage | None) -> None:
        """Note what was used, once it is kept."""
        if usage is not None:
            self._used.append(usage)
            tokens = self._metrics.tokens
            tokens.labels(usage.model, "input").inc(usage.input_tokens)
            tokens.labels(usage.model, "output").inc(usage.output_tokens)

    async def _steer(self, generation: Generation, history: list[Message]) -> list[Message]:
        """Keep the answer, say what it is to be steered by, and give the longer history."""
        output = generation.output(complete=True)
        run = self._run
        if output is not None:
            usage = row_of(run, self._model, generation)
            await self._orchestrator.keep(run, output, usage)
            self._count(usage)
        steering = await self._orchestrator.steering(run, generation.number)
        for message in steering:
            self._log.say(say.text_start(message.id, "user"))
            self._log.text(message.id, message.content)
            self._log.say(say.text_end(message.id))
        return [*history, self._spoken(generation), *steering]

    def _spoken(self, generation: Generation) -> Message:
        """What a generation has said so far, as the message that it is going to be."""
        run = self._run
        return Message(
            id=generation.message_id,
            tenant_id=run.tenant_id,
            conversation_id=run.conversation_id,
            turn=run.turn,
            step=generation.step,
            role="assistant",
            content=generation.text,
        )

    async def _announce(self, status: RunStatus, code: str | None, message: str | None) -> None:
        run = self._run
        usage = [say.usage_of(*used) for used in summed(self._used)]
        if status is RunStatus.FAILED:
            event = say.run_error(run.id, code or "internal_error", message or "", usage)
        else:
            event = say.run_finished(run.conversation_id, run.id, _OUTCOMES[status], usage)
        self._log.say(event, key=f"{run.id}:end")
        await self._log.settled()
