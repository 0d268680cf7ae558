"""The house rules, executable: who may import whom, and what no module may do.

A room is a package or a module directly under ``hub/``. Data flows down this table and imports
flow up it: a room imports only rooms that stand above it.
"""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent

# room: the rooms it may import
MAY_IMPORT: Final[dict[str, str]] = {
    "ids": "",
    "faults": "",
    "settings": "",
    "protocol": "ids faults",
    "telemetry": "ids faults settings",
    "rounds": "faults telemetry",
    "rbac": "ids faults",
    "backplane": "ids faults settings telemetry rounds",
    "storage": "ids faults settings telemetry",
    "inference": "ids faults settings telemetry rounds backplane",
    "events": "ids faults settings telemetry protocol backplane",
    "audit": "ids faults settings telemetry rounds storage backplane",
    "identity": "ids faults settings telemetry rounds rbac storage backplane audit",
    "tenancy": "ids faults settings telemetry rbac storage backplane audit identity",
    "limits": "ids faults settings telemetry rounds rbac storage backplane audit identity",
    "agents": "ids faults settings telemetry rounds rbac storage backplane inference events audit"
    " identity limits",
    "operations": "ids faults settings telemetry protocol rbac storage backplane inference events"
    " rounds identity agents audit tenancy limits",
    "transports": "ids faults settings telemetry protocol rbac backplane events audit identity"
    " limits operations",
    "app": "ids faults settings telemetry protocol rbac storage backplane inference events"
    " identity agents audit tenancy limits operations transports",
    "cli": "ids faults settings telemetry protocol rbac storage backplane inference events"
    " identity agents audit tenancy limits operations transports app",
    "__main__": "cli",
}

# The rooms of hub.identity, in the same way.
WITHIN_IDENTITY: Final[dict[str, str]] = {
    "tokens": "",
    "access": "tokens",
    "sessions": "tokens access",
    "keys": "tokens access",
    "accounts": "tokens access sessions",
    "factors": "tokens access sessions accounts",
    "providers": "tokens access sessions accounts factors",
}

# Rooms and modules that only compute: tested with properties, usable from anywhere.
PURE: Final = (
    "hub.ids",
    "hub.faults",
    "hub.protocol",
    "hub.audit.chain",
    "hub.identity.tokens.api_key_text",
    "hub.audit.export",
    "hub.audit.sieve",
    "hub.audit.verifier",
    "hub.identity.providers.mapping",
    "hub.identity.factors.totp",
    "hub.limits.ledger",
    "hub.limits.prices",
    "hub.rbac.actor",
    "hub.rbac.compiling",
    "hub.rbac.decision",
    "hub.rbac.explaining",
    "hub.rbac.inheritance",
    "hub.rbac.permissions",
    "hub.rbac.ranks",
    "hub.rbac.roles",
    "hub.rbac.sharing",
    "hub.rbac.scopes",
    "hub.events.channels",
    "hub.events.fold",
    "hub.events.position",
    "hub.events.recovery",
    "hub.events.roster",
    "hub.events.snapshot",
    "hub.events.vocabulary",
    "hub.agents.run_state",
)
IMPURE: Final = frozenset(
    {"asyncio", "anyio", "threading", "socket", "subprocess", "starlette", "uvicorn", "websockets"}
    | {"redis", "sqlalchemy", "sqlmodel", "httpx", "ollama"}
)

# Only these places know that HTTP is served by Starlette.
WITH_STARLETTE: Final = ("hub.transports", "hub.app", "hub.inference.local")

# module: why it reads or passes on the environment although hub.settings is the one reader
WITH_ENVIRONMENT: Final[dict[str, str]] = {
    "hub.settings": "the one reader",
    "hub.inference.supervisor": "gives its child the environment without the hub's secrets",
    "hub.inference.local.engine": "tells the library's threads how to wait, before it is loaded",
}

# module: why it imports inside a function
LATE_IMPORTS: Final[dict[str, str]] = {}

# module: why an import does not just define names
RUN_BY_OTHERS: Final[dict[str, str]] = {
    "hub.storage.migrations.env": "Alembic runs it as a script",
}

LONGEST: Final = 400
LONGEST_TEST: Final = 700
FORBIDDEN_NAMES: Final = re.compile(r"^_?(utils?|helpers?|managers?|commons?|bases?|misc)$")


