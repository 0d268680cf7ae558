"""E-mail addresses: the one form in which they are kept, and whose they are."""

from email_validator import EmailNotValidError, validate_email
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from hub.faults import Fault
from hub.storage.tables import User


def normal(email: str) -> str:
    """The form in which an address is kept. Raises Fault("invalid_params") for what is none."""
    try:
        valid = validate_email(email, check_deliverability=False)
    except EmailNotValidError as error:
        raise Fault("invalid_params", f"Not an e-mail address: {error}") from None
    return valid.normalized.lower()


def address_or_nobodys(email: str) -> str:
    """The form in which it is kept; of what is no address, the empty one, which nobody has."""
    try:
        return normal(email)
    except Fault:
        return ""


def own_parts(address: str) -> tuple[str, str]:
    """What is before the @, and the whole: what an attacker tries first for its user."""
    return address.rpartition("@")[0], address


async def user_of(session: AsyncSession, address: str) -> User | None:
    """The user with an address in the form in which it is kept."""
    return (await session.exec(select(User).where(User.email == address))).one_or_none()
