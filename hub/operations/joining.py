"""Where a reader of a channel begins, and what it is told of the state there."""

from collections.abc import Mapping
from typing import Any

from hub.agents.conversations.transcript import Transcript
from hub.events.channels import log_of
from hub.events.fanout import Fanout, Join
from hub.events.live import Reader
from hub.events.position import Since


async def begin(
    fanout: Fanout,
    transcript: Transcript,
    reader: Reader,
    *,
    channel: str,
    tenant_id: str,
    since: Since,
) -> tuple[Join, Mapping[str, Any] | None]:
    """A subscription to be followed or abandoned, and the snapshot that it begins with: a
    conversation's whose log cannot continue ``since``, at the subscription's position.

    Raises Fault("backend_unavailable").
    """
    join = await fanout.join(log_of(channel, tenant_id), reader, since)
    kind, _, identifier = channel.partition(":")
    if join.recovered or kind != "conversation":
        return join, None
    try:
        taken = await transcript.snapshot(tenant_id, identifier)
    except BaseException:
        join.abandon()
        raise
    join.position = taken.position
    return join, taken.event
