"""The numbers of the wire, each with its source. Seconds, bytes and counts.

"Contract" is the section of ``README.md`` beside this file.
"""

from typing import Final

SUBPROTOCOL: Final = "agenthub.v1"
"""The WebSocket subprotocol (contract 1)."""

MAX_FRAME_BYTES: Final = 65_536
"""A frame from a client, in bytes of UTF-8 after inflation (contract 2); more closes with 1009."""
MAX_HUB_FRAME_BYTES: Final = 1_048_576
"""A frame from the hub: a page or a snapshot is longer than a request. It is what one outbox
holds, and the default ``max_size`` of the usual client library, so that clients accept it."""
MAX_DEPTH: Final = 32
"""Nested arrays and objects in a frame, its own braces being the first (contract 2)."""
MAX_ID_CHARS: Final = 128
"""A request id that is a string. It is echoed in every answer and kept while the request runs; a
UUID, a ULID and a trace id all fit. The number is ours: JSON-RPC 2.0 sets none."""
MAX_FAULTY_FRAMES: Final = 10
"""Faulty frames in a connection's life; the tenth closes it with 4501 (contract 2)."""

AUTHENTICATE_DEADLINE_S: Final = 10.0
"""From the opening of the connection to valid credentials (contract 1); then 4502."""
EXPIRING_NOTICE_S: Final = 30.0
"""How long before the access token runs out ``session.expiring`` is sent (contract 8)."""
EXPIRED_GRACE_S: Final = 25.0
"""From the token's end to the close with 4005 (contract 8)."""
HEARTBEAT_S: Final = 25.0
"""Between two pings of the hub (contract 8); below the 30 to 60 s after which common proxies drop
a silent connection."""
PONG_DEADLINE_S: Final = 8.0
"""From a ping to its pong (contract 8); then 4012."""
SESSION_KEEP_S: Final = 86_400.0
"""How long a persistent session's subscriptions are kept without a connection (contract 1)."""
SESSION_KEY_PATTERN: Final = r"^[\x21-\x7e]{1,128}$"
"""The name that a client gives its persistent session: visible ASCII (contract 1)."""
MAX_SESSIONS: Final = 20
"""Persistent sessions that one user may have in a tenant; the number is ours."""
MAX_SUBSCRIPTIONS: Final = 200
"""Channels that one connection may follow, and a persistent session may remember (contract 4)."""

OUTBOX_BYTES: Final = 1_048_576
"""Frames that wait for one slow reader; then deltas are joined, then 4008 (contract 4)."""
MAX_CLOSE_REASON_BYTES: Final = 123
"""RFC 6455 section 5.5: a control frame carries 125 bytes, two of which are the close code."""
MAX_IN_FLIGHT: Final = 64
"""Requests that one connection may have unanswered; the next is answered ``rate_limited``."""
FRAMES_PER_S: Final = 200
"""Frames of one client in the long run: three times a reader of 64 busy conversations who refreshes
each every second (contract 2)."""
FRAMES_BURST: Final = 1_000
"""Frames of one client at once: 200 subscriptions taken up again, several times over (contract 2).
As many more, refused, close with 4029."""

CLIENT_LIMITS: Final[dict[str, int]] = {
    "max_frame_bytes": MAX_FRAME_BYTES,
    "max_hub_frame_bytes": MAX_HUB_FRAME_BYTES,
    "max_depth": MAX_DEPTH,
    "max_id_chars": MAX_ID_CHARS,
    "max_faulty_frames": MAX_FAULTY_FRAMES,
    "max_in_flight": MAX_IN_FLIGHT,
    "frames_per_s": FRAMES_PER_S,
    "frames_burst": FRAMES_BURST,
}
"""The limits that ``session.ready`` tells the client."""
