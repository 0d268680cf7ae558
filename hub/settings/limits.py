"""Settings of how much anybody may have."""

from pydantic import Field
from pydantic_settings import BaseSettings


class LimitSettings(BaseSettings):
    """Connections, rates and quotas."""

    connections_per_user: int = Field(
        100,
        ge=0,
        alias="HUB_CONNECTIONS_PER_USER",
        description="WebSocket connections that one user may have open in one process; one more is "
        "closed with 4504. 0: no limit.",
    )
    connections_per_address: int = Field(
        1000,
        ge=0,
        alias="HUB_CONNECTIONS_PER_ADDRESS",
        description="WebSocket connections that one address may have open in one process; one more "
        "is closed with 4504. Loopback addresses have no limit; behind a proxy on another machine "
        "all clients have its address unless HUB_TRUSTED_PROXIES names it. 0: no limit.",
    )
