"""What ``hub serve --greet`` prints when clients can come."""

from typing import Any, Final, NamedTuple

from hub.cli.administration import ADMINISTRATOR_FILE
from hub.settings import Settings, is_here

ANY_NAME: Final = (
    "The hub answers to any name, also to one that a stranger points at it; "
    "list the names it is reached by in HUB_ALLOWED_HOSTS."
)


class Welcome(NamedTuple):
    """What was made for who comes first."""

    code: str | None
    """Signs the administrator in once."""
    generated: tuple[str, str] | None
    """E-mail and password of an administrator that was made just now."""
    model: Any = None
    """What there is to say of the model."""


def greeting(settings: Settings, url: str, welcome: Welcome) -> str:
    """Where the hub is, how to get in, and what to set for others to reach it."""
    lines = [f"\nThe hub is up at {url}   (reference: {url}/docs, stop: ctrl-C)"]
    if not is_here(settings.host):
        lines += elsewhere(settings)
    if welcome.code is not None:
        lines.append(f"Sign in once, within 10 minutes:  {url}/#code={welcome.code}")
    if welcome.generated is not None:
        email, password = welcome.generated
        kept = settings.data_dir / ADMINISTRATOR_FILE
        lines += [f"Administrator:  {email}", f"Password:       {password}   (kept in {kept})"]
    if welcome.model:
        lines.append(f"Model:          {welcome.model}")
    return "\n".join(lines)


def elsewhere(settings: Settings) -> list[str]:
    """What is to be set when others than this machine reach the hub."""
    lines = []
    if not settings.allowed_origins:
        lines.append(
            "Browsers that reach it by another name need that origin in HUB_ALLOWED_ORIGINS."
        )
    if settings.any_name:
        lines.append(ANY_NAME)
    return lines
