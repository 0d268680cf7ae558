"""``hub doctor``: looks at each part, and says what to do about what is wrong. It makes nothing."""

import asyncio
import json
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from typing import Final

from hub.backplane.choice import open_backplane
from hub.cli.greeting import elsewhere
from hub.cli.serving import check_redis_url
from hub.faults import Fault
from hub.identity.accounts.delivery import SmtpDelivery, open_delivery
from hub.identity.tokens.keyring import directory_of, open_ring
from hub.inference.catalogue import Catalogue
from hub.settings import BadSettings, Settings, is_here
from hub.settings.production import check_production
from hub.storage import walls
from hub.storage.database import Database

LEAST_FREE_BYTES: Final = 500 * 1024 * 1024
MODEL_S: Final = 60.0
NOT_YET: Final = "not made yet (`hub init` or `hub serve` makes it)"


async def examine(settings: Settings) -> int:
    """Print a line for each part; 0 if all are well."""
    parts: list[tuple[str, Callable[[Settings], Awaitable[str]]]] = [
        ("for real", _for_real),
        ("data directory", _data_dir),
        ("signing key", _key),
        ("database", _database),
        ("backplane", _backplane),
        ("model", _model),
        ("address", _address),
        ("mail", _mail),
        ("hub", _hub),
    ]
    well = True
    for name, look in parts:
        try:
            found = await look(settings)
            mark = "ok"
        except (Fault, BadSettings, OSError, ValueError) as error:
            found = error.message if isinstance(error, Fault) else str(error)
            mark, well = "PROBLEM", False
        print(f"{mark:8} {name}: {found}", flush=True)
    return 0 if well else 1


async def _for_real(settings: Settings) -> str:
    check_production(settings)
    return f"{settings.environment} (HUB_ENVIRONMENT)"


async def _data_dir(settings: Settings) -> str:
    place = settings.data_dir.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise OSError(f"{place} is not a directory that can be written; see HUB_DATA_DIR")
    free = shutil.disk_usage(place).free
    if free < LEAST_FREE_BYTES:
        raise OSError(f"{place} has {free >> 20} MiB left; make room")
    found = "writable" if settings.data_dir.exists() else NOT_YET
    return f"{settings.data_dir}, {found}, {free >> 30} GiB free"


async def _key(settings: Settings) -> str:
    given = settings.jwt_secret is not None or settings.jwt_private_key_file is not None
    directory = directory_of(settings)
    if not given and not (directory.is_dir() and any(directory.glob("*.key"))):
        return NOT_YET
    ring = open_ring(settings, makes=False)
    where = "of the settings" if ring.fixed else f"in {directory}"
    return f"{ring.signing.algorithm}, {where}; {len(ring.verifying())} verify (`hub keys list`)"


async def _database(settings: Settings) -> str:
    database = Database(settings.database)
    if database.file is not None and not database.file.exists():
        return NOT_YET
    try:
        await database.start()
        newest = await database.migrated()
        why = await database.unwalled() if newest else None
    finally:
        await database.close()
    if why is not None:
        raise ValueError(
            f"PostgreSQL's own walls between tenants do not hold: the hub's role {why}. "
            f"{walls.ROLE}"
        )
    kind = settings.database.partition(":")[0]
    tables = {
        True: "its tables are of this version",
        False: "its tables are of an older version (`hub init` or `hub serve` renews them)",
        None: "its tables are not made yet (`hub init` or `hub serve` makes them)",
    }
    return f"{kind} answers, {tables[newest]}"


async def _backplane(settings: Settings) -> str:
    check_redis_url(settings)
    backplane = open_backplane(settings.redis_url, "doctor")
    try:
        await backplane.start()
        await backplane.ping()
    finally:
        await backplane.close()
    return "Redis answers" if settings.redis_url else "in memory: one process only"


async def _model(settings: Settings) -> str:
    catalogue = Catalogue(settings)
    await catalogue.start()
    try:
        async with asyncio.timeout(MODEL_S):
            models = await catalogue.models()
    except TimeoutError:
        raise OSError(f"no answer within {MODEL_S:.0f} s") from None
    finally:
        await catalogue.close()
    names = ", ".join(model.name for model in models) or "none"
    if any(model.stand_in for model in models):
        names += " (a small stand-in; for real answers run Ollama and `ollama pull` a model)"
    return names


async def _address(settings: Settings) -> str:
    found = f"{settings.host} port {settings.port}"
    if is_here(settings.host):
        return f"{found}, for this machine alone"
    return " ".join([f"{found}.", *elsewhere(settings)])


async def _mail(settings: Settings) -> str:
    delivery = open_delivery(settings)
    if not isinstance(delivery, SmtpDelivery):
        return "letters are written to the log (HUB_SMTP_URL has them mailed)"
    clear = "over TLS alone" if delivery.tls_required else "in the clear where it offers no TLS"
    return f"letters go to the mail server, {clear}, from {settings.mail_from}"


async def _hub(settings: Settings) -> str:
    runtime = settings.data_dir / "hub.json"
    if not runtime.exists():
        return "not running (`hub serve` starts it)"
    url = json.loads(runtime.read_text())["url"]

    def ask() -> str:
        try:
            with urllib.request.urlopen(f"{url}/health/ready", timeout=5) as response:  # noqa: S310
                return str(json.load(response)["status"])
        except urllib.error.HTTPError as error:
            return str(json.load(error)["status"])
        except urllib.error.URLError:
            raise OSError(
                f"does not answer at {url}, where it was started; start it again with `hub serve`"
            ) from None

    return f"{await asyncio.to_thread(ask)} at {url}"
