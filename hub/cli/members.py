"""``hub member``, ``hub invitation``: who belongs to a tenant, for an operator at the machine."""

import argparse
import sys
from typing import Any, Final

from hub.cli.place import PAGE, Place, add_action, add_family, opened
from hub.identity.accounts.addresses import normal
from hub.settings import Settings


def add_commands(commands: Any) -> None:
    """Add ``member`` and ``invitation`` to the commands of ``hub``."""
    of_members = add_family(commands, "member", "administer the members of a tenant")
    add_action(of_members, "list", "list the members, with the roles that they have", acts=False)
    remove = add_action(
        of_members, "remove", "end a membership; the user, and what they said, stay"
    )
    remove.add_argument("--user", required=True, help="e-mail or id")
    guests = add_family(commands, "invitation", "administer the invitations into a tenant")
    create = add_action(guests, "create", "make an invitation, and print its code", acts=False)
    create.add_argument("--role", default="member", help="name or id (default: member)")
    create.add_argument("--email", help="the only address that it lets in (default: anybody's)")
    add_action(guests, "list", "list those that wait to be accepted, the oldest first", acts=False)
    revoke = add_action(guests, "revoke", "make an invitation void that waits", acts=False)
    revoke.add_argument("id", help="iv_…, as `hub invitation list` says")


async def run(settings: Settings, given: argparse.Namespace) -> int:
    """``hub member`` and ``hub invitation``"""
    async with opened(settings, given.tenant) as place:
        await _ACTIONS[given.command, given.action](place, given)
    return 0


async def _list(place: Place, given: argparse.Namespace) -> None:
    after: str | None = None
    while found := await place.members.listed(place.tenant_id, after, PAGE):
        for each in found:
            roles = ", ".join(each.roles) or "nothing any more"
            print(f"{each.user_id} {each.email} {roles}{' (disabled)' if each.disabled else ''}")
        after = found[-1].user_id


async def _remove(place: Place, given: argparse.Namespace) -> None:
    user_id = await place.user(given.user)
    await place.members.remove(place.tenant_id, user_id, by=None)
    print(f"{given.user} ({user_id}) is a member no more")


async def _invite(place: Place, given: argparse.Namespace) -> None:
    email = normal(given.email) if given.email is not None else None
    role = await place.role(given.role)
    made, code = await place.members.invite(place.tenant_id, role.id, email, by=None)
    whom = email or "anybody"
    print(f"{made.id} of {whom}, as {role.name}, until {made.expires_at:%Y-%m-%d %H:%M} UTC",
          file=sys.stderr)  # fmt: skip
    print(code)


async def _invited(place: Place, given: argparse.Namespace) -> None:
    after: str | None = None
    while found := await place.members.invited(place.tenant_id, after, PAGE):
        for each in found:
            until = f"until {each.expires_at:%Y-%m-%d %H:%M} UTC"
            print(f"{each.id} of {each.email or 'anybody'}, as {each.role_id}, {until}")
        after = found[-1].id


async def _revoke(place: Place, given: argparse.Namespace) -> None:
    await place.members.revoke_invitation(place.tenant_id, given.id)
    print(f"{given.id} is void")


_ACTIONS: Final[dict[tuple[str, str], Any]] = {
    ("member", "list"): _list,
    ("member", "remove"): _remove,
    ("invitation", "create"): _invite,
    ("invitation", "list"): _invited,
    ("invitation", "revoke"): _revoke,
}
