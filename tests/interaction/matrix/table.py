"""Who may do what, in the words of whoever decides it: a table to be read, and nothing of the hub's
own. It is what the matrix holds the hub to, so it asks neither ``decide()`` nor the roles.

A row says of an operation how it is called, what it acts on, and the lowest roles that may do it:
to what is their own (``may``) and to what others in the tenant have (``others``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

ABOVE: Final[Mapping[str, tuple[str, ...]]] = {
    "viewer": ("viewer", "service", "member", "operator", "admin", "owner"),
    "service": ("service",),
    "member": ("member", "operator", "admin", "owner"),
    "operator": ("operator", "admin", "owner"),
    "admin": ("admin", "owner"),
    "owner": ("owner",),
    "nobody": (),
}
"""Each role, and those that may all that it may. A service account stands beside a member."""

ANYBODY: Final = "anybody"
"""Who shows no credentials may do it."""
SIGNED_IN: Final = "signed in"
"""Whoever is signed in may, whatever their role; API keys may not, unless ``by_key``."""

OWN, READER, WRITER = "own", "shared to read", "shared to write"
APPROVER, EXPIRED = "shared to approve", "shared to write until a moment ago"
GROUP = "shared with a group of theirs to write"
ANOTHERS, FOREIGN, MISSING = "another's", "foreign", "missing"
THE, SENIOR = "the tenant's", "of a higher rank"
WRONG = "of another kind"
"""An id that is of nothing that it could be."""
NONE = ""

_ELSEWHERE: Final = (FOREIGN, MISSING, WRONG)

RELATIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "": (NONE,),
    "the hub": (NONE,),
    "the trail's channel": (THE,),
    "whole tenant": (THE,),
    **dict.fromkeys(
        ("conversation", "run", "channel"),
        (OWN, READER, WRITER, APPROVER, GROUP, EXPIRED, ANOTHERS, *_ELSEWHERE),
    ),
    "account": (OWN, ANOTHERS, *_ELSEWHERE),
    **dict.fromkeys(("session", "apikey"), (OWN, ANOTHERS, SENIOR, *_ELSEWHERE)),
    **dict.fromkeys(("own channel", "subject"), (OWN, ANOTHERS, FOREIGN, MISSING)),
    "key": (ANOTHERS, SENIOR, FOREIGN, MISSING),
    "user": (OWN, THE, SENIOR, *_ELSEWHERE),
    "colleague": (THE, SENIOR, *_ELSEWHERE),
    **dict.fromkeys(("group", "role", "service", "invitation"), (THE, *_ELSEWHERE)),
    **dict.fromkeys(("tenant", "operated"), (OWN, *_ELSEWHERE)),
}
"""What may be acted on, and whose it may be for who asks."""

SEEN: Final[Mapping[str, tuple[str, str]]] = {
    "conversation": (READER, "admin"),
    "run": (READER, "operator"),
    "apikey": ("", "admin"),
    "session": ("", "admin"),
    "service": ("", "admin"),
}
"""By which share, and by which role, others' things of a kind are seen: whoever may see one and not
do this to it is told so. To all others it is as if it were not there."""


@dataclass(frozen=True)
class Row:
    """``params`` beside the thing, which is in the parameter ``by``: a text that begins with ``@``
    is made for each call. ``carried``: the least share that carries it. ``then``: what is answered
    to who may; ``oneself``: the same, when it is done to one's own user; ``founders``: to the
    tenant that the hub began with. ``ranked``: not to who ranks above. ``by_key``: API keys may,
    too. ``turn``: what ends or changes who asks comes later.
    """

    operation: str
    may: str
    on: str = ""
    by: str = ""
    others: str = "nobody"
    carried: str = ""
    then: str = "done"
    oneself: str = ""
    founders: str = ""
    ranked: bool = False
    params: Mapping[str, Any] = field(default_factory=dict)
    by_key: bool = False
    turn: int = 0
    special: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """What is answered to these, by who asks and whose it is, instead: a rule of its own."""


PASSWORD_WRONG: Final = "not the password of anybody"
NEW_PASSWORD: Final = "a rather long new password"
SAID: Final = "what is said among ourselves"
_TOKEN: Final = {"token": "no token"}

TABLE: Final[tuple[Row, ...]] = (
    # --- signing in: for anybody, and worth nothing without a secret ---
    Row("account.register", ANYBODY, params={"email": "@email", "password": "short"},
        then="invalid_params"),
    Row("account.login", ANYBODY, params={"email": "@email", "password": PASSWORD_WRONG},
        then="unauthenticated"),
    Row("account.redeem", ANYBODY, params={"code": "no code"}, then="unauthenticated"),
    Row("account.second_factor", ANYBODY, params={"challenge": "none", "code": "000000"},
        then="unauthenticated"),
    Row("account.refresh", ANYBODY, params={"refresh_token": "none"}, then="unauthenticated"),
    Row("account.providers", ANYBODY),
    Row("account.recover", ANYBODY, params={"email": "@email"}),
    Row("account.resend", ANYBODY, params={"email": "@email"}),
    Row("account.reset", ANYBODY, params={**_TOKEN, "password": NEW_PASSWORD},
        then="unauthenticated"),
    Row("account.verify", ANYBODY, params=_TOKEN, then="unauthenticated"),
    Row("account.reset_factor", ANYBODY, params=_TOKEN, then="unauthenticated"),
    Row("session.authenticate", ANYBODY, params={"token": "@token"}, then="conflict"),
    Row("session.refresh", ANYBODY, params={"token": "@token"}),
    Row("session.ping", ANYBODY),
    # --- one's own account ---
    Row("account.get", SIGNED_IN),
    Row("account.update", SIGNED_IN, params={"name": "Changed"}),
    Row("account.export", SIGNED_IN),
    Row("account.tenants", SIGNED_IN),
    Row("account.change_password", SIGNED_IN, then="permission_denied: The password",
        params={"current": PASSWORD_WRONG, "password": NEW_PASSWORD}),
    Row("account.change_email", SIGNED_IN, then="permission_denied: The password",
        params={"email": "@email", "password": PASSWORD_WRONG}),
    Row("account.delete", SIGNED_IN, params={"password": PASSWORD_WRONG},
        then="permission_denied: The password"),
    Row("account.logout", SIGNED_IN, turn=9),
    Row("factor.get", SIGNED_IN),
    Row("factor.confirm", SIGNED_IN, params={"code": "000000"}, then="conflict"),
    Row("factor.prove", SIGNED_IN, params={"code": "000000"}, then="conflict"),
    Row("factor.renew", SIGNED_IN, params={"code": "000000"}, then="conflict"),
    Row("factor.disable", SIGNED_IN, params={"code": "000000"}, then="conflict"),
    Row("factor.enrol", SIGNED_IN, turn=8),
    Row("invitation.accept", SIGNED_IN, params={"code": "no code"},
        then="permission_denied: The invitation"),
    Row("session.info", SIGNED_IN, by_key=True),
    Row("session.forget", SIGNED_IN, by_key=True, params={"session_key": "none"}),
    Row("channel.acknowledge", SIGNED_IN, by_key=True, then="conflict",
        params={"channels": [{"channel": "audit", "epoch": "e", "seq": 0}]}),
    Row("session.list", "viewer"),
    Row("session.revoke", "viewer", "session", "session_id", others="admin", ranked=True),
    Row("user.sessions", "viewer", "account", "user_id", others="admin"),
    # --- conversations ---
    Row("conversation.create", "service member"),
    Row("conversation.list", "viewer"),
    Row("conversation.get", "viewer", "conversation", "conversation_id",
        others="admin", carried=READER),
    Row("conversation.update", "service member", "conversation", "conversation_id",
        others="admin", params={"title": "Changed"}),
    Row("conversation.delete", "member", "conversation", "conversation_id", others="admin"),
    Row("conversation.share", "member", "conversation", "conversation_id", others="admin",
        params={"user_id": "@friend", "access": "reader"}),
    Row("conversation.unshare", "member", "conversation", "conversation_id", others="admin",
        params={"user_id": "@friend"}),
    Row("conversation.shares", "member", "conversation", "conversation_id", others="admin"),
    # Nobody shares with who is not of the tenant, whoever that is.
    Row("conversation.share", "member", "colleague", "user_id",
        params={"conversation_id": "@conversation", "access": "reader"}),
    Row("conversation.share", "member", "group", "group_id",
        params={"conversation_id": "@conversation", "access": "reader"}),
    Row("message.send", "service member", "conversation", "conversation_id", others="owner",
        carried=WRITER, params={"client_message_id": "1", "content": SAID}),
    Row("message.list", "viewer", "conversation", "conversation_id", others="admin",
        carried=READER),
    Row("run.get", "viewer", "run", "run_id", others="operator", carried=READER),
    Row("run.list", "viewer", "conversation", "conversation_id", others="operator",
        carried=READER),
    Row("run.cancel", "service member", "run", "run_id", others="operator", carried=WRITER),
    Row("model.list", "viewer"),
    # --- channels ---
    *(
        Row(name, "viewer", "channel", "channel", others="admin", carried=READER)
        for name in ("channel.subscribe", "channel.history", "channel.presence", "channel.events")
    ),
    Row("channel.typing", "viewer", "channel", "channel", others="admin", carried=READER,
        params={"typing": True}, then="conflict"),
    *(
        Row(name, "viewer", "own channel", "channel", then=then)
        for name, then in (
            ("channel.subscribe", "done"),
            ("channel.history", "done"),
            ("channel.presence", "invalid_params"),
            ("channel.events", "done"),
        )
    ),
    *(
        Row(name, "admin", "the trail's channel", "channel")
        for name in ("channel.subscribe", "channel.history", "channel.events")
    ),
    Row("channel.unsubscribe", "viewer", params={"channel": "audit"}, turn=1),
    # --- users, roles and groups of the tenant ---
    Row("user.list", "admin"),
    Row("user.create", "admin", params={"email": "@email"}),
    Row("user.get", "admin", "user", "user_id"),
    Row("user.update", "admin", "user", "user_id", oneself="conflict", ranked=True,
        params={"name": "Changed"}),
    Row("user.verify", "admin", "user", "user_id", oneself="conflict", ranked=True),
    Row("user.reset_password", "admin", "user", "user_id", oneself="conflict", ranked=True),
    Row("user.sign_out", "admin", "user", "user_id", oneself="conflict", ranked=True),
    Row("user.disable", "admin", "user", "user_id", oneself="conflict", ranked=True),
    Row("user.enable", "admin", "user", "user_id", oneself="conflict", ranked=True),
    Row("user.delete", "admin", "user", "user_id", oneself="conflict", ranked=True),
    Row("user.export", "admin", "user", "user_id"),
    Row("factor.reset", "admin", "user", "user_id", oneself="conflict", ranked=True),
    Row("factor.policy", "admin"),
    Row("factor.require", "admin", params={"role": None}),
    Row("permission.list", "admin"),
    Row("role.list", "admin"),
    Row("role.get", "admin", "role", "role_id"),
    Row("role.create", "admin", params={"name": "@name"}),
    Row("role.update", "admin", "role", "role_id", params={"description": "Changed"}),
    Row("role.delete", "admin", "role", "role_id"),
    Row("role.assign", "admin", "role", "role_id", params={"user_id": "@user"}),
    Row("role.assign", "admin", "colleague", "user_id", params={"role_id": "viewer"},
        ranked=True),
    Row("role.assign", "admin", "group", "group_id", params={"role_id": "viewer"}),
    Row("role.revoke", "admin", "role", "role_id", params={"user_id": "@user"},
        then="not_found: This user"),
    Row("role.assignments", "admin"),
    Row("role.explain", "admin", "user", "user_id", params={"permission": "run:read"}),
    Row("group.list", "admin"),
    Row("group.names", "member"),
    Row("group.create", "admin", params={"name": "@name"}),
    Row("group.get", "admin", "group", "group_id"),
    Row("group.update", "admin", "group", "group_id", params={"description": "Changed"}),
    Row("group.delete", "admin", "group", "group_id"),
    Row("group.members", "admin", "group", "group_id"),
    Row("group.add", "admin", "group", "group_id", params={"user_id": "@user"}),
    Row("group.add", "admin", "colleague", "user_id", params={"group_id": "@group"}),
    Row("group.remove", "admin", "group", "group_id", params={"user_id": "@user"},
        then="not_found: There is no such user in this group"),
    # --- programs ---
    Row("apikey.create", "member", params={"name": "a key", "scopes": ["run:read"]}),
    Row("apikey.create", "member", "service", "service_id", others="admin",
        params={"name": "a key", "scopes": ["run:read"]}),
    Row("apikey.list", "viewer"),
    Row("apikey.get", "viewer", "apikey", "api_key_id", others="admin"),
    Row("apikey.update", "member", "apikey", "api_key_id", others="admin",
        ranked=True, params={"name": "Changed"}),
    # A key is rotated by the person who owns it: whoever has its secret is that person.
    Row("apikey.rotate", "member", "apikey", "api_key_id", others="nobody"),
    Row("apikey.revoke", "viewer", "apikey", "api_key_id", others="admin", ranked=True),
    Row("service.create", "admin", params={"name": "a service"}),
    Row("service.list", "admin"),
    Row("service.get", "admin", "service", "service_id"),
    Row("service.update", "admin", "service", "service_id", params={"name": "Changed"}),
    Row("service.disable", "admin", "service", "service_id"),
    Row("service.enable", "admin", "service", "service_id"),
    Row("service.delete", "admin", "service", "service_id"),
    # --- the tenant's trail, limits and use ---
    Row("audit.query", "admin", params={"limit": 2}),
    Row("audit.verify", "admin", turn=2),
    Row("audit.export", "admin", params={"since": "2100-01-01T00:00:00Z"}),
    Row("quota.get", "viewer", "subject", "subject", others="operator"),
    Row("quota.get", "viewer", "key", "subject", others="operator"),
    Row("quota.get", "viewer", "whole tenant", "subject", others="operator"),
    Row("quota.list", "operator"),
    # Who administers sets those of who stands below; the owner, everybody's.
    Row("quota.set", "admin", "subject", "subject", others="admin",
        params={"quota": "tokens.day", "limit": 0},
        special={("admin", OWN): "permission_denied: Set quotas"}),
    Row("quota.set", "admin", "key", "subject", others="admin", ranked=True,
        params={"quota": "tokens.day", "limit": 0}),
    Row("quota.set", "admin", "whole tenant", "subject",
        params={"quota": "tokens.day", "limit": 0},
        special={("admin", THE): "permission_denied: Set quotas"}),
    Row("usage.get", "viewer", "subject", "subject", others="operator"),
    Row("usage.get", "viewer", "key", "subject", others="operator"),
    Row("usage.get", "viewer", "whole tenant", "subject", others="operator"),
    # --- tenants, and who is in them ---
    Row("tenant.create", "owner", "the hub", params={"name": "@name"}),
    Row("tenant.list", "owner", "the hub"),
    Row("tenant.get", "viewer", "tenant", "tenant_id"),
    Row("tenant.update", "owner", "tenant", "tenant_id", params={"settings": {}}),
    Row("tenant.delete", "owner", "tenant", "tenant_id", params={"confirm": "not its name"},
        then="invalid_params", founders="conflict"),
    Row("tenant.suspend", "owner", "operated", "tenant_id", founders="conflict"),
    Row("tenant.resume", "owner", "operated", "tenant_id"),
    Row("tenant.restore", "owner", "operated", "tenant_id"),
    Row("member.list", "admin"),
    Row("member.remove", "admin", "colleague", "user_id", ranked=True),
    Row("invitation.create", "admin"),
    Row("invitation.list", "admin"),
    Row("invitation.revoke", "admin", "invitation", "invitation_id"),
)  # fmt: skip

BESIDE: Final[Mapping[str, str]] = {
    "WEBSOCKET /ws": ANYBODY,  # who has said within seconds who they are, or is sent away
    "ANY /ws": ANYBODY,  # to be told to open a WebSocket
    "GET /v1/channels/{channel}/events": SIGNED_IN,  # by the rows of ``channel.events``
    "GET /v1/auth/oidc/{provider}/start": ANYBODY,
    "GET /v1/auth/oidc/{provider}/callback": ANYBODY,
    "GET /health/live": ANYBODY,
    "GET /health/ready": ANYBODY,
    "GET /metrics": SIGNED_IN,  # and an operator, in the tenant that the hub began with
    "GET /.well-known/jwks.json": ANYBODY,
    "GET /openapi.json": ANYBODY,
    "GET /asyncapi.json": ANYBODY,
    "GET /docs": ANYBODY,
    "GET /": ANYBODY,
    "FILES /web": ANYBODY,
}
"""What is answered beside the operations, and to whom: each is shown by tests of its own."""

NARROW: Final = frozenset({"conversation.list", "conversation.get"})
"""What a member's API key may that is limited to ``conversation:read``, beside ``by_key``."""
