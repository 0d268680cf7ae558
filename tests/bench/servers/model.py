"""The scripted model server of the tests, as a child of a benchmark."""

import argparse
import asyncio

from tests.bench.child import obey
from tests.parts.scripted import scripted_server
from tests.parts.scripts import Script


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("tokens", type=int)
    parser.add_argument("delay_ms", type=float)
    parser.add_argument("first_ms", type=float)
    given = parser.parse_args()
    tokens = tuple(f" token{number}" for number in range(given.tokens))
    script = Script(tokens=tokens, delay_ms=given.delay_ms, first_ms=given.first_ms)
    with scripted_server({"bench": script}) as model:

        async def written() -> list[int]:
            """Tokens written since the start, and answers that are being written now."""
            requests = tuple(model.requests)
            writing = sum(one.sent > 0 and one.ended_at is None for one in requests)
            return [sum(one.sent for one in requests), writing]

        await obey({"port": model.port, "model": "bench"}, {"written": written})


if __name__ == "__main__":
    asyncio.run(main())
