"""Scopes: the part of somebody's permissions that a key of theirs is limited to. Pure."""

from collections.abc import Collection
from typing import Final

from hub.rbac.permissions import ANY, common, declaration

NOT_UNLESS_NAMED: Final = ("apikey:", "service:", "tool:")
"""What a key is not given unless its scope says so: a key that makes keys outlives itself, and what
tools do is done outside of the hub, those of a ``*`` that come later included.
"""


def narrowed(permissions: frozenset[str], scopes: Collection[str]) -> frozenset[str]:
    """What remains of ``permissions`` for a key with these scopes."""
    return common(permissions, frozenset(scopes))


def default_scopes(permissions: Collection[str]) -> frozenset[str]:
    """The scopes of a key that somebody with these permissions makes and names none for."""
    return frozenset(name for name in permissions if not name.startswith(NOT_UNLESS_NAMED))


def completed(scopes: Collection[str]) -> frozenset[str]:
    """The scopes that are meant: what reaches what others own reaches one's own as well.

    Raises ValueError, which says what to do, for one that is no permission.
    """
    meant = frozenset(scopes) | {name.removesuffix(ANY) for name in scopes}
    unknown = sorted(name for name in meant if declaration(name) is None)
    if unknown:
        raise ValueError(f"there is no permission {unknown[0]!r}; see `hub reference`")
    return meant
