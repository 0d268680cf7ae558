"""The trail as files: page by page as it is read, and nothing that a spreadsheet would run."""

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hub.audit.chain import FIELDS, Fields
from hub.audit.export import Format, lines
from hub.audit.reading import Filters, pages
from hub.storage.database import Database
from tests.audit.chains import verify_export
from tests.audit.conftest import entries, write

DANGEROUS: Final = "=+-@\t\r\n＝＋－＠"
CELLS: Final = st.text(st.characters(codec="utf-8"), max_size=12)
DETAILS: Final = st.dictionaries(st.text("abc", min_size=1), CELLS | st.integers(0, 9), max_size=2)


async def _one_page(entry: Fields) -> AsyncIterator[Sequence[Fields]]:
    yield [entry]


async def _whole(format: Format, entry: Fields) -> bytes:
    return b"".join([chunk async for chunk in lines(format, _one_page(entry))])


@given(st.dictionaries(st.sampled_from([f for f in FIELDS if f != "details"]), CELLS), DETAILS)
@example({"resource_id": "=cmd|'/c calc'!A1"}, {})
@example({"actor_id": "＝1+1", "action": "\n=1+1"}, {})
def test_no_cell_is_a_formula_and_all_are_there(
    fields: dict[str, str], details: dict[str, Any]
) -> None:
    entry = {**fields, "details": details}
    text = asyncio.run(_whole("csv", entry)).decode()
    names, row = csv.reader(io.StringIO(text, newline=""))
    cells = dict(zip(names, row, strict=True))
    assert tuple(names) == FIELDS
    assert not [cell for cell in row if cell.startswith(tuple(DANGEROUS))]
    assert json.loads(cells.pop("details")) == details
    for name, cell in cells.items():
        meant = fields.get(name, "")
        assert cell == (f"'{meant}" if meant.startswith(tuple(DANGEROUS)) else meant)


@pytest.mark.parametrize("format", ["jsonl", "csv"])
async def test_a_long_trail_is_written_while_it_is_read(
    database: Database, tenant: str, format: Format
) -> None:
    """No more of it is held than a page, however long it is."""
    await write(database, tenant, 12)
    asked = 0

    async def counted() -> AsyncIterator[Sequence[Fields]]:
        nonlocal asked
        async for page in pages(database, tenant, Filters(), through=12, size=3):
            asked += 1
            yield page

    file: list[bytes] = []
    seen: list[int] = []
    async for chunk in lines(format, counted()):
        file.append(chunk)
        seen.append(asked)
    assert seen == ([0, 1, 2, 3, 4] if format == "csv" else [1, 2, 3, 4])
    if format == "jsonl":
        verify_export(b"".join(file).decode().splitlines())
    else:
        rows = list(csv.DictReader(io.StringIO(b"".join(file).decode())))
        assert [row["hash"] for row in rows] == [
            entry["hash"] for entry in await entries(database, tenant)
        ]
