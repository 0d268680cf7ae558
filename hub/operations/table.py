"""The table of all operations."""

from collections.abc import Mapping
from types import ModuleType
from typing import Final

from hub.operations import (
    account,
    apikey,
    assignment,
    audit,
    channel,
    conversation,
    factor,
    group,
    member,
    message,
    model,
    own_account,
    presence,
    quota,
    recovery,
    role,
    run,
    service,
    session,
    sharing,
    tenant,
    usage,
    user,
)
from hub.operations.operation import AnyOperation, Operation

_FAMILIES: Final[tuple[ModuleType, ...]] = (
    account,
    recovery,
    own_account,
    factor,
    session,
    user,
    channel,
    presence,
    conversation,
    sharing,
    message,
    run,
    model,
    role,
    assignment,
    group,
    apikey,
    service,
    audit,
    quota,
    usage,
    tenant,
    member,
)

OPERATIONS: Final[Mapping[str, AnyOperation]] = {
    declared.name: declared
    for module in _FAMILIES
    for declared in vars(module).values()
    if isinstance(declared, Operation)
}
"""Every operation by its name, in the order in which users read of them."""
