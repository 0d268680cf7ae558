"""The table of all operations."""

from collections.abc import Mapping
from types import ModuleType
from typing import Final

from hub.operations import (
    account,
    assignment,
    channel,
    conversation,
    group,
    message,
    model,
    own_account,
    presence,
    recovery,
    role,
    run,
    session,
    user,
)
from hub.operations.operation import AnyOperation, Operation

_FAMILIES: Final[tuple[ModuleType, ...]] = (
    account,
    recovery,
    own_account,
    session,
    user,
    channel,
    presence,
    conversation,
    message,
    run,
    model,
    role,
    assignment,
    group,
)

OPERATIONS: Final[Mapping[str, AnyOperation]] = {
    declared.name: declared
    for module in _FAMILIES
    for declared in vars(module).values()
    if isinstance(declared, Operation)
}
"""Every operation by its name, in the order in which users read of them."""
