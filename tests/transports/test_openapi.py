"""The documents of the interfaces: that they are well formed, whole, and true of the served hub.

schemathesis makes requests from ``/openapi.json``, sound ones and unsound ones, and holds every
answer to it.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from schemathesis.checks import CheckFunction
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    missing_required_header,
    negative_data_rejection,
    positive_data_acceptance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from hub.operations.operation import PUBLIC
from hub.operations.table import OPERATIONS
from hub.transports.asyncapi import NOTICES, asyncapi
from hub.transports.openapi import openapi
from hub.transports.sse import PATH as EVENTS_PATH
from tests.parts.hub import PASSWORD, HubProcess
from tests.parts.ports import free_port
from tests.parts.scripted import ScriptedModel

EXAMPLES: Final = 12
CHECKS: Final[list[CheckFunction]] = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    positive_data_acceptance,
    missing_required_header,
    unsupported_method,
    ignored_auth,
]
_NUMBERS = count(1)


@dataclass
class Described:
    """A hub process, and somebody who owns a tenant there."""

    process: HubProcess
    email: str
    conversation: str = ""

    def login(self, email: str | None = None) -> str:
        """A new access token."""
        account = {"email": email or self.email, "password": PASSWORD}
        answer = httpx.post(f"{self.process.url}/v1/auth/login", json=account, trust_env=False)
        return str(answer.raise_for_status().json()["access_token"])

    def of_another(self) -> str:
        """An access token of somebody new."""
        account = {"email": f"user{next(_NUMBERS)}@hub.example", "password": PASSWORD}
        made = httpx.post(f"{self.process.url}/v1/auth/register", json=account, trust_env=False)
        made.raise_for_status()
        return self.login(account["email"])


@pytest.fixture(scope="module")
def described(
    tmp_path_factory: pytest.TempPathFactory, scripted_model: ScriptedModel
) -> Iterator[Described]:
    folder = tmp_path_factory.mktemp("described") / ".hub"
    environment = {"OLLAMA_HOST": scripted_model.host, "HUB_LOG_FORMAT": "json"}
    process = HubProcess(folder, free_port(), environment)
    process.start()
    hub = Described(process, "ada@hub.example")
    account = {"email": hub.email, "password": PASSWORD}
    made = httpx.post(f"{process.url}/v1/auth/register", json=account, trust_env=False)
    made.raise_for_status()
    headers = {"Authorization": f"Bearer {hub.login()}"}
    path = f"{process.url}/v1/conversations"
    begun = httpx.post(path, json={"model": "echo"}, headers=headers, trust_env=False)
    hub.conversation = begun.raise_for_status().json()["id"]
    yield hub
    process.stop()


@pytest.fixture(scope="module")
def token(described: Described) -> str:
    return described.login()


DOCUMENT: Final[dict[str, Any]] = json.loads(json.dumps(openapi(OPERATIONS)))

SHARES_PATH: Final = "/v1/conversations/{conversation_id}/shares"

# A stream has no end.
described_api = schemathesis.openapi.from_dict(DOCUMENT).exclude(path=EVENTS_PATH)


SAYS_MORE: Final = {
    "/v1/auth/login": "how often one fails",
    "/v1/auth/logout": "that keys end with all sessions alone",
    "/v1/auth/recover": "what an address may be, and how often one asks",
    "/v1/auth/resend": "what an address may be, and how often one asks",
    "/v1/auth/verify": "how often one fails",
    "/v1/auth/factor/reset": "how often one fails",
    "/v1/auth/reset": "how often one fails",
    "/v1/auth/password": "how often one fails",
    "/v1/account/delete": "how often one fails",
    "/v1/auth/register": "what an address and a password may be",
    SHARES_PATH: "a user or an address, and an end that is to come",
    "/v1/roles": "which permissions there are",
    "/v1/roles/{role_id}": "which permissions there are",
    "/v1/roles/{role_id}/assign": "a user or a group, and an end that is to come",
    "/v1/roles/{role_id}/revoke": "a user or a group",
    "/v1/users/{user_id}/explain": "which permissions there are",
    "/v1/users": "which addresses there can be",
    "/v1/auth/email": "which addresses there can be, and how often one fails",
    "/v1/apikeys": "which permissions there are",
    "/v1/apikeys/{api_key_id}": "which permissions there are",
    "/v1/usage": "days that are in order and not too many, and a cursor of the same report",
    "/v1/tenants": "which addresses there can be",
    "/v1/invitations": "which addresses there can be",
}
"""Paths that ask for more than a schema can say."""


@described_api.parametrize()
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_the_served_hub_answers_as_its_document_says(
    case: schemathesis.Case[Any], described: Described, token: str
) -> None:
    if case.operation.path == "/v1/auth/logout":
        token = described.of_another()  # whose sessions this may end
    if (
        "conversation_id" in case.path_parameters
        and case.method != "DELETE"
        and case.meta is not None
        and case.meta.generation.mode is GenerationMode.POSITIVE
        and next(_NUMBERS) % 4
    ):
        case.path_parameters["conversation_id"] = described.conversation
    more = case.operation.path in SAYS_MORE
    case.call_and_validate(
        headers={"Authorization": f"Bearer {token}"},
        checks=CHECKS,
        excluded_checks=[positive_data_acceptance] if more else [],
        base_url=described.process.url,
        timeout=10,
    )


def test_nothing_failed_inside_while_it_was_asked(described: Described) -> None:
    """After the requests above, the log holds no failure of an operation."""
    lines = [json.loads(line) for line in described.process.log.splitlines()]
    assert [line for line in lines if line["level"] == "error"] == []


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


def _resolved(document: Any, reference: str) -> Any:
    found = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part.replace("~1", "/").replace("~0", "~")]
    return found


def _schemas(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for name, item in value.items():
            if name in ("schema", "payload"):
                yield item
            yield from _schemas(item)
    elif isinstance(value, list):
        for item in value:
            yield from _schemas(item)


ASYNCAPI: Final[dict[str, Any]] = json.loads(json.dumps(asyncapi(OPERATIONS)))


@pytest.mark.parametrize("document", [DOCUMENT, ASYNCAPI], ids=["openapi", "asyncapi"])
def test_every_reference_leads_somewhere_and_every_schema_is_one(document: Any) -> None:
    references = list(_references(document))
    assert references
    for reference in references:
        assert _resolved(document, reference) is not None
    for schema in (*_schemas(document), *document["components"]["schemas"].values()):
        Draft202012Validator.check_schema(schema)


def test_every_operation_of_http_is_in_the_document() -> None:
    described = {
        item["operationId"]: (method, path)
        for path, methods in DOCUMENT["paths"].items()
        for method, item in methods.items()
    }
    offered = {
        operation.name: (operation.http.method.lower(), operation.http.path)
        for operation in OPERATIONS.values()
        if operation.http is not None
    }
    assert described == {**offered, "channel.events": ("get", EVENTS_PATH)}


def test_the_document_is_openapi() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert DOCUMENT["info"]["title"]
    assert DOCUMENT["info"]["version"]
    for path, methods in DOCUMENT["paths"].items():
        named = {part[1:-1] for part in path.split("/") if part.startswith("{")}
        for item in methods.values():
            parameters = item["parameters"]
            assert {p["name"] for p in parameters if p["in"] == "path"} == named
            assert all(p["required"] for p in parameters if p["in"] == "path")
            assert item["summary"]
            assert all(answer["description"] for answer in item["responses"].values())
            assert any(status.startswith("2") for status in item["responses"])


def test_the_document_names_no_licence_that_nobody_gave() -> None:
    root = Path(__file__).resolve().parents[2]
    assert ("license" in openapi(OPERATIONS)["info"]) == any(root.glob("LICEN[CS]E*"))


def test_what_needs_credentials_says_so() -> None:
    for operation in OPERATIONS.values():
        if operation.http is None:
            continue
        item = DOCUMENT["paths"][operation.http.path][operation.http.method.lower()]
        public = operation.permission == PUBLIC
        assert bool(item["security"]) is not public
        assert ("401" in item["responses"]) or public


def test_the_document_of_the_socket_has_every_method_and_notice() -> None:
    assert ASYNCAPI["asyncapi"].startswith("3.")
    offered = {operation.name for operation in OPERATIONS.values() if operation.socket}
    asked = {name for name, item in ASYNCAPI["operations"].items() if item["action"] == "receive"}
    told = {
        item["messages"][0]["$ref"].rpartition("/")[2]
        for item in ASYNCAPI["operations"].values()
        if item["action"] == "send"
    }
    assert asked == offered
    assert told == set(NOTICES)
    for item in ASYNCAPI["operations"].values():
        assert item["channel"]["$ref"] == "#/channels/socket"
        for message in (*item["messages"], *item.get("reply", {}).get("messages", [])):
            assert message["$ref"].startswith("#/channels/socket/messages/")


def test_a_reply_may_be_an_error_in_the_document_too() -> None:
    for item in ASYNCAPI["operations"].values():
        if "reply" in item:
            names = [message["$ref"].rpartition("/")[2] for message in item["reply"]["messages"]]
            assert "error" in names


def test_the_hub_serves_both_documents_and_the_reference(described: Described) -> None:
    with httpx.Client(base_url=described.process.url, trust_env=False) as client:
        assert client.get("/openapi.json").json() == DOCUMENT
        assert client.get("/asyncapi.json").json() == ASYNCAPI
        page = client.get("/docs")
        assert page.headers["content-type"].startswith("text/html")
        for operation in OPERATIONS:
            assert operation in page.text
