"""What one does about an account without being signed in: its address, its password, its second
factor, another tenant.
"""

from hub_client.addresses import parse_address
from hub_client.auth import CodeSource, LoginAuth, http_client, post


async def recover(url: str, *, email: str) -> None:
    """Have a letter sent with a link to choose a new password.

    Nothing tells whether the address has an account. Raises RateLimited, InvalidParams,
    ConnectFailed.
    """
    await _ask(url, "recover", email=email)


async def reset_password(url: str, *, token: str, password: str, keys: bool = True) -> None:
    """Choose a new password with the token of a letter (what follows ``#reset=`` in its link); all
    sessions of the account end, and (``keys``) its API keys.

    Raises Unauthenticated (it was used, or is too old), InvalidParams (the password), RateLimited,
    ConnectFailed.
    """
    stay = {} if keys else {"keys": False}
    await _ask(url, "reset", token=token, password=password, **stay)


async def resend(url: str, *, email: str) -> None:
    """Have the letter sent again that verifies an address. Raises as ``recover`` does."""
    await _ask(url, "resend", email=email)


async def verify_email(url: str, *, token: str) -> None:
    """Verify an address with the token of a letter (what follows ``#verify=`` in its link).

    Raises Unauthenticated (it was used, or is too old), RateLimited, ConnectFailed.
    """
    await _ask(url, "verify", token=token)


async def reset_factor(url: str, *, token: str) -> None:
    """Do without the second factor from now on, with the token of the letter that an administrator
    has sent (what follows ``#factor=`` in its link).

    Raises Unauthenticated (it was used, or is too old), RateLimited, ConnectFailed.
    """
    await _ask(url, "factor/reset", token=token)


async def accept_invitation(
    url: str,
    *,
    email: str,
    password: str,
    invitation: str,
    second_factor: CodeSource | None = None,
) -> None:
    """Join the tenant of an invitation with the account that one has, also one without a tenant.

    Then ``connect``, with ``tenant`` if one has several. Raises PermissionDenied (the invitation is
    not valid, or not any more), Conflict (a member already), Unauthenticated, SecondFactorRequired,
    RateLimited, ConnectFailed.
    """
    account = {"email": email, "password": password, "invitation": invitation}
    login = LoginAuth(parse_address(url), "login", account, second_factor)
    try:
        await login.access()
        await login.logout()
    finally:
        await login.close()


async def _ask(url: str, what: str, **body: str | bool) -> None:
    async with http_client(parse_address(url)) as client:
        await post(client, f"/v1/auth/{what}", body)
