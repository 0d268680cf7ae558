"""What is told of a user who asks for all that there is of them, and of nobody else."""

import json
import re
from datetime import timedelta
from typing import Any, Final

import pytest
from sqlmodel import SQLModel

from hub.identity.accounts.export import SECTIONS, Exports, Item
from hub.ids import new_id
from hub.operations.own_account import ExportPage
from hub.storage import tables
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import (
    ApiKey,
    ClientSession,
    Conversation,
    DisabledMember,
    Grant,
    Group,
    GroupMember,
    Invitation,
    MemberName,
    ProvidedRole,
    Quota,
    TotpFactor,
    now,
)
from tests.identity.houses import House, share

NOT_TOLD: Final = {
    "users.email": "told in the profile, which is found by its id",
    "invitations.email": "of somebody else, as a rule; who came by it is its guest",
    "account_tokens.user_id": "the hash of a token that is good for hours",
    "account_tokens.email": "where its letter went",
    "login_links.user_id": "the hash of a code that is good for minutes",
    "login_challenges.user_id": "the hash of a code that is good for minutes",
    "recovery_codes.user_id": "hashes; factor.get tells how many are left",
    "erasures.user_id": "what is left to be done for somebody who has gone",
    "api_keys.created_by": "a key is told to its user",
    "audit_entries.actor_id": "the trail is the tenant's, and told by audit.query",
}
"""Columns that refer to a user and are part of no section, and why."""


def _refers_to_a_user(column: Any) -> bool:
    named = column.name in ("user_id", "owner_id", "author_id", "actor_id", "subject_id", "email")
    known = any(key.target_fullname == "users.id" for key in column.foreign_keys)
    return known or named or column.name.endswith("_by")


def test_whatever_refers_to_a_user_is_told_or_has_a_reason_not_to_be() -> None:
    """A table, or a column, that is added has to say here why it is no part of an export."""
    kinds = [getattr(tables, name) for name in tables.__all__]
    there = {
        f"{kind.__table__.name}.{column.name}"
        for kind in kinds
        if hasattr(kind, "__table__")
        for column in kind.__table__.columns
        if _refers_to_a_user(column)
    }
    told = {
        name
        for section in SECTIONS.values()
        for name in re.findall(r"\w+\.\w+", str(section.theirs("u_1")))
    }
    assert {"memberships.user_id", "grants.subject_id", "quotas.subject_id"} <= there
    assert there - told == set(NOT_TOLD)


def test_no_section_tells_a_secret_or_an_address_of_others() -> None:
    for name, section in SECTIONS.items():
        columns = section.kind.__table__.columns  # type: ignore[attr-defined]
        assert {*section.fields, section.key} <= {column.name for column in columns}
        for field in section.fields:
            assert not re.search("hash|secret|code|password|step", field), (name, field)
        assert name == "profile" or "email" not in section.fields


async def _whole(exports: Exports, user_id: str, tenant_id: str | None) -> list[Item]:
    """All of it, one at a time."""
    items: list[Item] = []
    while found := await exports.page(user_id, tenant_id, items[-1].cursor if items else None, 1):
        assert len(found) == 1
        items += found
        assert ExportPage(cursor=items[-1].cursor), "it comes back over the wire"
    return items


