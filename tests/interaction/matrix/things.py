"""What the cells act on: a thing of its own for each, put into the database at once."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from typing import Any, Final

from sqlmodel import SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.ids import new_id
from hub.storage.tables import (
    ApiKey,
    Conversation,
    Grant,
    Group,
    Invitation,
    LoginSession,
    Membership,
    Role,
    Run,
    Tenant,
    TenantOwned,
    User,
    now,
)
from tests.interaction.matrix.table import (
    ANOTHERS,
    APPROVER,
    EXPIRED,
    FOREIGN,
    GROUP,
    MISSING,
    OWN,
    READER,
    SENIOR,
    WRITER,
    WRONG,
    Row,
)

_NUMBERS: Final[Iterator[int]] = count(1)

_PREFIX: Final = {
    "conversation": "c",
    "channel": "c",
    "run": "r",
    "session": "s",
    "apikey": "ak",
    "key": "ak",
    "account": "u",
    "user": "u",
    "colleague": "u",
    "service": "u",
    "group": "g",
    "role": "ro",
    "invitation": "iv",
    "tenant": "t",
    "operated": "t",
}
_SHARED: Final = {
    READER: "reader",
    WRITER: "writer",
    APPROVER: "approver",
    GROUP: "writer",
    EXPIRED: "writer",
}
_WRONG: Final = {
    "channel": ("nonsense", new_id("m"), f"run:{new_id('r')}", f"audit:{new_id('t')}"),
    "role": ("nonsense", new_id("g")),
}
_ID: Final = re.compile(rb"\b[a-z]{1,2}_[0-9A-HJKMNP-TV-Z]{26}")


@dataclass(frozen=True)
class House:
    """A tenant, with two members beside who asks: one who has things, and a friend of theirs."""

    tenant_id: str
    colleague: str
    friend: str


@dataclass
class Things:
    """Makes them; they are there once they are stored."""

    rows: dict[type[SQLModel], list[SQLModel]] = field(
        default_factory=lambda: {kind: [] for kind in (Tenant, User, Role, Group, Conversation)}
    )
    """By kind; those that others refer to come first."""
    tenants: dict[str, str] = field(default_factory=dict)
    """Of each id, the tenant that it is of."""
    groups: dict[str, str] = field(default_factory=dict)
    """Of who asks, a group that they are in."""
    _roles: dict[str, str] = field(default_factory=dict)
    _owners: dict[str, str] = field(default_factory=dict)
    _third: str = ""
    _somebodies: int = 0

    def _add(self, row: Any) -> str:
        self.rows.setdefault(type(row), []).append(row)
        if isinstance(row, TenantOwned | Role):
            self.tenants[row.id] = str(row.tenant_id)  # type: ignore[union-attr]
        return str(row.id)

    def strange(self, seen: bytes, tenant_id: str) -> list[str]:
        """The ids in an answer that are of another tenant than who asked."""
        ids = {id.decode() for id in _ID.findall(seen)}
        return sorted(id for id in ids if self.tenants.get(id, tenant_id) != tenant_id)

    async def store(self, session: AsyncSession) -> None:
        for rows in self.rows.values():
            session.add_all(rows)
            await session.flush()

    def named(self, row: Row, relation: str, user: str, home: House, abroad: House) -> str:
        """What the parameter ``row.by`` names, for the user, who is at home."""
        owner = user if relation == OWN else home.colleague
        if row.on == "whole tenant":
            return "tenant"
        if row.on == "the trail's channel":
            return "audit"
        if row.on == "own channel":
            return "user:" + self._user_of(relation, user, home, abroad)
        if row.on == "subject":
            whose = self._user_of(relation, user, home, abroad)
            return "me" if relation == OWN else f"user:{whose}"
        if relation == MISSING:
            id = new_id(_PREFIX[row.on])
        elif relation == WRONG:
            wrong = _WRONG.get(row.on, (new_id("m"),))
            id = wrong[next(_NUMBERS) % len(wrong)]
        elif row.on == "account":
            id = self._user_of(relation, user, home, abroad)
        elif row.on in ("tenant", "operated"):
            id = home.tenant_id if relation == OWN else self.tenant()
        elif relation == OWN and row.on == "user":
            id = user
        elif relation == FOREIGN:
            id = self._make(row, abroad, abroad.colleague, user, relation)
        else:
            id = self._make(row, home, owner, user, relation)
        before = {"channel": "conversation:", "key": "key:"}.get(row.on, "")
        return id if ":" in id else before + id

    def _user_of(self, relation: str, user: str, home: House, abroad: House) -> str:
        if relation == MISSING:
            return new_id("u")
        return {OWN: user, ANOTHERS: home.colleague, FOREIGN: abroad.colleague}[relation]

    def _somebody(self, tenant_id: str, role: str) -> str:
        """Every other one is a member of a third tenant too, which nobody is to notice."""
        user = self.user(tenant_id, role)
        self._somebodies += 1
        if self._somebodies % 2:
            self._third = self._third or self.tenant()
            self.join(user, self._third)
        return user

    def _make(self, row: Row, house: House, owner: str, user: str, relation: str) -> str:
        tenant_id = house.tenant_id
        if row.on in ("conversation", "channel", "run"):
            conversation = self.conversation(house, owner)
            if relation in _SHARED:
                to = ("group", self.groups[user]) if relation == GROUP else ("user", user)
                ended = now() - timedelta(seconds=1) if relation == EXPIRED else None
                self._grant(tenant_id, to, conversation, _SHARED[relation], ended)
            return self._run(tenant_id, owner, conversation) if row.on == "run" else conversation
        role = "owner" if relation == SENIOR else "member"
        if relation == SENIOR and row.on in ("apikey", "key", "session"):
            owner = self._owner(tenant_id)
        makers: dict[str, Callable[[], str]] = {
            "user": lambda: self._somebody(tenant_id, role),
            "colleague": lambda: self._somebody(tenant_id, role),
            "service": lambda: self.user(tenant_id, "service", kind="service"),
            "apikey": lambda: self._key(tenant_id, owner),
            "key": lambda: self._key(tenant_id, owner),
            "session": lambda: self._session(tenant_id, owner),
            "invitation": lambda: self._invitation(tenant_id),
            "group": lambda: self.group(tenant_id),
            "role": lambda: self._role(tenant_id, fresh=row.operation == "role.delete"),
        }
        return makers[row.on]()

    def _session(self, tenant_id: str, owner: str) -> str:
        later = now() + timedelta(hours=1)
        return self._add(
            LoginSession(id=new_id("s"), tenant_id=tenant_id, user_id=owner, expires_at=later)
        )

    def _invitation(self, tenant_id: str) -> str:
        later, code = now() + timedelta(hours=1), f"{next(_NUMBERS):064d}"
        return self._add(
            Invitation(code_hash=code, tenant_id=tenant_id, role_id="member", expires_at=later)
        )

    def tenant(self) -> str:
        id = self._add(Tenant(id=new_id("t"), name=f"house-{next(_NUMBERS)}"))
        self.tenants[id] = id
        return id

    def user(self, tenant_id: str, role: str = "member", *, kind: str = "person") -> str:
        id = new_id("u")
        self.tenants[id] = tenant_id
        self._add(User(id=id, kind=kind, email=f"{id.lower()}@hub.example", name=id))
        self.join(id, tenant_id, role)
        return id

    def join(self, user: str, tenant_id: str, role: str = "member") -> None:
        """Make them a member of a tenant, also of one more."""
        self._add(Membership(id=new_id("ms"), tenant_id=tenant_id, user_id=user, role_id=role))

    def _owner(self, tenant_id: str) -> str:
        """Who ranks above all: they have what is of a higher rank."""
        if tenant_id not in self._owners:
            self._owners[tenant_id] = self.user(tenant_id, "owner")
        return self._owners[tenant_id]

    def group(self, tenant_id: str) -> str:
        group = Group(id=new_id("g"), tenant_id=tenant_id, name=f"group-{next(_NUMBERS)}")
        return self._add(group)

    def _role(self, tenant_id: str, *, fresh: bool) -> str:
        """A tenant has few roles: one is for all that leaves it there."""
        if fresh or tenant_id not in self._roles:
            name = f"role-{next(_NUMBERS)}"
            made = Role(id=new_id("ro"), tenant_id=tenant_id, name=name, rank=10)
            if fresh:
                return self._add(made)
            self._roles[tenant_id] = self._add(made)
        return self._roles[tenant_id]

    def conversation(self, house: House, owner: str) -> str:
        """It is shared with the owner's friend."""
        made = Conversation(id=new_id("c"), tenant_id=house.tenant_id, owner_id=owner, model="echo")
        self._add(made)
        self._grant(house.tenant_id, ("user", house.friend), made.id, "reader")
        return made.id

    def _grant(
        self,
        tenant_id: str,
        to: tuple[str, str],
        conversation: str,
        access: str,
        ends: datetime | None = None,
    ) -> None:
        self._add(
            Grant(
                id=new_id("sh"),
                tenant_id=tenant_id,
                subject_kind=to[0],
                subject_id=to[1],
                resource_kind="conversation",
                resource_id=conversation,
                access=access,
                expires_at=ends,
            )
        )

    def _run(self, tenant_id: str, owner: str, conversation: str) -> str:
        made = Run(
            id=new_id("r"),
            tenant_id=tenant_id,
            conversation_id=conversation,
            user_id=owner,
            message_id=new_id("m"),
            turn=0,
            status="succeeded",
            finished_at=now(),
        )
        return self._add(made)

    def _key(self, tenant_id: str, owner: str) -> str:
        number = next(_NUMBERS)
        made = ApiKey(
            id=new_id("ak"),
            tenant_id=tenant_id,
            user_id=owner,
            name="a key",
            scopes="run:read",
            secret_hash=f"{number:064d}",
        )
        return self._add(made)

    def filled(self, value: Any, user: str, home: House, token: str) -> Any:
        """A parameter of a row, made where it begins with ``@``."""
        if not isinstance(value, str) or not value.startswith("@"):
            return value
        makers: dict[str, Callable[[], str]] = {
            "@email": lambda: f"stranger-{next(_NUMBERS)}@hub.example",
            "@name": lambda: f"name-{next(_NUMBERS)}",
            "@token": lambda: token,
            "@friend": lambda: home.friend,
            "@user": lambda: self.user(home.tenant_id),
            "@group": lambda: self.group(home.tenant_id),
            "@conversation": lambda: self.conversation(home, user),
        }
        return makers[value]()
