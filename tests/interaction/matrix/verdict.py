"""What the table says of one cell of the matrix."""

from dataclasses import dataclass
from typing import Final

from tests.interaction.matrix.table import (
    ABOVE,
    ANYBODY,
    APPROVER,
    FOREIGN,
    GROUP,
    MISSING,
    NARROW,
    NONE,
    OWN,
    READER,
    SEEN,
    SENIOR,
    SIGNED_IN,
    THE,
    WRITER,
    WRONG,
    Row,
)

_LESS: Final = {
    WRITER: (READER, WRITER),
    GROUP: (READER, WRITER),
    READER: (READER,),
    APPROVER: (READER,),
}
"""The shares that each share is as good as; one that has expired is as good as none."""


@dataclass(frozen=True)
class Who:
    """Somebody who asks: ``role``, "" for nobody. ``key``: by an API key, "narrow" or "wide".
    ``founder``: in the tenant that the hub began with. ``program``: a service account.
    """

    name: str
    role: str
    key: str = ""
    founder: bool = False
    program: bool = False


EVERYBODY: Final = (
    Who("nobody", ""),
    *(Who(role, role) for role in ("viewer", "service", "member", "operator", "admin", "owner")),
    Who("another tenant's owner", "owner"),
    Who("the hub's operator", "owner", founder=True),
    Who("a member's narrow key", "member", key="narrow"),
    Who("the owner's wide key", "owner", key="wide"),
    Who("a service account's key", "service", key="wide", program=True),
)


def expected(who: Who, row: Row, relation: str, transport: str) -> str:
    """What is answered: ``done``, or a fault's reason, and perhaps how its message begins."""
    answer = _whatever_it_is(who, row, relation, transport)
    if answer:
        return answer
    if row.on in ("tenant", "operated", "the hub"):
        return _of_tenants(who, row, relation)
    if relation in (FOREIGN, MISSING, WRONG):
        return "not_found"
    if relation == OWN:
        return row.oneself or row.then
    answer = _at_home(who.role, row, relation)
    if relation == SENIOR and row.ranked and who.role != "owner" and answer == row.then:
        return "permission_denied"
    return answer


def _whatever_it_is(who: Who, row: Row, relation: str, transport: str) -> str:
    """What is answered whatever is there; "" where it depends on that."""
    if not who.role:
        # On a socket credentials come first, whatever is asked.
        return row.then if row.may == ANYBODY and transport == "rest" else "unauthenticated"
    if row.may == ANYBODY:
        return row.then
    if row.may == SIGNED_IN:
        return row.then if row.by_key or not who.key else "permission_denied: No API key"
    narrow = who.key == "narrow" and row.operation not in NARROW
    if narrow or not _reaches(who.role, row.may):
        return "permission_denied"
    return row.special.get((who.role, relation), "")


def _at_home(role: str, row: Row, relation: str) -> str:
    """Of what is in the tenant and not one's own."""
    whole = relation == THE and row.others == "nobody"
    of_all = relation == NONE or whole or (relation == SENIOR and row.on in ("user", "colleague"))
    shares = _LESS.get(relation, ())
    if of_all or _reaches(role, row.others) or row.carried in shares:
        return row.then
    share, seer = SEEN.get(row.on, ("", "nobody"))
    sees = _reaches(role, seer) or share in shares
    return "permission_denied" if sees else "not_found"


def _of_tenants(who: Who, row: Row, relation: str) -> str:
    """Each tenant is its own; how they are operated is a matter of the one that the hub began with,
    which reaches into all others.
    """
    if relation in (MISSING, WRONG) or (
        not who.founder and (relation != OWN or row.on != "tenant")
    ):
        return "not_found"
    return (row.founders if who.founder and relation == OWN else "") or row.then


def _reaches(role: str, lowest: str) -> bool:
    return any(role in ABOVE[each] for each in lowest.split())
