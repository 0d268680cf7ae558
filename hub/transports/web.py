"""The web client's files, at ``/`` and ``/web/``."""

from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

_HERE: Final = Path(__file__).resolve()
# Beside us in an installed distribution; in a checkout, where it is written.
_PLACES: Final = (_HERE.parent / "web_client", _HERE.parents[2] / "clients" / "web")

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class _Files(StaticFiles):
    def file_response(self, *args: object, **kwargs: object) -> Response:
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        response.headers.update(_HEADERS)
        return response


def web_routes() -> list[BaseRoute]:
    """The page and its files. Raises FileNotFoundError if the distribution lacks them."""
    folder = next((place for place in _PLACES if (place / "index.html").is_file()), None)
    if folder is None:
        raise FileNotFoundError("the web client's files are missing from this installation")

    async def index(request: Request) -> Response:
        return FileResponse(folder / "index.html", headers=_HEADERS)

    return [Route("/", index), Mount("/web", _Files(directory=folder))]
