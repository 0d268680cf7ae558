"""The Python client of the realtime agent hub.

::

    async with connect("http://127.0.0.1:8000", email="me@example.org", password="…") as hub:
        conversation = await hub.conversations.create(title="Sky")
        async for event in conversation.send("Why is the sky blue?"):
            print(event.delta, end="", flush=True)
"""

from hub_client.account import (
    accept_invitation,
    recover,
    resend,
    reset_factor,
    reset_password,
    verify_email,
)
from hub_client.auth import register
from hub_client.callbacks import Registration
from hub_client.conversations import Conversation
from hub_client.events import Event, Position
from hub_client.faults import (
    CallTimedOut,
    ConnectFailed,
    ConnectionClosed,
    ConnectionLost,
    Fault,
    HubError,
    SubscriberTooSlow,
    SubscriptionEnded,
)
from hub_client.frames import Notice
from hub_client.hub import Hub, connect
from hub_client.presence import Presence, PresenceChange
from hub_client.records import Answer, Group, Message, Model, Present, Run, Share, Usage
from hub_client.runs import RunStream
from hub_client.subscription import Subscription

__all__ = [
    "Answer",
    "CallTimedOut",
    "ConnectFailed",
    "ConnectionClosed",
    "ConnectionLost",
    "Conversation",
    "Event",
    "Fault",
    "Group",
    "Hub",
    "HubError",
    "Message",
    "Model",
    "Notice",
    "Position",
    "Presence",
    "PresenceChange",
    "Present",
    "Registration",
    "Run",
    "RunStream",
    "Share",
    "SubscriberTooSlow",
    "Subscription",
    "SubscriptionEnded",
    "Usage",
    "accept_invitation",
    "connect",
    "recover",
    "register",
    "resend",
    "reset_factor",
    "reset_password",
    "verify_email",
]
