"""Accounts: verified addresses, forgotten and changed passwords, and lost second factors."""

from collections.abc import Awaitable, Callable

from pydantic import EmailStr, Field, SecretStr, StrictBool

from hub.operations.call import Call
from hub.operations.operation import (
    PUBLIC,
    SIGNED_IN,
    Done,
    Http,
    Operation,
    P,
    Params,
    R,
    operation,
)
from hub.operations.shapes import NewPassword


class OfAddress(Params):
    email: EmailStr = Field(max_length=320)


class Proof(Params):
    token: SecretStr = Field(max_length=200, description="The token of the letter's link.")


class Reset(Proof):
    password: NewPassword
    keys: StrictBool = Field(True, description="Revoke all of your API keys too, in every tenant.")


class ChangeEmail(OfAddress):
    password: SecretStr = Field(max_length=1_024, description="Your password, once more.")


class Change(Params):
    current: SecretStr = Field(max_length=1_024, description="The password as it is.")
    password: NewPassword
    keys: StrictBool = Field(False, description="Revoke all of your API keys too, in every tenant.")


def _public(
    name: str, path: str, cost: float, *faults: str
) -> Callable[[Callable[[Call, P], Awaitable[R]]], Operation[P, R]]:
    """What somebody asks for who is not signed in."""
    return operation(
        name,
        permission=PUBLIC,
        kind="write",
        http=Http("POST", path),
        socket=False,
        cost=cost,
        faults=(*faults, "rate_limited"),
    )


@_public("account.recover", "/v1/auth/recover", 5)
async def recover(call: Call, params: OfAddress) -> Done:
    """Have a letter sent with a link to choose a new password.

    The answer is the same, after the same time, whether the address has an account or not. The link
    works once, for 30 minutes.
    """
    await call.services.recovery.ask("reset", params.email, call.address)
    return Done()


@_public("account.reset", "/v1/auth/reset", 20, "unauthenticated")
async def reset(call: Call, params: Reset) -> Done:
    """Choose a new password with the token of a letter; all of the user's sessions end.

    So do sign-ins that wait for a second factor, login links, a move to another address that waits
    and letters of `factor.reset`; and the user's API keys, unless `keys` is false: a reset is how
    an account is taken back from somebody, who may have made one. It verifies the address too. A
    password that is refused leaves the token as good as it was.
    """
    token, password = params.token.get_secret_value(), params.password.get_secret_value()
    await call.services.recovery.reset(token, password, call.address, keys=params.keys)
    return Done()


@_public("account.resend", "/v1/auth/resend", 5)
async def resend(call: Call, params: OfAddress) -> Done:
    """Have the letter sent again that verifies an address, as `account.register` sends it.

    The answer is the same, after the same time, whether the address has an account or not, and is
    verified or not. The link works once, for a day.
    """
    await call.services.recovery.ask("verify", params.email, call.address)
    return Done()


@_public("account.verify", "/v1/auth/verify", 5, "unauthenticated", "conflict")
async def verify(call: Call, params: Proof) -> Done:
    """Verify an address with the token of a letter that was sent to it.

    By the token of a letter that `account.change_email` has sent the account has that address from
    now on, and the one before is sent a letter that says so; it is a `conflict` if another account
    has come to have it.
    """
    await call.services.recovery.verify(params.token.get_secret_value(), call.address)
    return Done()


@_public("account.reset_factor", "/v1/auth/factor/reset", 5, "unauthenticated")
async def reset_factor(call: Call, params: Proof) -> Done:
    """Do without your second factor, with the token of a letter that `factor.reset` has sent.

    The link works once, for a day, while the address is yours; enrolling another factor voids it,
    and so does what voids a move: a new password, and signing out everywhere. From then on the
    password alone signs you in. Sessions go on, but that a factor was shown in them is worth
    nothing any more: where a tenant demands one, you enrol another first. It makes no difference
    whether you had one.
    """
    await call.services.factor_resets.by_letter(params.token.get_secret_value(), call.address)
    return Done()


@operation(
    "account.change_password",
    permission=SIGNED_IN,
    kind="write",
    http=Http("POST", "/v1/auth/password"),
    cost=20,
    faults=("permission_denied", "rate_limited"),
)
async def change_password(call: Call, params: Change) -> Done:
    """Change your password; your other sessions end, and this one goes on.

    Sign-ins that wait for a second factor, login links, a move that waits and letters of
    `factor.reset` are void. API keys go on unless `keys` says otherwise: passwords are changed as a
    habit too, and no bot is to stop by that. A wrong current password is `permission_denied`.
    """
    await call.services.recovery.change(
        call.actor.user_id,
        call.actor.session_id,
        params.current.get_secret_value(),
        params.password.get_secret_value(),
        keys=params.keys,
    )
    return Done()


@operation(
    "account.change_email",
    permission=SIGNED_IN,
    kind="write",
    http=Http("POST", "/v1/auth/email"),
    cost=20,
    faults=("permission_denied", "rate_limited"),
)
async def change_email(call: Call, params: ChangeEmail) -> Done:
    """Have a letter sent to another address, by which it becomes that of your account.

    Nothing changes until its link is opened (`account.verify`), which works once, for a day. An
    address that has an account is answered alike, and its owner gets a letter that says so. Your
    sessions go on. A wrong password is `permission_denied`; who has none chooses one by
    `account.recover` first.
    """
    await call.services.recovery.confirm(call.actor.user_id, params.password.get_secret_value())
    await call.services.moves.ask(call.actor.user_id, params.email, call.address)
    return Done()
