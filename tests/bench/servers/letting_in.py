"""Letting in: the steps of one message before its handler runs, timed apart."""

from time import perf_counter_ns
from typing import Any

from hub.operations.call import ANONYMOUS, Call, Services
from hub.operations.dispatcher import admit, authorise, validate
from hub.operations.table import OPERATIONS


async def let_in(
    services: Services, token: str, method: str, params: dict[str, Any], count: int
) -> list[float]:
    """ns of who it is and how often, of what is asked, and of whether they may; means."""
    operation, claims = OPERATIONS[method], services.tokens.read(token)
    spent = [0, 0, 0]
    for number in range(-100, count):
        call = Call(services, ANONYMOUS, claims, None, "bench", "")
        began = perf_counter_ns()
        await admit(operation, call)
        admitted = perf_counter_ns()
        validated = validate(operation, params)
        checked = perf_counter_ns()
        await authorise(operation, validated, call)
        over = perf_counter_ns()
        if number >= 0:  # the first ones look up what is remembered after
            for at, took in enumerate((admitted - began, checked - admitted, over - checked)):
                spent[at] += took
    return [total / count for total in spent]
