"""The mailing: makes the tokens that people ask for, and sends them, after they were answered.

Whoever asks is answered before anything is looked up, so that the answer, and the time it takes,
is the same whether an address has an account or not. What waits is bounded and in memory. A letter
that the mail server does not take is tried again for some minutes, and holds up no other; one that
it will never take is not. What a node takes with it when it ends is asked for again: whoever misses
a letter has a button for it, and a token that was never sent is good for nobody.
"""

import asyncio
from datetime import timedelta
from typing import Final, Literal, NamedTuple

from hub.faults import Fault
from hub.identity.accounts import account_tokens
from hub.identity.accounts.account_tokens import LIVES, Purpose
from hub.identity.accounts.addresses import user_of
from hub.identity.accounts.delivery import Delivery, Letter, Undelivered
from hub.identity.sessions.throttle import Throttle
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import User
from hub.telemetry.logs import log
from hub.telemetry.metrics import Metrics

WAITING: Final = 1_000
"""Letters that wait, those among them that are tried again."""
AT_ONCE: Final = 2
PAUSES_S: Final = (2.0, 10.0, 60.0, 240.0)
"""After each attempt to hand a letter over, before the next. Its link is good for longer."""

Kind = Literal["verify", "reset", "known", "welcome", "invited", "move", "taken", "factor"]
"""What a letter is for. ``known``: somebody registers with an address that has an account.
``welcome``: an administrator has made an account for it; ``invited``: wanted to, and it has one.
``move``: an account is to have this address; ``taken``: was to, and it has another.
``factor``: to do without a second factor; to who has none as well, which is for nobody to learn.
"""
Notice = Literal["moved"]
"""What somebody is told that takes no token. ``moved``: their account has another address now."""

_SUBJECTS: Final[dict[Kind | Notice, str]] = {
    "verify": "Confirm your e-mail address",
    "reset": "Choose a new password",
    "known": "You have an account already",
    "welcome": "An account was made for you",
    "invited": "You are invited",
    "move": "Confirm your new e-mail address",
    "taken": "You have an account already",
    "factor": "Do without your second factor",
    "moved": "Your e-mail address was changed",
}
_TOKENS: Final[dict[Kind, Purpose]] = {
    "verify": "verify",
    "reset": "reset",
    "known": "reset",
    "welcome": "reset",
    "invited": "reset",
    "move": "move",
    "taken": "reset",
    "factor": "factor",
}
_LIVES: Final[dict[Kind, timedelta]] = {"welcome": timedelta(days=1)}
"""How long the token of a letter is good for that its reader did not ask for; of others, as long as
its purpose says."""
_TEXTS: Final[dict[Kind | Notice, str]] = {
    "verify": "Somebody, you we hope, has given this address to the agent hub at {url}.\n"
    "To confirm that it is yours, open this link within a day:\n\n"
    "{link}\n\n"
    "If it was not you, do nothing.\n",
    "reset": "Somebody, you we hope, wants to choose a new password at the agent hub at {url}.\n"
    "To do so, open this link within {minutes} minutes. It works once, and ends all sessions:\n\n"
    "{link}\n\n"
    "If it was not you, do nothing: your password stays as it is.\n",
    "known": "Somebody, you we hope, wanted to register with this address at the agent hub at\n"
    "{url}. It has an account there already, which stays as it is: sign in with its password. To\n"
    "choose a new one instead, open this link within {minutes} minutes. It works once, and ends\n"
    "all sessions:\n\n"
    "{link}\n\n"
    "If it was not you, do nothing: whoever it was has not learnt that you have an account.\n",
    "welcome": "An administrator has made an account for this address at the agent hub at {url}.\n"
    "To choose a password for it, open this link within a day. It works once; after that, have\n"
    "another sent there, as one who has forgotten the password:\n\n"
    "{link}\n\n"
    "If you want none, do nothing: without a password nobody comes in.\n",
    "invited": "An administrator at the agent hub at {url} has invited this address. It has an\n"
    "account there already: sign in with its password. To choose a new one instead, open this\n"
    "link within {minutes} minutes. It works once, and ends all sessions:\n\n"
    "{link}\n\n"
    "If you do not want to, do nothing: whoever it was has not learnt that you have an account.\n",
    "move": "Somebody, you we hope, wants to have this address for their account at the agent hub\n"
    "at {url}. To confirm that it is yours, open this link within a day. From then on the account\n"
    "has this address in place of the one before:\n\n"
    "{link}\n\n"
    "If it was not you, do nothing.\n",
    "taken": "Somebody, you we hope, wanted to have this address for another account at the agent\n"
    "hub at {url}. It has one of its own there already, and both stay as they are: sign in with\n"
    "its password. To choose a new one instead, open this link within {minutes} minutes. It works\n"
    "once, and ends all sessions:\n\n"
    "{link}\n\n"
    "If it was not you, do nothing: whoever it was has not learnt that you have an account.\n",
    "factor": "An administrator at the agent hub at {url} was told that you have lost your second\n"
    "factor. To do without it, open this link within a day. It works once; from then on your\n"
    "password alone signs you in, until you enrol another:\n\n"
    "{link}\n\n"
    "If you have not lost one, do nothing: all stays as it is.\n",
    "moved": "Your account at the agent hub at {url} has another e-mail address now, which\n"
    "somebody asked for who knows its password. Letters about it go there from now on.\n\n"
    "If it was not you, tell an administrator of the hub at once.\n",
}
_INVITED: Final = (
    "\nThe invitation is for you alone, and works once, when you sign in with it or are signed\n"
    "in. Its code:\n\n"
    "{code}\n"
)


class _Wish(NamedTuple):
    kind: Kind
    address: str  # in the form in which it is kept
    invitation: str | None = None
    user_id: str | None = None


class _Attempt(NamedTuple):
    letter: Letter
    before: int  # attempts that there were


class Mailing:
    """Sends letters, one after the other. ``await start()`` … ``await close()``."""

    def __init__(
        self,
        database: Database,
        delivery: Delivery,
        throttle: Throttle,
        metrics: Metrics,
        url: str,
    ) -> None:
        """``url``: where people reach the hub, for the links."""
        self._database = database
        self._delivery = delivery
        self._throttle = throttle
        self._metrics = metrics
        self._url = url
        self._wishes: asyncio.Queue[_Wish | _Attempt] = asyncio.Queue()
        self._waiting = 0  # letters that somebody asked for and that are not done with
        self._none = asyncio.Event()
        self._none.set()
        self._later: set[asyncio.TimerHandle] = set()
        self._workers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to send."""
        self._workers = [asyncio.create_task(self._work()) for _ in range(AT_ONCE)]

    async def close(self) -> None:
        """Send no more; what waits is lost. Idempotent."""
        for worker in self._workers:
            worker.cancel()
        for timer in self._later:
            timer.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        if self._waiting:
            log.warning("letters that waited are lost", letters=self._waiting)
            self._metrics.letters.labels("dropped").inc(self._waiting)
            self._waiting = 0
            self._none.set()

    def want(
        self,
        kind: Kind,
        address: str,
        invitation: str | None = None,
        *,
        user_id: str | None = None,
    ) -> None:
        """Have a letter sent to the user with this address, if there is one whom it can help.

        ``invitation``: the code of one, which the letter has too. ``user_id``: who is to have the
        address, for a ``move``. Raises Fault("rate_limited") when too many wait.
        """
        if self._waiting >= WAITING:
            self._metrics.letters.labels("dropped").inc()
            raise Fault(
                "rate_limited", "Too many letters wait.", details={"retry_after_ms": 10_000}
            )
        self._take(_Wish(kind, address, invitation, user_id))

    def notify(self, notice: Notice, address: str) -> None:
        """Have an address told of something, whoever has it; not if too many letters wait."""
        if self._waiting >= WAITING:
            self._metrics.letters.labels("dropped").inc()
            return
        text = _TEXTS[notice].format(url=self._url)
        self._take(_Attempt(Letter(address, _SUBJECTS[notice], text), 0))

    def _take(self, wish: _Wish | _Attempt) -> None:
        self._waiting += 1
        self._none.clear()
        self._wishes.put_nowait(wish)

    async def sent(self) -> None:
        """Return when nothing waits and nothing is under way."""
        await self._none.wait()

    async def _work(self) -> None:
        while True:
            wish = await self._wishes.get()
            outcome: str | None = "failed"
            try:
                outcome = await self._fulfil(wish)
            except Fault as fault:
                log.warning("a letter could not be written", why=fault.reason)
            except Exception:
                # It costs the letters behind it nothing, and is counted as failed.
                log.exception("writing a letter failed")
            if outcome != "retried":
                self._done()
            if outcome is not None:
                self._metrics.letters.labels(outcome).inc()

    def _done(self) -> None:
        self._waiting -= 1
        if not self._waiting:
            self._none.set()

    async def _fulfil(self, wish: _Wish | _Attempt) -> str | None:
        """What has become of it, as the metric says; None: there was nobody to write to."""
        if isinstance(wish, _Wish):
            if not await self._throttle.may_write_to(wish.address):
                # Those that were sent are still good: nobody is kept out by what another asks for.
                return "dropped"
            letter = await self.write(*wish)
            if letter is None:
                return None
            wish = _Attempt(letter, 0)
        return await self._hand_over(wish)

    async def write(
        self,
        kind: Kind,
        address: str,
        invitation: str | None = None,
        user_id: str | None = None,
    ) -> Letter | None:
        """The letter, with a new token; None where there is nobody to help by it."""
        async with self._database.write(EVERY_TENANT) as session:
            user = await user_of(session, address)
            if kind == "move" and user is not None:
                kind = "taken"
            elif kind == "move":
                user = await session.get(User, user_id)
            if user is None or user.disabled_at is not None:
                return None
            if kind == "verify" and user.verified_at is not None:
                return None
            token = account_tokens.make(
                session, user, _TOKENS[kind], address=address, lives=_LIVES.get(kind)
            )
        text = text_of(kind, token, self._url)
        if invitation is not None:
            text += _INVITED.format(code=invitation)
        return Letter(address, _SUBJECTS[kind], text)

    async def _hand_over(self, attempt: _Attempt) -> str:
        try:
            await self._delivery.deliver(attempt.letter)
        except Undelivered as error:
            if error.lasting or attempt.before >= len(PAUSES_S):
                log.error("a letter was not delivered", why=str(error), see="HUB_SMTP_URL")
                return "failed"
            self._put_off(attempt._replace(before=attempt.before + 1), PAUSES_S[attempt.before])
            return "retried"
        return "sent"

    def _put_off(self, attempt: _Attempt, pause_s: float) -> None:
        def due() -> None:
            self._later.discard(timer)
            self._wishes.put_nowait(attempt)

        timer = asyncio.get_running_loop().call_later(pause_s, due)
        self._later.add(timer)


def text_of(kind: Kind, token: str, url: str) -> str:
    """What a letter says. ``url``: where people reach the hub."""
    purpose = _TOKENS[kind]
    minutes = int(LIVES[purpose].total_seconds() // 60)
    return _TEXTS[kind].format(link=link(purpose, token, url), url=url, minutes=minutes)


def link(purpose: Purpose, token: str, url: str) -> str:
    """Where the token is shown. It is in the part of the URL that no server is sent."""
    # An address is verified in the same way, whether the account has it or is to have it.
    shown = "verify" if purpose == "move" else purpose
    return f"{url}/#{shown}={token}"
