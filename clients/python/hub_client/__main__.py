"""``python -m hub_client`` is the terminal client."""

from hub_client.chat import main

if __name__ == "__main__":
    raise SystemExit(main())
