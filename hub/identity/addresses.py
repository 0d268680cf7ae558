"""E-mail addresses, as accounts are known by them."""

from email_validator import EmailNotValidError, validate_email

from hub.faults import Fault


def normal(email: str) -> str:
    """The address in its one form, lower case. Raises Fault("invalid_params")."""
    try:
        valid = validate_email(email, check_deliverability=False)
    except EmailNotValidError as error:
        raise Fault("invalid_params", f"Not an e-mail address: {error}") from None
    return valid.normalized.lower()
