"""Padding: of how many values a statement is, rounded up. Pure.

The text of ``IN (…)`` has a place for each value, and each text is a statement of its own, which
every connection prepares and remembers. So those that are asked with another number of values each
time are asked with one of a few numbers.
"""

from collections.abc import Collection
from typing import TypeVar

V = TypeVar("V")


def padded(values: Collection[V]) -> list[V]:
    """The values, the last of them repeated until they are as many as a power of two."""
    found = list(values)
    if len(found) > 2:
        found += found[-1:] * ((1 << (len(found) - 1).bit_length()) - len(found))
    return found
