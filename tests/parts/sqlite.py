"""A SQLite database that is migrated already, to copy: to migrate one takes 0.2 s of CPU."""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from sqlalchemy import make_url

from hub.storage import schema


@cache
def migrated() -> bytes:
    """The file, with no rows in it."""
    with tempfile.TemporaryDirectory(prefix="hub-sqlite-") as folder, ThreadPoolExecutor(1) as pool:
        path = Path(folder) / "hub.db"
        # It wants no event loop where it runs, and who asks may have one.
        pool.submit(schema.upgrade, make_url(f"sqlite+aiosqlite:///{path}")).result()
        return path.read_bytes()


def furnish(data_dir: Path) -> None:
    """Put one where a hub with this data directory looks for it, unless there is one. What a hub
    makes of an empty directory is told by the tests of ``hub serve`` and ``hub init``.
    """
    path = data_dir / "hub.db"
    if not path.exists():
        data_dir.mkdir(parents=True, exist_ok=True)
        path.write_bytes(migrated())
