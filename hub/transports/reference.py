"""The reference that users read: methods, faults, close codes, permissions, settings, metrics.

One Markdown text made from the tables; ``hub/REFERENCE.md`` is its copy, and ``/docs`` shows it.
"""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hub import __version__
from hub.faults import CLOSES, FAULTS
from hub.operations.operation import PUBLIC, SIGNED_IN, AnyOperation, Streamed
from hub.rbac.permissions import PERMISSIONS
from hub.settings import Settings
from hub.telemetry.metrics import Metrics
from hub.transports.asyncapi import NOTICES
from hub.transports.openapi import schemas_of
from hub.transports.sse import PATH as EVENTS_PATH


def reference(operations: Mapping[str, AnyOperation]) -> str:
    """The reference, in Markdown."""
    parts = [
        "# Reference",
        f"Of the realtime agent hub {__version__}; made from the code by `hub reference`. "
        "The machine-readable forms are `/openapi.json` and `/asyncapi.json`.",
        "## Methods",
        "Over the WebSocket as JSON-RPC requests, over HTTP as the line below the name says.",
        *_methods(operations),
        "## Objects",
        "What parameters and results are made of.",
        *_objects(operations),
        "## Event streams",
        f"`GET {EVENTS_PATH}?since=` streams a channel as server-sent events, for clients without "
        "a WebSocket; it needs `channel:subscribe`. `since` is `start` or `epoch:seq`; an event's "
        "`id` is its `epoch:seq`, which `Last-Event-ID` resumes. `event: snapshot` is the state to "
        "begin from when the log cannot continue; `event: ended` says why the stream ends. "
        "A stream is one of the connections that a user and an address may have.",
        "## Notices",
        "What the hub sends of its own accord.",
        _table(("notice", "meaning"), ((f"`{name}`", text) for name, text in NOTICES.items())),
        "## Faults",
        _table(
            ("code", "reason", "HTTP", "retryable", "meaning"),
            (
                (kind.code, f"`{kind.reason}`", kind.http, _yes(kind.retryable), kind.meaning)
                for kind in FAULTS.values()
            ),
        ),
        "## Close codes",
        "4000-4499 ask the client to reconnect (with jitter, and resume), 4500-4999 not to.",
        _table(
            ("code", "reason", "reconnect", "meaning"),
            (
                (kind.code, f"`{kind.reason}`", _yes(kind.reconnect), kind.meaning)
                for kind in CLOSES.values()
            ),
        ),
        "## Permissions",
        _table(
            ("permission", "allows"), ((f"`{name}`", text) for name, text in PERMISSIONS.items())
        ),
        "## Settings",
        "From the environment or a `.env` file.",
        _table(("setting", "default", "meaning"), _settings()),
        "## Metrics",
        "At `/metrics`, in the formats of Prometheus and OpenMetrics.",
        _table(("metric", "type", "meaning"), _metrics()),
    ]
    return "\n\n".join(parts) + "\n"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += [
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows
    ]
    return "\n".join(lines)


def _methods(operations: Mapping[str, AnyOperation]) -> Iterable[str]:
    schemas, definitions = schemas_of(operations)
    for operation in operations.values():
        yield f"### {operation.name}"
        ways = ["WebSocket"] if operation.socket else []
        if operation.http is not None:
            ways.append(f"`{operation.http.method} {operation.http.path}`")
        needs = {PUBLIC: "no credentials", SIGNED_IN: "any valid credentials"}.get(
            operation.permission, f"`{operation.permission}`"
        )
        yield f"{operation.summary}. {' · '.join(ways)} · needs {needs}."
        if operation.description:
            yield operation.description
        params = schemas[(operation.params, "validation")]
        if "$ref" in params:
            params = definitions[params["$ref"].rpartition("/")[2]]
        if rows := list(_fields(params)):
            yield _table(("parameter", "type", "meaning"), rows)
        if issubclass(operation.result, Streamed):
            yield f"Answers with a body of {' or '.join(f'`{m}`' for m in operation.result.media)}."
            continue
        result = schemas[(operation.result, "serialization")]
        if "$ref" in result:
            result = definitions[result["$ref"].rpartition("/")[2]]
        if rows := list(_fields(result)):
            yield _table(("result", "type", "meaning"), rows)


def _objects(operations: Mapping[str, AnyOperation]) -> Iterable[str]:
    """The schemas that the tables of the methods name, and those that these name."""
    schemas, definitions = schemas_of(operations)
    waiting = [
        definitions[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
        for schema in schemas.values()
    ]
    named: dict[str, Any] = {}
    while waiting:
        for name in _names(waiting.pop().get("properties", {})):
            if name not in named:
                named[name] = definitions[name]
                waiting.append(definitions[name])
    for name in sorted(named):
        yield f"### {name}"
        yield _table(("field", "type", "meaning"), _fields(named[name]))


def _names(value: Any) -> Iterable[str]:
    if isinstance(value, Mapping):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"].rpartition("/")[2]
        for item in value.values():
            yield from _names(item)
    elif isinstance(value, list):
        for item in value:
            yield from _names(item)


def _fields(schema: Mapping[str, Any]) -> Iterable[tuple[str, str, str]]:
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        optional = "" if name in required else " (optional)"
        text = field.get("description", "")
        if field.get("default") is not None:
            text = f"{text} Default: `{field['default']}`.".strip()
        yield f"`{name}`", _type_of(field) + optional, text


def _type_of(field: Mapping[str, Any]) -> str:
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if "anyOf" in field:
        return " or ".join(_type_of(kind) for kind in field["anyOf"] if kind != {"type": "null"})
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    kind = str(field.get("type", "any"))
    if kind == "array":
        return f"list of {_type_of(field.get('items', {}))}"
    return kind


def _settings() -> Iterable[tuple[str, str, str]]:
    for field in Settings.model_fields.values():
        default = "" if field.default in (None, ()) else f"`{field.default}`"
        yield f"`{field.alias}`", default, field.description or ""


def _metrics() -> Iterable[tuple[str, str, str]]:
    for family in Metrics().registry.collect():
        # A counter's family lacks the suffix that its samples have.
        suffix = "_total" if family.type == "counter" else ""
        yield f"`{family.name}{suffix}`", family.type, family.documentation


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Reference · realtime agent hub</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem }}
table {{ border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem }}
th, td {{ border: 1px solid #8886; padding: .3rem .6rem; text-align: left; vertical-align: top }}
code {{ background: #8882; padding: .1rem .25rem; border-radius: .2rem }}
h2 {{ margin-top: 2.5rem }} h3 {{ margin-bottom: .2rem }}
</style></head><body>
<main>{body}</main>
</body></html>
"""


def page(markdown: str) -> str:
    """The reference as a web page. Knows only the Markdown that ``reference`` writes."""
    blocks = []
    for block in markdown.strip().split("\n\n"):
        if block.startswith("#"):
            marks, _, text = block.partition(" ")
            anchor = re.sub(r"[^a-z0-9.]+", "-", text.lower())
            level = len(marks)
            blocks.append(f'<h{level} id="{anchor}">{_inline(text)}</h{level}>')
        elif block.startswith("|"):
            blocks.append(_html_table(block))
        else:
            blocks.append(f"<p>{_inline(block)}</p>")
    return _PAGE.format(body="\n".join(blocks))


def _html_table(block: str) -> str:
    head, _, *rows = (
        [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in block.splitlines()
    )
    top = "".join(f'<th scope="col">{_inline(cell)}</th>' for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{_inline(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))
