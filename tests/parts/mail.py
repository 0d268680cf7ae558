"""A mail server of the tests' own (RFC 5321, with STARTTLS and AUTH PLAIN where it is told to)."""

import asyncio
import base64
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Final

import pytest

WITHIN_S: Final = 8.0


@dataclass
class MailServer:
    """What it was sent. ``refuse``: how many more letters it answers with ``refusal``."""

    port: int = 0
    refuse: int = 0
    refusal: str = "451 come back later"
    tls: ssl.SSLContext | None = None
    account: tuple[str, str] | None = None
    letters: list[EmailMessage] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)
    _came: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.port}"

    async def letter_to(self, address: str, holding: str = "") -> EmailMessage:
        """Take the oldest letter to this address that holds this text, or wait for it."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                for at, letter in enumerate(self.letters):
                    if letter["To"] == address and holding in letter.get_content():
                        return self.letters.pop(at)
                self._came.clear()
                await self._came.wait()

    async def token_to(self, address: str, purpose: str) -> str:
        """Take the oldest letter to this address for this purpose: the token of its link."""
        letter = await self.letter_to(address, f"/#{purpose}=")
        found = re.search(rf"/#{purpose}=([\w-]+)", letter.get_content())
        assert found is not None, letter.get_content()
        return found.group(1)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            await self._converse(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def say(line: str) -> None:
            writer.write(f"{line}\r\n".encode())
            await writer.drain()

        encrypted = False
        await say("220 mail.test ESMTP")
        while line := (await reader.readline()).decode("ascii").strip():
            verb, _, rest = line.partition(" ")
            match verb.upper():
                case "EHLO":
                    offers = ["mail.test", "8BITMIME"]
                    offers += ["STARTTLS"] if self.tls and not encrypted else []
                    offers += ["AUTH PLAIN"] if self.account else []
                    for offer in offers[:-1]:
                        await say(f"250-{offer}")
                    await say(f"250 {offers[-1]}")
                case "STARTTLS":
                    await say("220 go ahead")
                    assert self.tls is not None
                    await writer.start_tls(self.tls)
                    encrypted = True
                case "AUTH":
                    _, user, password = base64.b64decode(rest.split()[1]).decode().split("\0")
                    self.logins.append((user, password))
                    await say("235 ok" if (user, password) == self.account else "535 no")
                case "MAIL" if self.refuse:
                    self.refuse -= 1
                    await say(self.refusal)
                case "MAIL" | "RCPT" | "RSET" | "NOOP":
                    await say("250 ok")
                case "DATA":
                    await say("354 go on")
                    data = await reader.readuntil(b"\r\n.\r\n")
                    body = data[:-3].replace(b"\r\n..", b"\r\n.").replace(b"\r\n", b"\n")
                    self.letters.append(message_from_bytes(body, policy=default))
                    self.encrypted.append(encrypted)
                    self._came.set()
                    await say("250 taken")
                case "QUIT":
                    await say("221 goodbye")
                    return
                case _:
                    await say("502 what?")


@asynccontextmanager
async def mail_serving(server: MailServer) -> AsyncIterator[MailServer]:
    """Serve on a free loopback port."""
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()


@pytest.fixture
async def mail() -> AsyncIterator[MailServer]:
    """A mail server that takes everything."""
    async with mail_serving(MailServer()) as server:
        yield server
