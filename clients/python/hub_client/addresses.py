"""The addresses of one hub, from the one that a person writes. Pure."""

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

_SCHEMES = {"http": ("http", "ws"), "https": ("https", "wss")} | {
    "ws": ("http", "ws"),
    "wss": ("https", "wss"),
}

_ADVICE: Final = {
    401: ": the credentials are not valid",
    403: ": the credentials do not allow it",
    404: ": is it a hub?",
}


@dataclass(frozen=True, slots=True)
class Address:
    """``http``: where the REST side begins, without a trailing slash; ``socket``: the WebSocket.

    ``local``: it is this machine, which no proxy stands before.
    """

    http: str
    socket: str
    local: bool

    @property
    def encrypted(self) -> bool:
        return self.http.startswith("https:")

    def advice(self, status: int) -> str:
        """What may be wrong with the address when it is answered with this HTTP status."""
        path = urlsplit(self.http).path
        if path and status in (403, 404, 405):
            return f": nothing of a hub is at {path}; try {self.http[: -len(path)]}"
        return _ADVICE.get(status, "")


def parse_address(url: str) -> Address:
    """``http://host:8000``, ``https://host/prefix``, ``wss://host`` or ``host:8000``.

    Raises ValueError for anything else, and for credentials in the address.
    """
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ValueError(f"{url!r} is not the address of a hub, like http://127.0.0.1:8000")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("the address of a hub holds no credentials, query or fragment")
    http, socket = _SCHEMES[parts.scheme]
    rest = f"{parts.netloc}{parts.path.rstrip('/').removesuffix('/ws')}"
    local = parts.hostname in ("localhost", "::1") or parts.hostname.startswith("127.")
    return Address(f"{http}://{rest}", f"{socket}://{rest}/ws", local)
