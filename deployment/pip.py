"""Pip: installs pinned files into an environment, and explains why when it cannot."""

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from deployment.failure import Failure

MOVERS: Final = frozenset(
    {"PIP_DRY_RUN", "PIP_EDITABLE", "PIP_NO_DEPS", "PIP_PREFIX", "PIP_PYTHON"}
    | {"PIP_REQUIREMENT", "PIP_ROOT", "PIP_TARGET", "PIP_USER"}
)
"""pip's variables that would change what is installed or where. Those that say how and from where
(index, proxy, certificate, cache, time-outs) are the user's business and stay."""

HINTS: Final = (
    (
        r"No space left on device|Errno 28",
        "The disk is full: the environment needs about 500 MB here and as much in the "
        "temporary directory while it is made.",
    ),
    (
        r"DO NOT MATCH THE HASHES|Hashes are required|HashMismatch",
        "A file is not the one that was pinned, so it was refused. A mirror or PIP_FIND_LINKS "
        "may offer another build of it.",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError|SSLCertVerification",
        "The package index's certificate was not accepted; behind a proxy that makes its own, "
        "set PIP_CERT to its certificate file.",
    ),
    (
        r"name resolution|Name or service|nodename nor servname|NewConnectionError|unreachable"
        r"|ConnectTimeout|ReadTimeout|Read timed out|ProxyError|Connection refused"
        r"|Connection broken|Failed to establish|Connection aborted|Connection reset",
        "The package index could not be reached: check the network, or set HTTPS_PROXY or "
        "PIP_INDEX_URL to what serves you.",
    ),
    (
        r"Failed building wheel|Failed to build|metadata-generation-failed|'(gcc|cc|cargo)'",
        "A package has no ready-made file for this Python and machine, and could not be compiled; "
        "HUB_PYTHON=/path/to/python3.13 chooses another Python.",
    ),
    (
        r"No matching distribution found",
        "The package index did not answer, or does not have it: is the network there, and if it "
        "is a mirror, is it complete?",
    ),
    (r"Permission denied|Errno 13", "A file may not be written by this user."),
)

DISK_FULL: Final = HINTS[0][1]


def hint(output: str) -> str | None:
    """What pip's ``output`` means, if that is known. The first cause in it that is."""
    return next((text for pattern, text in HINTS if re.search(pattern, output)), None)


def tail(output: str, limit: int = 8) -> str:
    """The lines of pip's ``output`` that matter: its errors, or its last ``limit`` lines."""
    lines = [line for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.lstrip().upper().startswith("ERROR")]
    chosen = (errors or lines)[-limit:]
    return "\n".join(f"  {line[:300]}" for line in chosen)


def install(
    pip: Sequence[str], requirements: Path, *, flags: Sequence[str], environ: Mapping[str, str]
) -> None:
    """Runs ``pip install`` on a file of hashed pins. ``pip`` is the command that starts it.

    Raises Failure with the end of pip's output and a hint.
    """
    words = [*pip, "install", "--quiet", "--no-input", "--no-user", "--progress-bar=off"]
    words += ["--disable-pip-version-check", "--require-hashes", *flags, "-r", str(requirements)]
    kept = {name: value for name, value in environ.items() if name not in MOVERS}
    # pip warns of its cache's owner and of running as root; neither matters inside .venv.
    kept |= {"PIP_ROOT_USER_ACTION": "ignore"}
    done = subprocess.run(
        words,
        env=kept,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        meaning = hint(done.stdout)
        raise Failure(
            f"pip could not install {_shown(requirements)}:\n{tail(done.stdout)}"
            + (f"\n{meaning}" if meaning else "")
        )


def _shown(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
