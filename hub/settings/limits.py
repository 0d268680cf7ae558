"""Settings of how much anybody may have."""

from pydantic import Field
from pydantic_settings import BaseSettings


class LimitSettings(BaseSettings):
    """Connections, rates and quotas."""

    connections_per_user: int = Field(
        100,
        ge=0,
        alias="HUB_CONNECTIONS_PER_USER",
        description="Connections, WebSockets and streams of server-sent events together, that one "
        "user may have open in one process; one more WebSocket is closed with 4504, one more "
        "stream is answered 429. 0: no limit.",
    )
    connections_per_address: int = Field(
        1000,
        ge=0,
        alias="HUB_CONNECTIONS_PER_ADDRESS",
        description="Connections that one address may have open in one process, counted and "
        "refused like those of a user. Loopback addresses have no limit; behind a proxy on another "
        "machine all clients have its address unless HUB_TRUSTED_PROXIES names it. 0: no limit.",
    )
    user_rate: float = Field(
        200.0,
        ge=0,
        alias="HUB_USER_RATE",
        description="Requests a second that one user may make in the long run, on all nodes and "
        "by all transports; costly ones count for several. 0: no limit.",
    )
    user_burst: float = Field(
        4000.0,
        ge=1,
        alias="HUB_USER_BURST",
        description="Requests that one user may make at once.",
    )
    tenant_rate: float = Field(
        2000.0,
        ge=0,
        alias="HUB_TENANT_RATE",
        description="Requests a second that all users of one tenant together may make in the long "
        "run, on all nodes and by all transports; costly ones count for several. 0: no limit.",
    )
    tenant_burst: float = Field(
        20000.0,
        ge=1,
        alias="HUB_TENANT_BURST",
        description="Requests that all users of one tenant together may make at once.",
    )
    address_rate: float = Field(
        500.0,
        ge=0,
        alias="HUB_ADDRESS_RATE",
        description="Requests a second that one address (of IPv6: one network of 64 bits), signed "
        "in or not, may make in the long run, on all nodes and by all transports; costly ones "
        "count for several. Loopback addresses have no limit; X-Forwarded-For counts from "
        "HUB_TRUSTED_PROXIES alone. 0: no limit.",
    )
    address_burst: float = Field(
        5000.0,
        ge=1,
        alias="HUB_ADDRESS_BURST",
        description="Requests that one address, signed in or not, may make at once.",
    )
    answer_cache_s: float = Field(
        86_400.0,
        ge=0,
        alias="HUB_ANSWER_CACHE_SECONDS",
        description="Seconds for which an answer is kept that a tenant wants to be given again to "
        "exactly the same prompt (its setting `answer_cache`); it is not given any more once the "
        "tenant's settings have changed, or the model. 0: none is kept.",
    )
