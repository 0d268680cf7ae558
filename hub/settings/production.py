"""What a hub that is for real does not start without, and what to set for it."""

from typing import Final
from urllib.parse import urlsplit

from hub.settings import BadSettings, Settings, is_here

LEAST_BCRYPT_COST: Final = 10
"""Of password hashes that somebody may steal (OWASP, Password Storage Cheat Sheet)."""

NO_MAIL: Final = (
    "HUB_SMTP_URL: in production letters go by mail, not into the log; give a mail server "
    "(smtp://host:587)"
)


def demands(settings: Settings) -> list[str]:
    """What is missing, a line for each setting; nothing in development."""
    if settings.environment != "production":
        return []
    missing = []
    if settings.smtp_url is None:
        missing.append(NO_MAIL)
    if not _is_safe(settings.public_url):
        missing.append(
            "HUB_PUBLIC_URL: letters and providers lead people there, with secrets in the links; "
            "give the https:// address by which people reach the hub"
        )
    if settings.bcrypt_cost < LEAST_BCRYPT_COST:
        missing.append(
            f"HUB_BCRYPT_COST: {settings.bcrypt_cost} is for tests; in production at least "
            f"{LEAST_BCRYPT_COST}, or leave it out"
        )
    return missing


def check_production(settings: Settings) -> None:
    """Raise BadSettings for what is missing, all of it at once."""
    if missing := demands(settings):
        raise BadSettings(for_real("; ".join(missing)))


def for_real(problem: str) -> str:
    """The problem, and the way out for who only tries."""
    return f"{problem}. Or set HUB_ENVIRONMENT=development if this hub is not for real"


def _is_safe(url: str | None) -> bool:
    if url is None:
        return False
    parts = urlsplit(url)
    return parts.scheme == "https" or is_here(parts.hostname or "")
