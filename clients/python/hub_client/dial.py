"""Opening one WebSocket to the hub."""

from typing import Final

import websockets
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_socket
from websockets.typing import Subprotocol

from hub_client.addresses import Address
from hub_client.faults import ConnectFailed
from hub_client.frames import SUBPROTOCOL

OPEN_TIMEOUT_S: Final = 10.0
MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024


async def dial(address: Address, token: str, session_key: str | None = None) -> ClientConnection:
    """A WebSocket on which the hub is about to say ``session.ready``. Raises ConnectFailed."""
    headers = {"Authorization": f"Bearer {token}"}
    if session_key is not None:
        headers["Hub-Session-Key"] = session_key
    try:
        socket = await open_socket(
            address.socket,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            additional_headers=headers,
            compression=None,
            proxy=None if address.local else True,
            open_timeout=OPEN_TIMEOUT_S,
            close_timeout=2,
            max_size=MAX_MESSAGE_BYTES,
        )
    except websockets.InvalidStatus as error:
        status = error.response.status_code
        raise ConnectFailed(
            f"{address.http} refused the WebSocket with {status}{address.advice(status)}",
            status=status,
        ) from None
    except (OSError, TimeoutError, EOFError, websockets.InvalidHandshake) as error:
        what = str(error) or "no answer in time"
        raise ConnectFailed(f"Cannot reach the hub at {address.http}: {what}") from error
    if socket.subprotocol != SUBPROTOCOL:
        await socket.close()
        raise ConnectFailed(f"{address.http} does not speak {SUBPROTOCOL}", status=400)
    return socket
