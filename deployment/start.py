"""Start: what ``deployment/run`` does once it has a Python: prepare, then serve or ask."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from deployment import model, question
from deployment.environment import RUNTIME, Environment, ask
from deployment.failure import Failure
from deployment.progress import Progress

ROOT: Final = Path(__file__).resolve().parent.parent

# The hub's own reader decides, so that a `.env` file counts here as it does there.
SETTINGS: Final = """
import json, sys
from hub.settings import BadSettings, read_settings
try:
    settings = read_settings()
except BadSettings as error:
    sys.exit(str(error))
print(json.dumps({"data_dir": str(settings.data_dir), "ollama": settings.ollama_host}))
"""


def options(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line. Exits with status 0 after ``--help``, and 2 for what it does not know."""
    parser = argparse.ArgumentParser(
        prog="deployment/run",
        description="Makes everything the hub needs in .venv and .hub/, then starts the hub. "
        "A second start takes a second.",
        epilog="HUB_PYTHON=/path/to/python3 chooses the Python. The hub's own settings (HUB_*, "
        "JWT_*, OLLAMA_HOST) are read from the environment and from a .env file.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--ask",
        metavar="TEXT",
        help="print one answer to TEXT on stdout and exit; the hub is started for it if it does "
        "not run, and then stopped again",
    )
    parser.add_argument("--port", type=_port, help="port to listen on (HUB_PORT; 8000)")
    parser.add_argument(
        "--data-dir",
        metavar="D",
        type=Path,
        help="directory of database, secrets and log (HUB_DATA_DIR; .hub)",
    )
    return parser.parse_args(arguments)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:  # 16 bits
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (0 to 65535)")
    return int(text)


def prepare(environment: Environment, progress: Progress) -> Path:
    """Makes the environment ready for the hub. Returns the data directory, absolute.

    A missing stand-in model is said and is no failure: the hub runs without a model.
    """
    environment.prepare(RUNTIME)
    settings = ask(environment.python, SETTINGS, cwd=environment.root)
    if not model.is_here(environment):
        if model.ollama_answers(settings["ollama"]):
            progress.say(f"Ollama answers at {settings['ollama']}")
        else:
            try:
                model.prepare(environment, progress)
            except Failure as failure:
                progress.say(
                    f"{failure}\nNo Ollama answers at {settings['ollama']} either: the hub starts, "
                    "and has no model until one is there."
                )
    return environment.root / str(settings["data_dir"])


def serve(environment: Environment, port: int | None) -> NoReturn:
    """Becomes the hub, in the foreground."""
    words = [str(environment.python), "-P", "-m", "hub", "serve", "--greet"]
    if port is not None:
        words += ["--port", str(port)]
    os.execv(words[0], words)  # noqa: S606 # no shell is wanted


def main(arguments: Sequence[str]) -> int:
    """Runs the command. Returns the exit status; every failure is one message on stderr."""
    signal.signal(signal.SIGTERM, terminated)
    chosen = options(arguments)
    progress = Progress()
    # What a caller names is relative to where the caller stands, the default to the checkout.
    named = chosen.data_dir or os.environ.get("HUB_DATA_DIR")
    try:
        if named:
            os.environ["HUB_DATA_DIR"] = str(Path(named).expanduser().absolute())
        os.chdir(ROOT)
        environment = Environment(ROOT, progress)
        data_dir = prepare(environment, progress)
        if chosen.ask is None:
            progress.say("starting the hub")
            serve(environment, chosen.port)
        question.answer(environment.python, data_dir, chosen.ask, chosen.port, progress)
    except Failure as failure:
        sys.stderr.write(f"\ndeployment/run: {failure}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"\ndeployment/run: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\ndeployment/run: stopped\n")
        return 130
    return 0


def terminated(number: int, frame: FrameType | None) -> NoReturn:
    """The handler of a signal that asks for the end: what was begun is undone on the way out."""
    raise SystemExit(128 + number)
