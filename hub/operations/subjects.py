"""Whose quotas and usage: the name of a subject, and what the dispatcher has to know of it."""

from typing import Annotated, Final

from pydantic import Field

from hub.faults import Fault
from hub.identity.access.holdings import is_known
from hub.limits.setting import Subject, user_of_key
from hub.rbac.actor import Actor
from hub.rbac.decision import Resource
from hub.rbac.permissions import ANY, holds
from hub.storage.database import Database

_ULID: Final = "[0-9A-HJKMNP-TV-Z]{26}"

SubjectName = Annotated[
    str,
    Field(
        pattern=rf"^(me|tenant|user:u_{_ULID}|key:ak_{_ULID})$",
        max_length=40,
        description="`me`, `user:<id>` for another user, `key:<id>` for an API key, or `tenant` "
        "for the tenant as a whole.",
    ),
]

KINDS: Final = ("quota", "usage", "limited")
"""Kinds of guarded things whose id is a subject's name: what is read of it (its own, for a user),
and who is limited (the tenant's to say).
"""


def subject_of(name: str, actor: Actor) -> Subject:
    """The subject that a name means to an actor."""
    if name == "me":
        return Subject(actor.tenant_id, "user", actor.user_id)
    if name == "tenant":
        return Subject(actor.tenant_id, "tenant", actor.tenant_id)
    kind, _, id = name.partition(":")
    return Subject(actor.tenant_id, "key" if kind == "key" else "user", id)


async def find_subject(database: Database, kind: str, name: str, actor: Actor) -> Resource:
    """The subject as a resource. Raises Fault not_found for one that is not of the tenant, and for
    others if whoever asks may only read what is their own: no user is looked up then.
    """
    subject = subject_of(name, actor)
    user_id: str | None = subject.id
    if subject.kind == "key":
        async with database.read(actor.tenant_id) as session:
            user_id = await user_of_key(session, subject.id)
        if user_id is None:
            raise Fault("not_found")
    if user_id == actor.user_id:
        return Resource(kind, name, actor.tenant_id, None if kind == "limited" else user_id)
    if kind != "limited" and not holds(actor.permissions, f"{kind}:read{ANY}"):
        raise Fault("not_found")
    if subject.kind == "user":
        async with database.read(actor.tenant_id) as session:
            if not await is_known(session, actor.tenant_id, subject.id):
                raise Fault("not_found")
    return Resource(kind, name, actor.tenant_id, None)
