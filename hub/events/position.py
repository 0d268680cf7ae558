"""Where a subscriber wants to begin in a channel's log."""

from typing import Final, Literal

from hub.backplane.interface import Position

START: Final = "start"

Since = None | Literal["start"] | Position
"""``None``: from now on. ``"start"``: from the oldest entry. A position: after that entry."""


def parse_since(text: str | None) -> Since:
    """``since`` as the server-sent events and query strings write it: ``start`` or ``epoch:seq``.

    Raises ValueError for anything else.
    """
    if text is None or text == "":
        return None
    if text == START:
        return "start"
    epoch, colon, seq = text.rpartition(":")
    if not colon or not epoch or not seq.isascii() or not seq.isdigit() or len(seq) > 15:
        raise ValueError("since is `start` or `epoch:seq`")
    return Position(epoch, int(seq))
