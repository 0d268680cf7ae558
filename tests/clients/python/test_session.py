"""The pure session: correlation, resuming, and events without gap or repeat, whatever happens."""

import json
from typing import Any

import pytest
from hub_client.channels import MAX_RESYNCS
from hub_client.effects import (
    Answered,
    Delivered,
    Effect,
    Ended,
    Postponed,
    Refused,
    Send,
    Subscribed,
)
from hub_client.events import SNAPSHOT, Position
from hub_client.faults import (
    BackendUnavailable,
    BadFrame,
    ConnectionClosed,
    ConnectionLost,
    NotFound,
    ResumeGap,
    SubscriptionEnded,
)
from hub_client.requests import MAX_IN_FLIGHT
from hub_client.session import Session
from hub_client.state import State
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

CHANNEL = "conversation:c_1"


def frame(**members: Any) -> str:
    return json.dumps({"jsonrpc": "2.0"} | members)


def event(seq: int, *, span: int = 1, epoch: str = "e1", text: str = "x") -> str:
    params = {"channel": CHANNEL, "epoch": epoch, "seq": seq, "span": span}
    body = {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": text}
    return frame(method="event", params=params | {"event": body})


def sent(effects: list[Effect]) -> list[dict[str, Any]]:
    return [json.loads(effect.text) for effect in effects if isinstance(effect, Send)]


def ready(session: Session) -> list[Effect]:
    return session.opened() + session.received(frame(method="session.ready", params={}))


def subscribed(session: Session, effects: list[Effect], seq: int = 0, **more: Any) -> list[Effect]:
    (request,) = sent(effects)
    assert request["method"] == "channel.subscribe"
    result = {"epoch": "e1", "seq": seq, "recovered": True} | more
    return session.received(frame(id=request["id"], result=result))


def test_replies_find_their_requests_in_any_order() -> None:
    session = Session()
    ready(session)
    first, _ = session.call("conversation.get", {"conversation_id": "a"})
    second, _ = session.call("conversation.get", {"conversation_id": "b"})
    assert session.received(frame(id=second, result={"n": 2})) == [Answered(second, {"n": 2})]
    assert session.received(frame(id=first, result={"n": 1})) == [Answered(first, {"n": 1})]
    assert session.received(frame(id=first, result={"n": 1})) == []


def test_an_error_reply_is_the_typed_error_of_its_request() -> None:
    session = Session()
    ready(session)
    number, _ = session.call("run.get", {})
    error = {"code": 4040, "message": "No.", "data": {"reason": "not_found"}}
    (effect,) = session.received(frame(id=number, error=error))
    assert isinstance(effect, Refused)
    assert isinstance(effect.error, NotFound)


def test_a_request_made_while_offline_is_sent_when_the_session_is_ready() -> None:
    session = Session()
    number, effects = session.call("conversation.create", {})
    assert effects == []
    (request,) = sent(ready(session))
    assert request["id"] == number


def test_a_lost_connection_repeats_what_is_safe_and_fails_what_is_not() -> None:
    session = Session()
    ready(session)
    read, _ = session.call("run.get", {"run_id": "r"})
    send, _ = session.call("message.send", {"client_message_id": "k", "content": "hi"})
    nameless, _ = session.call("message.send", {"content": "hi"})
    create, _ = session.call("conversation.create", {})
    effects = session.lost(ConnectionClosed(1006))
    assert {effect.id for effect in effects if isinstance(effect, Refused)} == {nameless, create}
    assert all(isinstance(e.error, ConnectionLost) for e in effects if isinstance(e, Refused))
    assert [request["id"] for request in sent(ready(session))] == [read, send]


def test_a_request_whose_caller_left_is_not_repeated_and_its_reply_is_ignored() -> None:
    session = Session()
    ready(session)
    number, _ = session.call("run.get", {})
    session.forget(number)
    assert session.received(frame(id=number, result={})) == []
    session.lost(ConnectionClosed(1006))
    assert sent(ready(session)) == []


def test_no_more_is_sent_at_once_than_the_hub_takes_and_the_rest_follows_in_order() -> None:
    session = Session()
    ready(session)
    effects: list[Effect] = []
    numbers = []
    for _ in range(MAX_IN_FLIGHT + 3):
        number, more = session.call("run.get", {})
        numbers.append(number)
        effects += more
    assert [request["id"] for request in sent(effects)] == numbers[:MAX_IN_FLIGHT]
    assert session.waiting
    first, second, third = numbers[MAX_IN_FLIGHT:]
    session.forget(second)
    answered = session.received(frame(id=numbers[5], result={}))
    assert [request["id"] for request in sent(answered)] == [first]
    session.forget(numbers[0])  # its caller left, but the hub works on it until it answers
    assert sent(session.call("run.get", {})[1]) == []
    error = {"code": 4040, "message": "No.", "data": {"reason": "not_found"}}
    refused = session.received(frame(id=numbers[0], error=error))
    assert [request["id"] for request in sent(refused)] == [third]


def test_what_waits_while_the_hub_is_busy_is_not_lost_with_the_connection() -> None:
    session = Session()
    ready(session)
    numbers = [session.call("conversation.create", {})[0] for _ in range(MAX_IN_FLIGHT + 2)]
    effects = session.lost(ConnectionClosed(1006))
    refused = [effect.id for effect in effects if isinstance(effect, Refused)]
    assert refused == numbers[:MAX_IN_FLIGHT]
    assert [request["id"] for request in sent(ready(session))] == numbers[MAX_IN_FLIGHT:]


def test_the_session_resumes_after_the_last_event_it_delivered() -> None:
    session = Session()
    ready(session)
    subscribed(session, session.want(CHANNEL, "start"))
    session.received(event(1))
    session.received(event(4, span=3))
    session.lost(ConnectionClosed(1006))
    (request,) = sent(ready(session))
    assert request["params"] == {"channel": CHANNEL, "since": {"epoch": "e1", "seq": 4}}


def test_a_repeated_event_is_dropped() -> None:
    session = Session()
    ready(session)
    subscribed(session, session.want(CHANNEL, None), 7)
    assert session.received(event(7)) == []
    assert len(session.received(event(8))) == 1
    assert session.received(event(8)) == []
    assert session.received(event(8, span=2)) == []


@pytest.mark.parametrize(
    "bad",
    [event(12), event(11, span=3), event(11, epoch="e2")],
    ids=["a gap", "an overlapping span", "another log"],
)
def test_events_that_do_not_follow_are_asked_for_again(bad: str) -> None:
    session = Session()
    ready(session)
    subscribed(session, session.want(CHANNEL, None), 9)
    assert len(session.received(event(10))) == 1
    (leave,) = sent(session.received(bad))
    assert leave["method"] == "channel.unsubscribe"
    assert session.received(event(11)) == []  # on its way out; it comes again
    effects = session.received(frame(id=leave["id"], result={}))
    assert sent(effects)[0]["params"]["since"] == {"epoch": "e1", "seq": 10}
    subscribed(session, effects, 10)
    assert len(session.received(event(11))) == 1


def test_a_gap_that_stays_ends_the_subscription_with_an_error() -> None:
    session = Session()
    ready(session)
    subscribed(session, session.want(CHANNEL, None), 9)
    effects: list[Effect] = []
    for _ in range(4):
        effects = session.received(event(20))
        if any(isinstance(effect, Ended) for effect in effects):
            break
        (leave,) = sent(effects)
        subscribed(session, session.received(frame(id=leave["id"], result={})), 9)
    assert isinstance(effects[0], Ended)
    assert isinstance(effects[0].error, ResumeGap)


def test_a_position_that_is_gone_gives_the_snapshot_in_place_of_the_events() -> None:
    session = Session()
    ready(session)
    effects = session.want(CHANNEL, ("e0", 3))
    snapshot = {"type": SNAPSHOT, "messages": []}
    effects = subscribed(session, effects, 40, recovered=False, snapshot=snapshot)
    joined, delivered = effects
    assert joined == Subscribed(CHANNEL, Position("e1", 40))
    assert isinstance(delivered, Delivered)
    assert (delivered.event.type, delivered.event.recovered) == (SNAPSHOT, True)
    assert len(session.received(event(41))) == 1


def test_a_hub_that_neither_resumes_nor_gives_a_snapshot_is_not_believed() -> None:
    session = Session()
    ready(session)
    effects = subscribed(session, session.want(CHANNEL, ("e1", 3)), 40)
    assert isinstance(effects[0], Ended)
    assert sent(effects)[0]["method"] == "channel.unsubscribe"


def test_unsubscribe_and_subscribe_are_never_in_flight_together() -> None:
    session = Session()
    ready(session)
    subscribed(session, session.want(CHANNEL, None))
    (leave,) = sent(session.unwant(CHANNEL))
    assert session.want(CHANNEL, "start") == []
    (back,) = sent(session.received(frame(id=leave["id"], result={})))
    assert back["params"]["since"] == "start"


def test_a_subscription_that_nobody_wants_any_more_when_it_comes_is_left() -> None:
    session = Session()
    ready(session)
    effects = session.want(CHANNEL, None)
    assert session.unwant(CHANNEL) == []
    (leave,) = sent(subscribed(session, effects))
    assert leave["method"] == "channel.unsubscribe"
    assert session.received(frame(id=leave["id"], result={})) == []
    session.lost(ConnectionClosed(1006))
    assert sent(ready(session)) == []


def test_a_subscription_that_the_hub_ends_says_why() -> None:
    session = Session()
    ready(session)
    subscribed(session, session.want(CHANNEL, None))
    params = {"channel": CHANNEL, "reason": "permission_denied"}
    effects = session.received(frame(method="subscription.ended", params=params))
    (ended,) = [effect for effect in effects if isinstance(effect, Ended)]
    assert isinstance(ended.error, SubscriptionEnded)
    assert ended.error.reason == "permission_denied"
    session.lost(ConnectionClosed(1006))
    assert sent(ready(session)) == []


def test_a_subscription_whose_log_was_lost_is_asked_for_again_from_where_it_was() -> None:
    session = Session()
    ready(session)
    subscribed(session, session.want(CHANNEL, None), seq=7)
    params = {"channel": CHANNEL, "reason": "resume_gap"}
    again = session.received(frame(method="subscription.ended", params=params))
    (request,) = sent(again)
    assert request["method"] == "channel.subscribe"
    assert request["params"]["since"] == {"epoch": "e1", "seq": 7}
    assert not [effect for effect in again if isinstance(effect, Ended)]


def away(session: Session) -> list[Effect]:
    """The hub ends the subscription because a part of it is away."""
    params = {"channel": CHANNEL, "reason": "backend_unavailable"}
    return session.received(frame(method="subscription.ended", params=params))


def refusal(id: int, reason: str, **details: int) -> str:
    data = {"reason": reason, "details": details}
    return frame(id=id, error={"code": 5032, "message": "No.", "data": data})


def test_a_subscription_that_the_hub_cannot_carry_now_goes_on_after_a_wait() -> None:
    session = Session()
    ready(session)
    subscribed(session, session.want(CHANNEL, None), seq=7)
    session.received(event(8))
    effects = away(session)
    assert effects[-1] == Postponed(CHANNEL)
    assert not sent(effects)
    assert session.live(CHANNEL) is None
    (request,) = sent(session.again(CHANNEL))
    assert request["params"] == {"channel": CHANNEL, "since": {"epoch": "e1", "seq": 8}}
    assert session.again(CHANNEL) == []


def test_while_the_hub_refuses_it_for_a_passing_reason_it_waits_again_and_else_it_ends() -> None:
    session = Session()
    ready(session)
    subscribed(session, session.want(CHANNEL, None), seq=7)
    away(session)
    for _ in range(9):
        (request,) = sent(session.again(CHANNEL))
        answer = refusal(request["id"], "backend_unavailable", retry_after_ms=1500)
        assert session.received(answer) == [Postponed(CHANNEL, 1.5)]
    (request,) = sent(session.again(CHANNEL))
    (ended,) = session.received(refusal(request["id"], "not_found"))
    assert isinstance(ended, Ended)
    assert isinstance(ended.error, NotFound)


def test_a_subscription_that_was_never_there_is_refused_aloud_though_it_may_pass() -> None:
    session = Session()
    ready(session)
    (request,) = sent(session.want(CHANNEL, None))
    (ended,) = session.received(refusal(request["id"], "backend_unavailable"))
    assert isinstance(ended, Ended)
    assert isinstance(ended.error, BackendUnavailable)


def test_a_new_connection_does_not_wait_for_what_the_old_one_could_not_carry() -> None:
    session = Session()
    ready(session)
    subscribed(session, session.want(CHANNEL, None), seq=7)
    away(session)
    session.lost(ConnectionClosed(1006))
    (request,) = sent(ready(session))
    assert request["params"]["since"] == {"epoch": "e1", "seq": 7}
    assert session.again(CHANNEL) == []


def test_a_wait_that_nobody_is_interested_in_any_more_is_forgotten() -> None:
    session = Session()
    ready(session)
    subscribed(session, session.want(CHANNEL, None))
    away(session)
    assert session.unwant(CHANNEL) == []
    assert session.again(CHANNEL) == []


def test_a_request_of_the_hub_is_answered_that_it_is_not_offered() -> None:
    session = Session()
    ready(session)
    (answer,) = sent(session.received(frame(id="t1", method="tool.invoke", params={})))
    assert (answer["id"], answer["error"]["code"]) == ("t1", -32601)


def test_closing_fails_everything_that_waits_and_everything_after() -> None:
    session = Session()
    ready(session)
    number, _ = session.call("run.get", {})
    session.want(CHANNEL, None)
    error = ConnectionClosed(4503)
    assert session.closed(error) == [Refused(number, error), Ended(CHANNEL, error)]
    with pytest.raises(ConnectionClosed):
        session.call("run.get", {})
    with pytest.raises(ConnectionClosed):
        session.want(CHANNEL, None)


def test_session_ready_twice_is_no_protocol() -> None:
    session = Session()
    ready(session)
    with pytest.raises(BadFrame):
        session.received(frame(method="session.ready", params={}))


def test_a_channel_that_is_left_while_it_comes_back_can_be_had_again() -> None:
    session = Session(persistent=True)
    session.want(CHANNEL, None, remember=True)
    session.opened()
    ready = {"channels": [{"channel": CHANNEL, "epoch": "e1", "seq": 3}]}
    notice = {"jsonrpc": "2.0", "method": "session.ready", "params": ready}
    session.received(json.dumps(notice))
    (left,) = sent(session.unwant(CHANNEL))
    assert left["method"] == "channel.unsubscribe"
    assert session.want(CHANNEL, None, remember=True) == []  # first it is left
    resumed = {"channel": CHANNEL, "epoch": "e1", "seq": 3, "recovered": True}
    late = {"jsonrpc": "2.0", "method": "subscription.resumed", "params": resumed}
    assert sent(session.received(json.dumps(late))) == []
    reply = {"jsonrpc": "2.0", "id": left["id"], "result": {}}
    (asked,) = sent(session.received(json.dumps(reply)))
    assert asked["method"] == "channel.subscribe"


class Resuming(RuleBasedStateMachine):
    """A hub with one log, and a network that breaks, against one subscriber.

    The subscriber's text is always a prefix of the log's, or of the log's from a snapshot on.
    """

    @initialize()
    def begin(self) -> None:
        self.session = Session()
        self.epoch, self.log, self.first = 1, list[str](), 1
        self.inbox: list[str] = []  # frames of the hub on their way
        self.asked: list[dict[str, Any]] = []  # requests on their way
        self.lost = 0
        self.waiting = False
        self.sending: int | None = None  # what the hub's subscription has sent so far
        self.text = ""
        self.apply(self.session.want(CHANNEL, "start"))
        self.connect()
        self.hub_speaks(2)

    @property
    def event_comes(self) -> bool:
        return bool(self.inbox) and '"method": "event"' in self.inbox[0]

    def apply(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self.asked.append(json.loads(effect.text))
            elif isinstance(effect, Delivered):
                event = effect.event
                if event.type == SNAPSHOT:
                    self.text = event.data["messages"][0]["content"]
                else:
                    self.text += event.delta
            elif isinstance(effect, Ended):
                raise AssertionError(effect.error)
            elif isinstance(effect, Postponed):
                self.waiting = True

    def flush(self) -> None:
        if self.sending is None:
            return
        text = self.log[self.sending :]
        if text:
            delta, self.sending = "".join(text), len(self.log)
            epoch = f"e{self.epoch}"
            frame = event(self.sending, span=len(text), epoch=epoch, text=delta)
            self.inbox.append(frame)

    @rule(letters=st.text("abc", min_size=1, max_size=3), joined=st.booleans())
    def append(self, letters: str, joined: bool) -> None:
        for letter in letters:
            self.log.append(letter)
            if not joined:
                self.flush()
        self.flush()

    @rule()
    @precondition(lambda self: self.session.state is State.OFFLINE)
    def connect(self) -> None:
        self.apply(self.session.opened())
        self.inbox = [frame(method="session.ready", params={})]
        self.asked, self.sending = [], None

    @rule()
    @precondition(lambda self: self.session.state is not State.OFFLINE)
    def break_connection(self) -> None:
        self.apply(self.session.lost(ConnectionClosed(1006)))
        self.inbox, self.asked, self.sending = [], [], None

    @rule(count=st.integers(1, 5))
    @precondition(lambda self: self.inbox or self.asked)
    def hub_speaks(self, count: int) -> None:
        for _ in range(count):
            if self.inbox:
                self.apply(self.session.received(self.inbox.pop(0)))
            elif self.asked:
                self.answer(self.asked.pop(0))

    @rule()
    @precondition(lambda self: self.asked)
    def hub_answers(self) -> None:
        self.answer(self.asked.pop(0))

    def answer(self, request: dict[str, Any]) -> None:
        if request["method"] == "channel.unsubscribe":
            self.sending = None
            self.inbox.append(frame(id=request["id"], result={}))
            return
        since, head = request["params"]["since"], len(self.log)
        if since == "start" and self.first == 1:
            at = 0
        elif (
            isinstance(since, dict)
            and since["epoch"] == f"e{self.epoch}"
            and since["seq"] >= self.first - 1
        ):
            at = since["seq"]
        else:
            at = -1
        result: dict[str, Any] = {"epoch": f"e{self.epoch}", "seq": at, "recovered": True}
        if at < 0:
            snapshot = {"type": SNAPSHOT, "messages": [{"content": "".join(self.log)}]}
            result |= {"seq": head, "recovered": False, "snapshot": snapshot}
        self.inbox.append(frame(id=request["id"], result=result))
        self.sending = result["seq"]
        self.flush()

    @rule()
    @precondition(lambda self: self.event_comes and self.lost < MAX_RESYNCS)
    def lose_a_frame(self) -> None:
        """A hub with a defect; the client has to notice."""
        self.inbox.pop(0)
        self.lost += 1

    @rule()
    @precondition(lambda self: self.event_comes)
    def repeat_a_frame(self) -> None:
        self.inbox.insert(0, self.inbox[0])

    @rule()
    @precondition(lambda self: self.sending is not None)
    def hub_cannot_carry_it(self) -> None:
        params = {"channel": CHANNEL, "reason": "backend_unavailable"}
        self.inbox.append(frame(method="subscription.ended", params=params))
        self.sending = None

    @rule()
    @precondition(lambda self: self.waiting)
    def wait_is_over(self) -> None:
        self.waiting = False
        self.apply(self.session.again(CHANNEL))

    @rule()
    def trim_the_log(self) -> None:
        self.first = len(self.log) + 1

    @rule()
    @precondition(lambda self: self.session.state is State.OFFLINE)
    def lose_the_log(self) -> None:
        self.epoch += 1
        self.log, self.first = ["z"], 1

    @invariant()
    def what_was_delivered_is_the_log(self) -> None:
        if self.session.live(CHANNEL) is not None:
            assert "".join(self.log).startswith(self.text)

    def teardown(self) -> None:
        """In the end, on a network that works, everything arrives."""
        if self.session.state is State.OFFLINE:
            self.connect()
        for letter in "de":
            while self.inbox or self.asked or self.waiting:
                if self.inbox or self.asked:
                    self.hub_speaks(1)
                else:
                    self.wait_is_over()
            self.append(letter, joined=False)
        while self.inbox or self.asked:
            self.hub_speaks(1)
        assert self.text == "".join(self.log)


TestResuming = Resuming.TestCase
TestResuming.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
