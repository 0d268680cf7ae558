"""How fast one connection may send frames: a token bucket that also knows who does not listen."""

from hub.protocol.limits import FRAMES_BURST, FRAMES_PER_S


class Pace:
    """``FRAMES_PER_S`` in the long run, ``FRAMES_BURST`` at once. Pure: ``now`` is any clock's.

    A frame that is refused counts too: who waits when told to is taken again, and who sends on
    gets ever deeper below, and has flooded when it is as far below as a burst is long.
    """

    __slots__ = ("_at", "_level")

    def __init__(self, now: float) -> None:
        self._level = float(FRAMES_BURST)
        self._at = now

    def take(self, now: float) -> int:
        """Count a frame: 0 if it may be answered, else the milliseconds until one may."""
        self._level += (now - self._at) * FRAMES_PER_S
        self._at = now
        if self._level > FRAMES_BURST:
            self._level = float(FRAMES_BURST)
        self._level -= 1.0
        if self._level >= 0.0:
            return 0
        return 2 + int((1.0 - self._level) / FRAMES_PER_S * 1000)

    @property
    def flooded(self) -> bool:
        return self._level < -FRAMES_BURST
