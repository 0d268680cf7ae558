"""How letters reach people: by a mail server, or, while one develops, in the log.

A letter holds a single-use token, so the log is no place for it where the hub is for real: there a
hub without a mail server does not start.
"""

import asyncio
import smtplib
import ssl
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Final, Protocol
from urllib.parse import unquote, urlsplit

from hub.settings import BadSettings, Settings, is_here
from hub.settings.production import NO_MAIL, for_real
from hub.telemetry.logs import log

TIMEOUT_S: Final = 10.0
"""How long the mail server may take for each step."""


@dataclass(frozen=True, slots=True)
class Letter:
    """What is sent to somebody, in plain text."""

    to: str
    subject: str
    text: str


class Undelivered(Exception):
    """The letter was not taken; the message says why, without anything of the letter. ``lasting``:
    it will not be taken another time either.
    """

    def __init__(self, why: str, *, lasting: bool = False) -> None:
        super().__init__(why)
        self.lasting = lasting


class Delivery(Protocol):
    """Takes letters to people."""

    async def deliver(self, letter: Letter) -> None:
        """Hand the letter over. Raises Undelivered; nothing hangs."""


def open_delivery(settings: Settings) -> Delivery:
    """The mail server of HUB_SMTP_URL; without one the log, in development alone.

    Raises BadSettings for production without a mail server.
    """
    production = settings.environment == "production"
    if settings.smtp_url is not None:
        url = settings.smtp_url.get_secret_value()
        careful = production and not is_here(urlsplit(url).hostname or "")
        required = careful if settings.smtp_tls is None else settings.smtp_tls == "required"
        return SmtpDelivery(url, settings.mail_from, tls_required=required)
    if production:
        raise BadSettings(for_real(NO_MAIL))
    return LogDelivery()


class LogDelivery:
    """Writes letters to the log: the one place where a token may stand in it."""

    async def deliver(self, letter: Letter) -> None:
        # One field, and none whose name says that it is secret: the operator is to read it.
        log.warning("a letter that no mail server takes", to=letter.to, text=letter.text)


class SmtpDelivery:
    """Hands letters to a mail server (RFC 5321, RFC 6409), each over a connection of its own."""

    def __init__(self, url: str, sender: str, *, tls_required: bool = False) -> None:
        """``url``: ``smtp://`` or ``smtps://``, as HUB_SMTP_URL takes it. ``tls_required``: send
        nothing in the clear.
        """
        parts = urlsplit(url)
        self._encrypted = parts.scheme == "smtps"
        self.tls_required = tls_required or self._encrypted
        self._host = parts.hostname or "localhost"
        self._port = parts.port or (465 if self._encrypted else 587)
        self._user = unquote(parts.username) if parts.username else None
        self._password = unquote(parts.password or "")
        self._sender = sender

    async def deliver(self, letter: Letter) -> None:
        try:
            # smtplib blocks, with a deadline for each step.
            await asyncio.to_thread(self._send, _message(letter, self._sender))
        except (OSError, smtplib.SMTPException, ValueError) as error:
            raise Undelivered(_why(error), lasting=_lasts(error)) from None

    def _send(self, message: EmailMessage) -> None:
        context = ssl.create_default_context()
        with self._connected(context) as server:
            server.ehlo()
            safe = self._encrypted
            if not safe and server.has_extn("starttls"):
                server.starttls(context=context)
                server.ehlo()
                safe = True
            if self.tls_required and not safe:
                raise ValueError("it offers no TLS, without which no letter goes (HUB_SMTP_TLS)")
            if self._user is not None:
                if not safe and not is_here(self._host):
                    raise ValueError("it offers no TLS, without which no password is sent to it")
                server.login(self._user, self._password)
            server.send_message(message)

    def _connected(self, context: ssl.SSLContext) -> smtplib.SMTP:
        if self._encrypted:
            return smtplib.SMTP_SSL(self._host, self._port, timeout=TIMEOUT_S, context=context)
        return smtplib.SMTP(self._host, self._port, timeout=TIMEOUT_S)


def _message(letter: Letter, sender: str) -> EmailMessage:
    message = EmailMessage()
    message["From"] = sender
    message["To"] = letter.to
    message["Subject"] = letter.subject
    message["Date"] = formatdate()
    message["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2])
    # RFC 3834: no answering machine is to answer it.
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(letter.text)
    return message


def _why(error: Exception) -> str:
    """What went wrong, in the server's code or the system's words: its own may quote the letter."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        codes = sorted({code for code, _ in error.recipients.values()})
        return f"the mail server refuses the recipient ({', '.join(map(str, codes))})"
    if isinstance(error, smtplib.SMTPResponseException):
        return f"the mail server answers {error.smtp_code}"
    if isinstance(error, smtplib.SMTPException):
        return f"the mail server cannot be used ({type(error).__name__})"
    if isinstance(error, OSError):
        return f"the mail server cannot be reached: {error.strerror or type(error).__name__}"
    return str(error)


def _lasts(error: Exception) -> bool:
    """Whether the server refuses this letter for good (RFC 5321, section 4.2.1: 5yz)."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return all(code >= 500 for code, _ in error.recipients.values())
    if isinstance(error, smtplib.SMTPSenderRefused | smtplib.SMTPDataError):
        return error.smtp_code >= 500
    return False
