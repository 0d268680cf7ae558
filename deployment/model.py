"""Model: the stand-in that answers where there is no Ollama, with the library it is linked to."""

import ctypes
import sys
from typing import Final
from urllib import request

from deployment import packages
from deployment.environment import LOCAL_MODEL, Environment
from deployment.failure import Failure
from deployment.progress import Progress

# Its wheel expects GCC's OpenMP of the system, which small containers do not have.
LIBRARY: Final = "libgomp.so.1"
PACKAGE: Final = "libgomp1"


def ollama_answers(url: str) -> bool:
    """Whether an Ollama server answers at ``url`` within a second."""
    try:
        # No proxy: the server is on this machine or in this network.
        opener = request.build_opener(request.ProxyHandler({}))
        with opener.open(f"{url}/api/version", timeout=1) as reply:
            return bool(reply.status == 200)
    except (OSError, ValueError):
        return False


def is_here(environment: Environment) -> bool:
    """Whether the stand-in is installed, and its library there."""
    return environment.has(LOCAL_MODEL) and _library_loads()


def prepare(environment: Environment, progress: Progress) -> None:
    """Installs the stand-in and its library. Raises Failure."""
    environment.prepare(LOCAL_MODEL)
    if _library_loads():
        return
    obstacle = packages.install([PACKAGE], progress)
    if not _library_loads():
        raise Failure(
            f"The stand-in model needs {LIBRARY} ({obstacle or 'apt-get did not bring it'}). "
            f"Install it, then start again:\n  {packages.command([PACKAGE])}"
        )


def _library_loads() -> bool:
    if sys.platform != "linux":
        return True
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return False
    return True
