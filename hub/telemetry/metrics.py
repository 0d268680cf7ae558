"""The metrics, each declared once; the reference page of the metrics is made from this table."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from hub.telemetry.deliveries import Deliveries
from hub.telemetry.lookups import Caches
from hub.telemetry.waiting import Waiting

_FAST: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SLOW: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """All metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.connections = Gauge(
            "hub_connections", "Open WebSocket connections.", registry=registry
        )
        self.streams = Gauge(
            "hub_streams", "Open streams of server-sent events.", registry=registry
        )
        self.waiting = Waiting()
        registry.register(self.waiting)
        self.subscriptions = Gauge(
            "hub_subscriptions", "Subscriptions of channels.", registry=registry
        )
        self.tasks = Gauge("hub_tasks", "Tasks of this process's event loop.", registry=registry)
        self.requests = Counter(
            "hub_requests",
            "Requests answered, by method, transport and fault reason (`ok` if none).",
            ("method", "transport", "reason"),
            registry=registry,
        )
        self.request_seconds = Histogram(
            "hub_request_seconds",
            "Time to answer a request, by method.",
            ("method",),
            buckets=_FAST,
            registry=registry,
        )
        self.closes = Counter(
            "hub_closes",
            "WebSocket connections ended, by whom (`hub`, `peer`, or `lost`: without a close "
            "frame) and close code (1006 when lost; `other` for one of a peer that no table has).",
            ("by", "code"),
            registry=registry,
        )
        self.stream_ends = Counter(
            "hub_stream_ends",
            "Streams of server-sent events ended, by reason, as the stream was told it (`gone`: "
            "the client left).",
            ("reason",),
            registry=registry,
        )
        self.door = Counter(
            "hub_door",
            "Connections that asked for a sign-in where there is a door, by what became of them: "
            "`handed` over to it, `kept` by the process that they came to because the door was "
            "away or full, or `taken` in by the door.",
            ("outcome",),
            registry=registry,
        )
        self.ping_seconds = Histogram(
            "hub_ping_seconds",
            "Time from a ping to its pong, of all WebSocket connections.",
            buckets=_FAST,
            registry=registry,
        )
        self.faulty_frames = Counter(
            "hub_faulty_frames", "Frames that were refused.", registry=registry
        )
        self.events_appended = Counter(
            "hub_events_appended", "Events appended by runs.", registry=registry
        )
        self.rate_refusals = Counter(
            "hub_rate_refusals",
            "Requests refused because somebody made too many, by whose budget it was.",
            ("scope",),
            registry=registry,
        )
        self.caches = Caches(
            "permissions", "roles", "roles_shared", "resources", "models", "replies", "answers"
        )
        registry.register(self.caches)
        self.deliveries = Deliveries()
        registry.register(self.deliveries)
        self.pubsub_lag = Histogram(
            "hub_pubsub_lag_seconds",
            "Time from publishing a message to hearing it, of one that the node sends itself every "
            "five seconds as it sends events: of a cluster, by one of its servers.",
            buckets=_FAST,
            registry=registry,
        )
        self.joined = Counter(
            "hub_events_joined",
            "Deltas that went out as part of another event, by where they were joined: `outbox` "
            "while they waited for a reader, `log` for one that reads the log.",
            ("where",),
            registry=registry,
        )
        self.resumes = Counter(
            "hub_resumes", "Subscriptions begun, by outcome.", ("outcome",), registry=registry
        )
        self.sessions_begun = Counter(
            "hub_persistent_sessions",
            "Persistent sessions that a connection took, by outcome (`new`, `resumed`).",
            ("outcome",),
            registry=registry,
        )
        self.gap_fills = Counter(
            "hub_gap_fills",
            "Gaps in a live channel that were filled from its log.",
            registry=registry,
        )
        self.backplane_away = Gauge(
            "hub_backplane_away", "1 while Redis does not answer this node.", registry=registry
        )
        self.local_logs = Gauge(
            "hub_local_logs",
            "Channels whose log is this node's own, while Redis is away.",
            registry=registry,
        )
        self.log_switches = Counter(
            "hub_log_switches",
            "Channels that changed their log because Redis went away or came back, by the log that "
            "they changed to (`local`, `shared`).",
            ("to",),
            registry=registry,
        )
        self.revocations = Counter(
            "hub_revocations",
            "What was ended because it is allowed no more, by what (`connection`, `subscription`, "
            "`stream`, `run`) and why.",
            ("what", "reason"),
            registry=registry,
        )
        self.presence_members = Gauge(
            "hub_presence_members",
            "Users present in channels through this process, each once in each channel.",
            registry=registry,
        )
        self.presence_events = Counter(
            "hub_presence_events",
            "Events of presence put into outboxes, by kind.",
            ("kind",),
            registry=registry,
        )
        self.runs = Counter("hub_runs", "Runs ended, by status.", ("status",), registry=registry)
        self.runs_active = Gauge(
            "hub_runs_active", "Runs being driven by this process.", registry=registry
        )
        self.run_takeovers = Counter(
            "hub_run_takeovers", "Runs begun again after their worker was lost.", registry=registry
        )
        self.first_token_seconds = Histogram(
            "hub_first_token_seconds",
            "Time from a run's start to the model's first token, by model.",
            ("model",),
            buckets=_SLOW,
            registry=registry,
        )
        self.tokens = Counter(
            "hub_tokens",
            "Tokens used, by model and direction.",
            ("model", "direction"),
            registry=registry,
        )
        self.quota_refusals = Counter(
            "hub_quota_refusals",
            "Messages that were refused because a quota is used up, by whose it is (`user`, `key`, "
            "`tenant`) and which.",
            ("subject", "quota"),
            registry=registry,
        )
        self.logins = Counter(
            "hub_logins",
            "Sign-ins, by outcome (`accepted`, `refused`, `limited`, `challenged` for a second "
            "factor, or `provider`: accepted by way of one).",
            ("outcome",),
            registry=registry,
        )
        self.letters = Counter(
            "hub_letters",
            "Letters about addresses and passwords, by outcome: `sent`, `retried` (not taken, and "
            "tried again), `failed`, `dropped` (too many were asked for, or the hub has ended).",
            ("outcome",),
            registry=registry,
        )
        self.audit_entries = Counter(
            "hub_audit_entries",
            "Entries of audit trails written by this process, by outcome.",
            ("outcome",),
            registry=registry,
        )
        self.audit_dropped = Counter(
            "hub_audit_dropped",
            "Refusals that are not in an audit trail one by one, by why: too many of one `source` "
            "or `tenant`, the `queue` was full, or writing them `failed`.",
            ("why",),
            registry=registry,
        )
        self.audit_verifications = Counter(
            "hub_audit_verifications",
            "Verifications of audit trails, by outcome (`whole`, `tampered`, or `disputed`: it is "
            "not what the caller says to know).",
            ("outcome",),
            registry=registry,
        )
        self.audit_missing = Counter(
            "hub_audit_missing",
            "Operations that should have left an entry in an audit trail and did not, by method: a "
            "fault of the hub.",
            ("method",),
            registry=registry,
        )

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The page for Prometheus and its content type, as the ``Accept`` header asks."""
        if "application/openmetrics-text" in accept:
            page: bytes = openmetrics.generate_latest(self.registry)  # type: ignore[no-untyped-call]
            return page, openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(self.registry), "text/plain; version=0.0.4; charset=utf-8"