@dataclass(frozen=True)
class Module:
    """A Python file by its dotted ``name``, parsed."""

    name: str
    path: Path

    @property
    def room(self) -> str:
        """The part of the name after ``hub``; empty for ``hub`` itself."""
        return [*self.name.split("."), ""][1]

    @property
    def tree(self) -> ast.Module:
        return _parsed(self.path)

    def imports(self) -> Iterator[str]:
        """The dotted names that it imports, wherever the import stands."""
        package = self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                up = package.split(".")[: len(package.split(".")) - node.level + 1]
                origin = ".".join([*(up if node.level else []), *([node.module or ""])]).strip(".")
                # `from hub import faults` imports the room faults.
                yield from (f"{origin}.{alias.name}" for alias in node.names)

    def within(self, *names: str) -> bool:
        """Whether it is one of the modules ``names``, or inside one of the packages."""
        return any(self.name == name or self.name.startswith(f"{name}.") for name in names)


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def modules(folder: str, package: str) -> list[Module]:
    """The modules of ``package`` in ``folder``, a path from the root."""
    found = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        parts = path.relative_to(ROOT / folder).with_suffix("").parts
        name = ".".join([package, *(part for part in parts if part != "__init__")])
        found.append(Module(name, path))
    return found


HUB: Final = modules("hub", "hub")
CLIENT: Final = modules("clients/python/hub_client", "hub_client")
ALL: Final = [*HUB, *CLIENT, *modules("deployment", "deployment"), *modules("tests", "tests")]
WRITTEN: Final = [module for module in ALL if ".migrations.versions." not in module.name]
"""Without the migrations: they are history, as long as it was, and never edited."""


Rule = Callable[[Module], None]


def each(of: list[Module]) -> Callable[[Rule], Callable[[], None]]:
    """Makes of a rule the test that each of these modules keeps it, which tells of all that do not.

    One test for all: one for each are some thousands, and to report a test takes longer than these.
    """

    def test_of(rule: Rule) -> Callable[[], None]:
        def test() -> None:
            broken = []
            for module in of:
                try:
                    rule(module)
                except AssertionError as error:
                    broken.append(f"{module.name}: {error}")
            assert not broken, "\n".join(broken)

        test.__name__ = rule.__name__  # not functools.wraps: pytest would ask for its parameter
        return test

    return test_of


def test_the_table_has_every_room() -> None:
    assert {module.room for module in HUB} - {""} <= set(MAY_IMPORT)


def test_a_room_in_the_table_imports_only_rooms_above_it() -> None:
    above: set[str] = set()
    for room, allowed in MAY_IMPORT.items():
        assert set(allowed.split()) <= above, room
        above.add(room)


@each(HUB)
def test_a_module_imports_only_what_the_table_allows(module: Module) -> None:
    allowed = {module.room, "__version__", *MAY_IMPORT.get(module.room, "").split()}
    rooms = {name.split(".")[1] for name in module.imports() if name.startswith("hub.")}
    assert rooms <= allowed, f"{module.name} must not import {sorted(rooms - allowed)}"


@each([module for module in HUB if module.within("hub.identity")])
def test_a_room_of_identity_imports_only_rooms_above_it(module: Module) -> None:
    room = [*module.name.split("."), ""][2]
    allowed = {room, *WITHIN_IDENTITY.get(room, "").split()}
    rooms = {name.split(".")[2] for name in module.imports() if name.startswith("hub.identity.")}
    assert {room} - {""} <= set(WITHIN_IDENTITY)
    assert rooms <= allowed, f"{module.name} must not import {sorted(rooms - allowed)}"


@each([module for module in HUB if module.within(*PURE)])
def test_a_pure_module_imports_nothing_that_acts(module: Module) -> None:
    assert {name.split(".")[0] for name in module.imports()} & IMPURE == set()


@each([module for module in HUB if not module.within(*WITH_STARLETTE)])
def test_starlette_appears_only_where_http_is_served(module: Module) -> None:
    assert not [name for name in module.imports() if name.split(".")[0] == "starlette"]


