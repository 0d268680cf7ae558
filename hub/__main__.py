"""``python -m hub`` is the ``hub`` command."""

import gc

gc.disable()  # nothing of what imports make is garbage: looking for some is a tenth of the start
from hub.cli import main  # noqa: E402

gc.enable()

if __name__ == "__main__":
    raise SystemExit(main())
