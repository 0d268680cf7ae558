"""Calling what subscribers gave us."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")


def call_sink(sink: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
    """Call a sink on the running loop. One that raises is reported to the loop's exception
    handler: it must not cost its neighbours or the appender anything.
    """
    try:
        sink(*args, **kwargs)
    except Exception as error:
        asyncio.get_running_loop().call_exception_handler(
            {"message": "A sink of the backplane raised", "exception": error}
        )
