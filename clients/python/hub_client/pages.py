"""Lists that page by themselves."""

from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol


class Caller(Protocol):
    """What can make a request."""

    async def call(
        self, method: str, params: dict[str, Any], timeout: float | None = None
    ) -> dict[str, Any]:
        """Make a request."""


async def pages(
    caller: Caller, method: str, params: Mapping[str, Any], limit: int = 100
) -> AsyncIterator[dict[str, Any]]:
    """The items of a list method, asking for the next page when the last one is used up."""
    cursor: str | None = None
    while True:
        asked = {**params, "limit": limit} | ({"cursor": cursor} if cursor else {})
        page = await caller.call(method, asked)
        for item in page["items"]:
            yield item
        cursor = page.get("next_cursor")
        if not cursor:
            return
