"""Conversations: where messages are sent and answers come from."""

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any

from hub_client.connection import Connection
from hub_client.events import Since
from hub_client.pages import pages
from hub_client.presence import Presence
from hub_client.records import Access, Answer, Group, Message, Present, Run, Share
from hub_client.runs import BUFFER, OnBusy, RunStream, Sending
from hub_client.subscription import Subscription


class Conversation:
    """One conversation. ``info`` is what the hub last said of it (empty for a mere handle)."""

    def __init__(self, connection: Connection, id: str, info: Mapping[str, Any]) -> None:
        self.id = id
        self.info = dict(info)
        self._connection = connection

    def __repr__(self) -> str:
        return f"<Conversation {self.id} {self.title!r}>"

    @property
    def channel(self) -> str:
        return f"conversation:{self.id}"

    @property
    def title(self) -> str | None:
        return self.info.get("title")

    @property
    def model(self) -> str | None:
        return self.info.get("model")

    @property
    def instructions(self) -> str | None:
        return self.info.get("instructions")

    @property
    def owner_id(self) -> str | None:
        return self.info.get("owner_id")

    @property
    def access(self) -> str | None:
        """What you are to it: its ``owner``, or the ``reader``, ``writer`` or ``approver`` that it
        is shared with you as; None for who sees it by a permission for others' conversations.
        """
        return self.info.get("access")

    @property
    def created_at(self) -> datetime | None:
        value = self.info.get("created_at")
        return datetime.fromisoformat(value) if value else None

    @property
    def updated_at(self) -> datetime | None:
        value = self.info.get("updated_at")
        return datetime.fromisoformat(value) if value else None

    def send(
        self,
        content: str,
        *,
        model: str | None = None,
        on_busy: OnBusy | None = None,
        client_message_id: str | None = None,
        cancel_on_break: bool = False,
        timeout: float | None = None,
        **params: Any,
    ) -> RunStream:
        """Send a message; iterate the answer for its run's events (see RunStream).

        ``timeout``: seconds for the whole run; by default there is no limit but the hub's own.
        ``client_message_id``: an id of yours makes sending again safe after a crash of yours.
        ``params`` go to ``message.send`` as they are.
        """
        sending = Sending(content, model, on_busy, client_message_id, params)
        return RunStream(
            self._connection,
            self.id,
            sending,
            cancel_on_break=cancel_on_break,
            timeout=timeout,
        )

    async def ask(
        self,
        content: str,
        *,
        model: str | None = None,
        on_busy: OnBusy | None = None,
        client_message_id: str | None = None,
        cancel_on_break: bool = False,
        timeout: float | None = None,
        **params: Any,
    ) -> Answer:
        """Send a message and wait for the whole answer. Raises what ``send`` raises.

        With ``cancel_on_break``, the run is cancelled when this call is cancelled or times out.
        """
        async with self.send(
            content,
            model=model,
            on_busy=on_busy,
            client_message_id=client_message_id,
            cancel_on_break=cancel_on_break,
            timeout=timeout,
            **params,
        ) as stream:
            async for _ in stream:
                pass
            run = stream.follower
            return Answer(
                text="\n\n".join(text for text in run.texts.values() if text),
                run_id=run.run_id,
                message_id=next(reversed(run.texts), None),
                outcome=run.outcome,
                usage=run.usage,
            )

    async def cancel(self) -> list[Run]:
        """Cancel the runs that are active or queued here; answers them."""
        params = {"conversation_id": self.id}
        active = [
            run
            async for item in pages(self._connection, "run.list", params)
            if (run := Run.parse(item)).active
        ]
        return [
            Run.parse(await self._connection.call("run.cancel", {"run_id": run.id}))
            for run in active
        ]

    async def messages(self) -> AsyncIterator[Message]:
        """The stored messages, page by page as they are asked for."""
        async for item in pages(self._connection, "message.list", {"conversation_id": self.id}):
            yield Message.parse(item)

    def subscribe(
        self, since: Since = None, *, buffer: int = BUFFER, acknowledge: bool = True
    ) -> Subscription:
        """The conversation's events: from now on, from the ``"start"`` or after a position.

        Subscribers of one conversation share one subscription at the hub; each has a buffer of
        its own (see Subscription). In a persistent session: see ``Hub.subscribe``.
        """
        return self._connection.subscribe(
            self.channel, since, buffer, remember=True, acknowledge=acknowledge
        )

    def presence(self) -> Presence:
        """Be present, and see who is, in ``async with`` (see Presence)."""
        return Presence(self._connection, self.channel)

    async def present(self) -> list[Present]:
        """Who is there now, without being there."""
        answer = await self._connection.call("channel.presence", {"channel": self.channel})
        return [Present.parse(item) for item in answer["items"]]

    async def typing(self, typing: bool = True) -> None:
        """Tell the others that you type, or do no more, while ``presence()`` is open.

        It is over 6 s after it was last said: say it again every 3 s. Raises Conflict without
        ``presence()``, RateLimited.
        """
        params = {"channel": self.channel, "typing": typing}
        await self._connection.call("channel.typing", params)

    async def update(self, **changes: Any) -> None:
        """Change ``title``, ``model`` or ``instructions``."""
        params = {"conversation_id": self.id, **changes}
        self.info = await self._connection.call("conversation.update", params)

    async def delete(self) -> None:
        """Delete it and all that is in it."""
        await self._connection.call("conversation.delete", {"conversation_id": self.id})

    async def share(
        self,
        access: Access,
        *,
        user_id: str | None = None,
        email: str | None = None,
        group_id: str | None = None,
        expires_at: datetime | None = None,
    ) -> Share:
        """Share it with a colleague, named by ``user_id`` or ``email``, or with all who are in a
        group, or change how it is shared with them.

        ``expires_at`` (aware) is when that ends by itself. Raises NotFound where there is no such
        colleague or group, PermissionDenied for more than you may do here yourself.
        """
        if expires_at is not None and expires_at.tzinfo is None:
            raise ValueError("expires_at needs a time zone")
        given = {
            "access": access,
            "user_id": user_id,
            "email": email,
            "group_id": group_id,
            "expires_at": expires_at and expires_at.isoformat(),
        }
        params = {key: value for key, value in given.items() if value is not None}
        answer = await self._connection.call(
            "conversation.share", {"conversation_id": self.id, **params}
        )
        return Share.parse(answer)

    async def unshare(self, user_id: str | None = None, *, group_id: str | None = None) -> None:
        """Share it with a colleague, or a group, no longer. Raises NotFound if it is not."""
        given = {"user_id": user_id, "group_id": group_id}
        params = {key: value for key, value in given.items() if value is not None}
        params["conversation_id"] = self.id
        await self._connection.call("conversation.unshare", params)

    async def shares(self) -> AsyncIterator[Share]:
        """With which users and groups it is shared, page by page as they are asked for."""
        params = {"conversation_id": self.id}
        async for item in pages(self._connection, "conversation.shares", params):
            yield Share.parse(item)


