"""What administers users and roles over the wire does so at the machine, and the reverse.

The operations (WebSocket and REST are one table) and the commands are both read from where they are
declared; what is here is which is which, and why some stand alone. One that nobody has put here
fails.
"""

import argparse
from typing import Final

from hub.cli import _parser
from hub.operations.table import OPERATIONS

FAMILIES: Final = ("user", "member", "role", "group", "service", "apikey", "invitation", "factor")
"""Families of operations that administer users and roles; beside them those of ``ALSO``."""
ALSO: Final = (
    "session.list",
    "session.revoke",
    "account.update",
    "account.change_email",
    "permission.list",
)
COMMANDS: Final = ("user", "member", "role", "group", "service", "apikey", "invitation")

SAME: Final[dict[str, str]] = {
    # operation: the command that does it
    "user.list": "user list",
    "user.create": "user create",
    "user.update": "user update",
    "user.verify": "user verify",  # by a letter; the operator may say that the address is theirs
    "user.reset_password": "user reset-password",  # by a letter; the operator may set one, too
    "user.disable": "user disable",
    "user.enable": "user enable",
    "user.delete": "user delete",
    "user.export": "user export",
    "user.sessions": "user sessions",
    "user.sign_out": "user sign-out",
    "session.list": "user sessions",
    "session.revoke": "user sign-out",
    "account.update": "user update",
    "account.change_email": "user update",
    "user.get": "user list",  # a line of it says all
    "member.list": "member list",
    "member.remove": "member remove",
    "invitation.create": "invitation create",
    "invitation.list": "invitation list",
    "invitation.revoke": "invitation revoke",
    "role.list": "role list",
    "role.get": "role show",
    "role.create": "role create",
    "role.update": "role update",
    "role.delete": "role delete",
    "role.assign": "role assign",
    "role.revoke": "role revoke",
    "role.assignments": "role assignments",
    "role.explain": "role explain",
    "factor.policy": "role second-factor",
    "factor.require": "role second-factor",
    "factor.reset": "user reset-factor",  # by a letter; the operator takes it away at once
    "group.list": "group list",
    "group.get": "group show",
    "group.members": "group show",
    "group.create": "group create",
    "group.update": "group update",
    "group.delete": "group delete",
    "group.add": "group add",
    "group.remove": "group remove",
    "service.list": "service list",
    "service.get": "service show",
    "service.create": "service create",
    "service.update": "service update",
    "service.disable": "service disable",
    "service.enable": "service enable",
    "service.delete": "service delete",
    "apikey.list": "apikey list",
    "apikey.get": "apikey list",  # a line of it says all
    "apikey.create": "apikey create",
    "apikey.update": "apikey update",
    "apikey.rotate": "apikey rotate",
    "apikey.revoke": "apikey revoke",
}

WIRE_ALONE: Final[dict[str, str]] = {
    "permission.list": "the same for all hubs of a version: `hub reference` prints them",
    "group.names": "for who shares a conversation with a group; `hub group list` says more",
    "invitation.accept": "done by whom it invites, who shows the code",
    **dict.fromkeys(
        ("factor.get", "factor.enrol", "factor.confirm", "factor.prove", "factor.renew"),
        "done by whose factor it is, who has the authenticator",
    ),
    "factor.disable": "done by whose factor it is; the operator's is `hub user reset-factor`",
}
"""Operations without a command, and why."""


def _actions(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found.update(action.choices)
    return found


def _commands() -> dict[str, argparse.ArgumentParser]:
    families = _actions(_parser())
    return {
        f"{family} {name}": parser
        for family in COMMANDS
        for name, parser in _actions(families[family]).items()
    }


def test_every_operation_on_users_and_roles_has_a_command_or_a_reason() -> None:
    operations = {
        name for name, declared in OPERATIONS.items() if declared.family in FAMILIES or name in ALSO
    }
    assert operations == SAME.keys() | WIRE_ALONE.keys()
    assert not SAME.keys() & WIRE_ALONE.keys()


def test_every_command_on_users_and_roles_has_an_operation() -> None:
    assert _commands().keys() == set(SAME.values())


def test_a_command_can_be_told_the_tenant_that_an_operation_acts_in() -> None:
    """What acts on one thing that is in one tenant finds that by itself."""
    by_itself = {"apikey update", "apikey rotate", "apikey revoke"}
    # Of the whole account, wherever its user is.
    whole = {"user verify", "user reset-password", "user reset-factor"}
    without = {
        name
        for name, parser in _commands().items()
        if "--tenant" not in {word for action in parser._actions for word in action.option_strings}
    }
    assert without == by_itself | whole


def test_what_is_done_over_the_wire_is_offered_on_websocket_and_rest_alike() -> None:
    for name in SAME:
        assert OPERATIONS[name].socket, name
        assert OPERATIONS[name].http is not None, name
