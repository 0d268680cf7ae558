"""The exceptions are the hub's fault table, and nothing of the hub comes with them."""

import ast
from pathlib import Path

import generate_faults
import hub_client
import pytest
from hub_client import faults
from hub_client.faults import ConnectionClosed, HubError, fault_from, fault_of

from hub.faults import CLOSES, FAULTS, Fault

PACKAGE = Path(hub_client.__file__).parent


def test_the_committed_classes_are_the_generated_ones() -> None:
    assert (PACKAGE / "faults.py").read_text(encoding="utf-8") == generate_faults.generate()


@pytest.mark.parametrize("reason", FAULTS)
def test_every_fault_arrives_as_its_own_class_with_all_it_says(reason: str) -> None:
    body = Fault(reason, "Do this.", details={"retry_after_ms": 1500}).body("trace-1")
    fault = fault_from(body)
    assert type(fault).__name__ == generate_faults.class_name(reason)
    assert isinstance(fault, HubError)
    assert fault.reason == reason
    assert fault.code == FAULTS[reason].code
    assert fault.retryable is FAULTS[reason].retryable
    assert fault.message == "Do this."
    assert fault.retry_after == 1.5
    assert fault.trace_id == "trace-1"


def test_the_tree_in_the_docstring_names_every_class() -> None:
    classes = [
        name
        for name, value in vars(faults).items()
        if isinstance(value, type) and issubclass(value, HubError)
    ]
    assert [name for name in classes if name not in (faults.__doc__ or "")] == []


def test_a_reason_of_a_newer_hub_is_a_plain_fault_that_carries_it() -> None:
    data = {"reason": "planet_misaligned", "retryable": True}
    fault = fault_from({"code": 4999, "message": "Wait.", "data": data})
    assert type(fault) is faults.Fault
    assert (fault.reason, fault.code, fault.retryable) == ("planet_misaligned", 4999, True)


def test_a_run_error_is_raised_by_its_reason_alone() -> None:
    assert isinstance(fault_of("model_unavailable", "Start it."), faults.ModelUnavailable)


@pytest.mark.parametrize("code", CLOSES)
def test_a_close_code_says_what_happened_and_whether_to_return(code: int) -> None:
    closed = ConnectionClosed(code, '{"reason":"told","retry_after_ms":1200}')
    assert closed.reconnect is CLOSES[code].reconnect
    assert closed.message == CLOSES[code].meaning
    assert (closed.reason, closed.retry_after) == ("told", 1.2)
    assert ConnectionClosed(code).reason == CLOSES[code].reason


def test_the_sdk_imports_nothing_of_the_hub() -> None:
    modules = {"hub_client", "httpx", "websockets"}
    for file in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not [name for name in names if name.partition(".")[0] == "hub"], file
            modules |= {name.partition(".")[0] for name in names}
    foreign = modules - set(__import__("sys").stdlib_module_names)
    assert foreign == {"hub_client", "httpx", "websockets"}