@each([module for module in HUB if not module.within(*WITH_ENVIRONMENT)])
def test_only_settings_read_the_environment(module: Module) -> None:
    def reads(node: ast.AST) -> bool:
        name = {ast.Attribute: "attr", ast.Name: "id", ast.alias: "name"}.get(type(node), "")
        return getattr(node, name, "") in {"environ", "environb", "getenv", "putenv"}

    assert [node.lineno for node in ast.walk(module.tree) if reads(node)] == []  # type: ignore[attr-defined]


@each([module for module in [*HUB, *CLIENT] if module.name not in LATE_IMPORTS])
def test_imports_stand_at_the_top(module: Module) -> None:
    late = [
        inner.lineno
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for inner in ast.walk(node)
        if isinstance(inner, ast.Import | ast.ImportFrom)
    ]
    assert late == []


@each(CLIENT)
def test_the_client_imports_nothing_of_the_server(module: Module) -> None:
    assert not [name for name in module.imports() if name.split(".")[0] == "hub"]


@each([module for module in HUB if module.room != "cli"])
def test_the_server_imports_nothing_of_the_client_but_for_the_chat_command(module: Module) -> None:
    assert not [name for name in module.imports() if name.split(".")[0] == "hub_client"]


@each(WRITTEN)
def test_a_module_is_about_one_noun(module: Module) -> None:
    assert not [part for part in module.name.split(".") if FORBIDDEN_NAMES.match(part)]
    lines = len(module.path.read_text(encoding="utf-8").splitlines())
    longest = LONGEST_TEST if module.within("tests") else LONGEST
    assert lines <= longest, f"{module.name} has {lines} lines: it has become two nouns"


def test_every_exception_to_a_rule_is_still_one() -> None:
    names = {module.name for module in [*HUB, *CLIENT]}
    assert {*WITH_ENVIRONMENT, *LATE_IMPORTS, *RUN_BY_OTHERS} <= names


@each([*HUB, *CLIENT])
def test_every_library_that_is_imported_is_declared(module: Module) -> None:
    project = _project(ROOT / "clients/python" if module in CLIENT else ROOT)
    optional = project.get("optional-dependencies", {}).get("local-model", [])
    declared = _declared([*project["dependencies"], *optional])
    foreign = {name.split(".")[0] for name in module.imports()} - sys.stdlib_module_names
    providers = _providers()
    undeclared = {
        name
        for name in foreign - {"hub", "hub_client"}
        if not declared & {_normal(found) for found in providers.get(name, [name])}
    }
    assert undeclared == set()


@cache
def _project(home: Path) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((home / "pyproject.toml").read_text(encoding="utf-8"))
    return dict(found["project"])


@cache
def _providers() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def _declared(requirements: list[str]) -> set[str]:
    # An extra is often named after what it brings: redis[hiredis].
    heads = [re.split(r"[^][\w.,-]", requirement)[0] for requirement in requirements]
    return {_normal(name) for head in heads for name in re.split(r"[][,]", head) if name}


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


# Imports every module, and prints what an import did beside defining names.
IMPORTS_ALL: Final = """
import importlib, os, sys, threading
ACTS = ("socket.", "subprocess.", "sqlite3.", "os.mkdir", "os.remove", "os.rename", "os.putenv",
        "os.fork", "os.exec", "os.system", "shutil.", "tempfile.", "signal.")
def watch(event, arguments):
    writing = event == "open" and isinstance(arguments[2], int) and arguments[2] & (
        os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writing or event.startswith(ACTS):
        print(name, event, arguments[:1])
name = "warming up"
for name in {libraries!r}:
    try:
        importlib.import_module(name)
    except ImportError:
        pass
sys.addaudithook(watch)
for name in {modules!r}:
    importlib.import_module(name)
    if threading.active_count() > 1:
        print(name, "has started a thread")
        break
"""


def test_modules_are_inert_on_import(tmp_path: Path) -> None:
    # What a library does when it is imported is not ours to judge: they are imported first.
    names = {module.name for module in [*HUB, *CLIENT]}
    ours = sorted(name for name in names - {*RUN_BY_OTHERS} if not name.endswith("__main__"))
    libraries = {
        name.rpartition(".")[0] or name
        for module in [*HUB, *CLIENT]
        for name in module.imports()
        if name.split(".")[0] not in {"hub", "hub_client"}
    }
    script = IMPORTS_ALL.format(libraries=sorted(libraries), modules=ours)
    done = subprocess.run(
        [sys.executable, "-B", "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'clients/python'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("", 0), done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []
