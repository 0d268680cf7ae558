"""The mailing: makes the tokens that people ask for, and sends them, after they were answered.

Whoever asks is answered before anything is looked up, so that the answer, and the time it takes,
is the same whether an address has an account or not. What waits is in memory: a letter that a node
takes with it when it dies is asked for again.
"""

import asyncio
from typing import Final, NamedTuple

from hub.faults import Fault
from hub.identity import account_tokens
from hub.identity.account_tokens import LIVES, Purpose
from hub.identity.addresses import user_of
from hub.identity.delivery import Delivery, Letter, Undelivered
from hub.identity.throttle import Throttle
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.telemetry.logs import log
from hub.telemetry.metrics import Metrics

WAITING: Final = 1_000
AT_ONCE: Final = 2
PAUSES_S: Final = (0.0, 2.0, 10.0)
"""Before each attempt to hand a letter over."""

_SUBJECTS: Final[dict[Purpose, str]] = {
    "verify": "Confirm your e-mail address",
    "reset": "Choose a new password",
}
_TEXTS: Final[dict[Purpose, str]] = {
    "verify": "Somebody, you we hope, has given this address to the agent hub at {url}.\n"
    "To confirm that it is yours, open this link within a day:\n\n"
    "{link}\n\n"
    "If it was not you, do nothing.\n",
    "reset": "Somebody, you we hope, wants to choose a new password at the agent hub at {url}.\n"
    "To do so, open this link within {minutes} minutes. It works once, and ends all sessions:\n\n"
    "{link}\n\n"
    "If it was not you, do nothing: your password stays as it is.\n",
}


class _Wish(NamedTuple):
    purpose: Purpose
    address: str  # in the form in which it is kept


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
        self._wishes: asyncio.Queue[_Wish] = asyncio.Queue(WAITING)
        self._workers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to send."""
        self._workers = [asyncio.create_task(self._work()) for _ in range(AT_ONCE)]

    async def close(self) -> None:
        """Send no more; what waits is lost. Idempotent."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    def want(self, purpose: Purpose, address: str) -> None:
        """Have a letter sent to the user with this address, if there is one whom it can help.

        Raises Fault("rate_limited") when too many wait.
        """
        try:
            self._wishes.put_nowait(_Wish(purpose, address))
        except asyncio.QueueFull:
            self._metrics.letters.labels("dropped").inc()
            raise Fault(
                "rate_limited", "Too many letters wait.", details={"retry_after_ms": 10_000}
            ) from None

    async def sent(self) -> None:
        """Return when nothing waits and nothing is under way."""
        await self._wishes.join()

    async def _work(self) -> None:
        while True:
            wish = await self._wishes.get()
            try:
                await self._fulfil(wish)
            except Fault as fault:
                log.warning("a letter could not be written", why=fault.reason)
                self._metrics.letters.labels("failed").inc()
            except Exception:
                log.exception("writing a letter failed")
                self._metrics.letters.labels("failed").inc()
            finally:
                self._wishes.task_done()

    async def _fulfil(self, wish: _Wish) -> None:
        if not await self._throttle.may_write_to(wish.address):
            # Those that were sent are still good: nobody is kept out by what another asks for.
            self._metrics.letters.labels("dropped").inc()
            return
        letter = await self.write(wish.purpose, wish.address)
        if letter is not None:
            await self._hand_over(letter)

    async def write(self, purpose: Purpose, address: str) -> Letter | None:
        """The letter, with a new token; None where there is nobody to help by it."""
        async with self._database.write(EVERY_TENANT) as session:
            user = await user_of(session, address)
            if user is None or user.disabled_at is not None:
                return None
            if purpose == "verify" and user.verified_at is not None:
                return None
            token = account_tokens.make(session, user, purpose)
        return Letter(address, _SUBJECTS[purpose], text_of(purpose, token, self._url))

    async def _hand_over(self, letter: Letter) -> None:
        why = ""
        for pause in PAUSES_S:
            await asyncio.sleep(pause)
            try:
                await self._delivery.deliver(letter)
            except Undelivered as error:
                why = str(error)
            else:
                self._metrics.letters.labels("sent").inc()
                return
        log.error("a letter was not delivered", why=why, see="HUB_SMTP_URL")
        self._metrics.letters.labels("failed").inc()


def text_of(purpose: Purpose, token: str, url: str) -> str:
    """What a letter says. ``url``: where people reach the hub."""
    minutes = int(LIVES[purpose].total_seconds() // 60)
    return _TEXTS[purpose].format(link=link(purpose, token, url), url=url, minutes=minutes)


def link(purpose: Purpose, token: str, url: str) -> str:
    """Where the token is shown. It is in the part of the URL that no server is sent."""
    return f"{url}/#{purpose}={token}"