def _of(house: House, user_id: str, other: str) -> tuple[list[SQLModel], dict[str, list[str]]]:
    """Something of each kind, and the ids of what a user is to be told of it."""
    at, until = house.tenant_id, now() + timedelta(days=1)

    def invitation(by: str, guest: str | None) -> Invitation:
        return Invitation(
            tenant_id=at, id=new_id("iv"), code_hash=new_id("x"), role_id="member",
            email="guest@hub.example", invited_by=by, guest_id=guest, expires_at=until,
        )  # fmt: skip

    def quota(kind: str, subject: str, name: str) -> Quota:
        id = f"{house.tenant_id}/{kind}:{subject}/{name}"
        return Quota(
            tenant_id=at, id=id, subject_kind=kind, subject_id=subject, name=name, amount=9, used=3
        )

    group = Group(tenant_id=at, id=new_id("g"), name="night shift")
    own, others = (
        Conversation(tenant_id=at, id=new_id("c"), owner_id=owner) for owner in (user_id, other)
    )
    key = ApiKey(
        tenant_id=at, id=new_id("k"), user_id=user_id, name="bot", scopes="", secret_hash="h"
    )
    client = ClientSession(
        tenant_id=at, id=new_id("cs"), user_id=user_id, key="phone", expires_at=until
    )
    provided = ProvidedRole(
        tenant_id=at,
        id=new_id("pr"),
        user_id=user_id,
        role_id="member",
        issuer="https://id.example",
    )
    sent, came = invitation(user_id, None), invitation(other, user_id)
    given, received = share(own, other), share(others, user_id)
    to_the_group = share(others, group.id, "group")
    to_the_group.granted_by = user_id
    quotas = [quota("user", user_id, "tokens.day"), quota("key", key.id, "runs")]
    told = {
        "disabled": [house.tenant_id],
        "name": [house.tenant_id],
        "group": [group.id],
        "factor": [user_id],
        "client_session": [client.id],
        "key": [key.id],
        "provided_role": [provided.id],
        "invitation": [sent.id, came.id],
        "share_given": [given.id, to_the_group.id],
        "share_received": [received.id],
        "conversation": [own.id],
        "quota": [each.id for each in quotas],
    }
    return [
        group, own, others, key, client, provided, sent, came, *quotas,
        quota("tenant", house.tenant_id, "tokens.day"),
        GroupMember(tenant_id=at, group_id=group.id, user_id=user_id),
        DisabledMember(tenant_id=at, user_id=user_id),
        MemberName(tenant_id=at, user_id=user_id, name="the night owl"),
        TotpFactor(user_id=user_id, secret="sealed", confirmed_at=now()),
        given, received, to_the_group,
    ], told  # fmt: skip


async def _store(database: Database, rows: list[SQLModel]) -> None:
    first = (Group, Conversation)
    async with database.write(EVERY_TENANT) as session:
        session.add_all(row for row in rows if isinstance(row, first))
        await session.flush()
        session.add_all(row for row in rows if not isinstance(row, first))


@pytest.mark.parametrize("inside", [True, False], ids=["in the tenant", "everywhere"])
async def test_everything_of_a_user_is_told_once_and_nothing_of_another(
    database: Database, house: House, neighbour: House, inside: bool
) -> None:
    ada, bob = await house.user("member"), await house.user("member")
    eve = await neighbour.user("member")
    rows, told = _of(house, ada.user_id, bob.user_id)
    elsewhere, _ = _of(neighbour, eve.user_id, eve.user_id)
    await _store(database, rows + elsewhere)
    # Where she is no member any more.
    left: Any = {"tenant_id": neighbour.tenant_id, "user_id": ada.user_id}
    await _store(database, [DisabledMember(**left), MemberName(**left, name="the early bird")])
    items = await _whole(Exports(database), ada.user_id, house.tenant_id if inside else None)
    found: dict[str, list[str]] = {}
    for item in items:
        found.setdefault(item.section, []).append(item.cursor.removeprefix(f"{item.section}:"))
    assert found.pop("profile") == [ada.user_id]
    assert len(found.pop("membership")) == 1
    personal = ("factor", "provided_role") if inside else ()
    assert {name: sorted(ids) for name, ids in found.items()} == {
        name: sorted(ids) for name, ids in told.items() if name not in personal
    }
    text = json.dumps([item.data for item in items])
    assert "night shift" in text
    assert "night owl" in text
    for never in ("sealed", "guest@hub.example", "early bird", eve.user_id, neighbour.tenant_id):
        assert never not in text


async def test_shares_and_quotas_are_told_with_what_they_say(
    database: Database, house: House
) -> None:
    ada, bob = await house.user("member"), await house.user("member")
    rows, _ = _of(house, ada.user_id, bob.user_id)
    await _store(database, rows)
    items = await _whole(Exports(database), bob.user_id, house.tenant_id)
    (received,) = (item.data for item in items if item.section == "share_received")
    (grant,) = (row for row in rows if isinstance(row, Grant) and row.subject_id == bob.user_id)
    assert received["resource_id"] == grant.resource_id
    assert (received["access"], received["subject_id"]) == ("reader", bob.user_id)
    items = await _whole(Exports(database), ada.user_id, house.tenant_id)
    quotas = [item.data for item in items if item.section == "quota"]
    assert {(each["subject_kind"], each["name"]) for each in quotas} == {
        ("user", "tokens.day"), ("key", "runs"),
    }  # fmt: skip
    assert all((each["amount"], each["used"]) == (9, 3) for each in quotas)
