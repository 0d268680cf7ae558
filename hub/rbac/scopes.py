"""Scopes: the part of somebody's permissions that a key of theirs is limited to. Pure."""

from collections.abc import Collection
from typing import Final

from hub.rbac.permissions import ANY, PERMISSIONS

NOT_UNLESS_NAMED: Final = ("apikey:", "service:")
"""What a key is not given unless its scope says so: a key that makes keys outlives itself."""


def narrowed(permissions: frozenset[str], scopes: Collection[str]) -> frozenset[str]:
    """What remains of ``permissions`` for a key with these scopes."""
    return permissions.intersection(scopes)


def default_scopes(permissions: Collection[str]) -> frozenset[str]:
    """The scopes of a key that somebody with these permissions makes and names none for."""
    return frozenset(name for name in permissions if not name.startswith(NOT_UNLESS_NAMED))


def faulty(scopes: Collection[str]) -> str | None:
    """What is wrong with these scopes in themselves, and what to do; None if nothing is."""
    unknown = sorted(set(scopes) - set(PERMISSIONS))
    if unknown:
        return f"There is no permission {unknown[0]!r}; see `hub reference`."
    for name in sorted(scopes):
        if name.endswith(ANY) and name.removesuffix(ANY) not in scopes:
            return f"{name} reaches nothing without {name.removesuffix(ANY)}; name both."
    return None
