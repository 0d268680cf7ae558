"""A real identity provider (npm's ``oidc-provider``), and a browser without a screen."""

import html
import json
import os
import re
import select
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx
import pytest

from tests import node
from tests.parts.hub import ROOT
from tests.parts.ports import free_port

SECRET = "a-secret-of-the-client-that-nobody-logs"
NAME = "main"
_STEPS = 20
_STARTS = 3
_START_S = 30.0


@dataclass
class IdentityProvider:
    """``start`` it when the hub's address is known: it sends browsers back to there alone."""

    folder: Path
    port: int = field(default_factory=free_port)
    accounts: dict[str, dict[str, Any]] = field(default_factory=dict)
    process: "subprocess.Popen[str] | None" = None

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def settings(self, **more: Any) -> str:
        """``HUB_OIDC_PROVIDERS`` of a hub that signs in through it."""
        one = {
            "name": NAME,
            "label": "Main Street",
            "issuer": self.issuer,
            "client_id": "hub",
            "client_secret": SECRET,
            "role": "member",
        }
        return json.dumps([{**one, **more}])

    def account(self, login: str, **claims: Any) -> None:
        """What it says of who signs in as ``login``, from now on."""
        self.accounts[login] = {
            "email": f"{login}@corp.example",
            "email_verified": True,
            "name": login.capitalize(),
            **claims,
        }
        (self.folder / "accounts.json").write_text(json.dumps(self.accounts))

    def start(self, hub_url: str) -> None:
        """Start it (again), with new keys."""
        self.stop()
        self.folder.mkdir(parents=True, exist_ok=True)
        config = {
            "issuer": self.issuer,
            "port": self.port,
            "accounts": str(self.folder / "accounts.json"),
            "clients": [
                {
                    "client_id": "hub",
                    "client_secret": SECRET,
                    "redirect_uris": [f"{hub_url}/v1/auth/oidc/{NAME}/callback"],
                }
            ],
        }
        (self.folder / "config.json").write_text(json.dumps(config))
        (self.folder / "accounts.json").write_text(json.dumps(self.accounts))
        for _ in range(_STARTS):
            if self._starts():
                return
            self.stop()
        raise AssertionError(f"no provider:\n{(self.folder / 'log').read_text()}")

    def _starts(self) -> bool:
        """Whether it says within a while that it is ready: Node can lock itself up as it starts."""
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                ["node", "provider.mjs", str(self.folder / "config.json")],
                cwd=node.place(ROOT),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        said = self.process.stdout
        assert said is not None
        there, _, _ = select.select([said], [], [], _START_S)
        return bool(there) and said.readline().strip() == "ready"

    def stop(self) -> None:
        """End it."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()


@dataclass
class Browser:
    """Follows redirects with its cookies, and fills in the provider's forms."""

    client: httpx.AsyncClient
    seen: list[str] = field(default_factory=list)
    """Every address that it was sent to."""

    async def until(
        self, url: str, arrived: Callable[[str], bool], login: str, *, cancel: bool = False
    ) -> str:
        """Go on from ``url`` until there is an address that has ``arrived``, which is not asked."""
        answer = await self.client.get(url, headers={"accept": "text/html"})
        for _ in range(_STEPS):
            while answer.is_redirect:
                target = urljoin(str(answer.url), answer.headers["location"])
                self.seen.append(target)
                if arrived(target):
                    return target
                answer = await self.client.get(target, headers={"accept": "text/html"})
            if answer.status_code != 200:
                raise AssertionError(f"{answer.url} answered {answer.status_code}: {answer.text}")
            page = answer.text
            if cancel and (abort := re.search(r'href="([^"]+/abort)"', page)):
                target = urljoin(str(answer.url), html.unescape(abort[1]))
                answer = await self.client.get(target)
                continue
            form = re.search(r'<form[^>]*action="([^"]+)"', page)
            assert form is not None, page
            fields = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page))
            if 'name="login"' in page:
                fields |= {"login": login, "password": "anything"}
            answer = await self.client.post(
                urljoin(str(answer.url), html.unescape(form[1])), data=fields
            )
        raise AssertionError(f"never arrived: {self.seen}")

    async def sign_in(self, hub_url: str, login: str, query: str = "", **more: Any) -> str:
        """Sign in at the hub through the provider: the address of the web client it ends at."""
        start = f"{hub_url}/v1/auth/oidc/{NAME}/start{query}"
        return await self.until(start, lambda url: url.startswith(f"{hub_url}/#"), login, **more)


def fragment(url: str) -> dict[str, str]:
    """What the fragment of an address says."""
    return {name: values[0] for name, values in parse_qs(urlsplit(url).fragment).items()}


def _there() -> None:
    if shutil.which("node") and node.is_here(ROOT):
        return
    missing = "the identity provider of the tests is not installed: tests/run does it, with npm"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.fixture(scope="module")
def identity_provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IdentityProvider]:
    """A provider, not started yet; ended with the module."""
    _there()
    provider = IdentityProvider(tmp_path_factory.mktemp("provider"))
    yield provider
    provider.stop()
