"""Presence on a WebSocket: who is there, who comes and goes, who types (contract 4)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
import pytest_asyncio

from hub.events import presence, roster
from hub.ids import new_id
from tests.interaction.conftest import Person, World
from tests.interaction.drivers import Refused, Socket, open_socket
