"""What a provider's claims give: pure. Rules are written ``groups=hub-admins:admin``."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from hub.settings.providers import ProviderSettings


class Given(NamedTuple):
    """A role in a tenant, both as the settings write them."""

    tenant: str
    role: str


def given(provider: ProviderSettings, claims: Mapping[str, Any]) -> tuple[Given, ...]:
    """What these claims give, in the order of the rules and each once; the provider's ``role`` to
    whom no rule gives anything. Empty: nothing, and so no way in.
    """
    found = [
        Given(rule.tenant or provider.tenant, rule.role)
        for rule in provider.roles
        if rule.value in values(claims, rule.claim)
    ]
    if not found and provider.role is not None:
        found = [Given(provider.tenant, provider.role)]
    return tuple(dict.fromkeys(found))


def values(claims: Mapping[str, Any], name: str) -> frozenset[str]:
    """The values of a claim: its one, or those of its list; ``a.b`` is ``b`` in the object ``a``
    unless there is a claim of that whole name.
    """
    value: Any = claims.get(name)
    if value is None and "." in name:
        value = claims
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
    several = value if isinstance(value, list) else [value]
    return frozenset(text for one in several if (text := _text(one)) is not None)


def capped(role: str, ceiling: str, ranks: Mapping[str, int]) -> str | None:
    """The role, or the ceiling in place of one that ranks above it; None when either is unknown."""
    if role not in ranks or ceiling not in ranks:
        return None
    return role if ranks[role] <= ranks[ceiling] else ceiling


def admits(provider: ProviderSettings, address: str | None) -> bool:
    """Whether a user with this address, which the provider vouches for, may come at all."""
    if not provider.domains:
        return True
    return address is not None and address.rpartition("@")[2].lower() in provider.domains


def _text(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int) else None
