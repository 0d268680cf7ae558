"""``python -m hub.inference.local`` is ``hub local-model``."""

import sys

from hub.inference.local.command import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
