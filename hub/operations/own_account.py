"""One's own account: what it is, what there is of one, and its end."""

from datetime import datetime

from pydantic import Field, JsonValue, SecretStr

from hub.identity.accounts.export import SECTIONS, Item
from hub.operations.call import Call
from hub.operations.operation import SIGNED_IN, Done, Http, Nothing, Params, Result, operation
from hub.operations.shapes import Id, Listing, Page, Text


class Account(Result):
    id: Id
    email: str
    name: str | None = None
    verified_at: datetime | None = Field(None, description="When the address was verified, if so.")
    created_at: datetime


class Update(Params):
    name: Text | None = Field(max_length=200, min_length=1, description="null: none.")


class Leave(Params):
    password: SecretStr = Field(max_length=1_024, description="Your password, once more.")


class ExportPage(Page):
    """Which part of an export."""

    cursor: str | None = Field(
        None,
        pattern=f"^({'|'.join(SECTIONS)}):[A-Za-z0-9_.:/]+$",
        max_length=200,
        description="`next_cursor` of the page before; none: the first page.",
    )


class Exported(Result):
    """Something that the hub holds of a user."""

    section: str = Field(
        description=f"One of {', '.join(f'`{name}`' for name in SECTIONS)}; they come in this "
        "order."
    )
    data: dict[str, JsonValue]


def exported(found: list[Item], limit: int) -> Listing[Exported]:
    """A page of it. The last one is empty."""
    shown = [Exported(section=item.section, data=item.data) for item in found]
    page = Listing[Exported].page(shown, limit, lambda item: "")
    if not found:
        return page
    return Listing(items=page.items, next_cursor=found[len(page.items) - 1].cursor)


@operation("account.get", permission=SIGNED_IN, kind="read", http=Http("GET", "/v1/account"))
async def get(call: Call, params: Nothing) -> Account:
    """Read your own account."""
    return Account.model_validate(
        await call.services.users.account(call.actor.user_id), from_attributes=True
    )


@operation("account.update", permission=SIGNED_IN, kind="write", http=Http("PATCH", "/v1/account"))
async def update(call: Call, params: Update) -> Account:
    """Change the name of your account.

    You are called so in each of your tenants, but where its administrators call you something else
    (`user.update`).
    """
    user = await call.services.users.set_name(call.actor.user_id, params.name, "account.update")
    return Account.model_validate(user, from_attributes=True)


@operation(
    "account.export", permission=SIGNED_IN, kind="read", http=Http("GET", "/v1/account/export")
)
async def export(call: Call, params: ExportPage) -> Listing[Exported]:
    """Read all that the hub holds of you, page after page until one has no `next_cursor`.

    It is that of every tenant that you are a member of: also what you are called there in place of
    the name of your account, the groups that you are in, what was shared by you and with you, the
    invitations that you sent or came by, that you have a second factor, your quotas. Passwords,
    secrets, tokens and their hashes are no part of it. Nor is the audit trail, also where it tells
    of you: it is the tenant's, whose administrators read it (`audit.query`). Of other people there
    are ids, and what they said in your conversations.
    """
    actor = call.actor
    if params.cursor is None:
        await call.services.exports.begun(actor.tenant_id, actor.user_id)
    found = await call.services.exports.page(actor.user_id, None, params.cursor, params.limit)
    return exported(list(found), params.limit)


@operation(
    "account.delete",
    permission=SIGNED_IN,
    kind="write",
    http=Http("POST", "/v1/account/delete"),
    cost=20,
    faults=("permission_denied", "conflict", "rate_limited"),
)
async def delete(call: Call, params: Leave) -> Done:
    """Delete your account, in every tenant, for good: export what you want to keep before.

    All your sessions end, and your invitations that wait are void. Your conversations are deleted
    within moments; what you have said in the conversations of others stays, by an id that says
    nothing of you. A wrong password is `permission_denied`, and the last owner of a tenant that
    others are in gets `conflict`. Who has no password, and signs in through an identity provider,
    chooses one by `account.recover` first.
    """
    await call.services.recovery.confirm(call.actor.user_id, params.password.get_secret_value())
    await call.services.departures.leave(call.actor.user_id)
    return Done()