class Conversations:
    """``hub.conversations``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def create(
        self,
        *,
        title: str | None = None,
        model: str | None = None,
        instructions: str | None = None,
    ) -> Conversation:
        given = {"title": title, "model": model, "instructions": instructions}
        params = {key: value for key, value in given.items() if value is not None}
        return self._made(await self._connection.call("conversation.create", params))

    async def get(self, conversation_id: str) -> Conversation:
        """Raises NotFound."""
        params = {"conversation_id": conversation_id}
        return self._made(await self._connection.call("conversation.get", params))

    def handle(self, conversation_id: str) -> Conversation:
        """The conversation without asking the hub for it."""
        return Conversation(self._connection, conversation_id, {})

    async def list(self, *, shared: bool = False) -> AsyncIterator[Conversation]:
        """Your conversations, or those that are ``shared`` with you, page by page as they are asked
        for.
        """
        params = {"shared": True} if shared else {}
        async for item in pages(self._connection, "conversation.list", params):
            yield self._made(item)

    async def groups(self) -> AsyncIterator[Group]:
        """The groups that a conversation can be shared with, page by page as they are asked for.
        Raises PermissionDenied for who may share none.
        """
        async for item in pages(self._connection, "group.names", {}):
            yield Group.parse(item)

    def _made(self, info: Mapping[str, Any]) -> Conversation:
        return Conversation(self._connection, info["id"], info)
