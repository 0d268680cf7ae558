"""What a GGUF file says of itself. Reads the header only; the weights stay where they are.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import hashlib
import os
import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

_SCALARS: Final = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_STRING: Final = 8
_ARRAY: Final = 9
_MAX_STRING: Final = 64 << 20
_MAX_KEYS: Final = 65536

_FILE_TYPES: Final = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K",
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S",
    17: "Q5_K_M", 18: "Q6_K", 32: "BF16",
}  # fmt: skip


class BadGguf(ValueError):
    """The file is not a GGUF model; the message says why."""


@dataclass(frozen=True, slots=True)
class Gguf:
    """A model file. ``facts`` are its metadata without the arrays (the vocabulary);
    ``parameters`` counts its weights.
    """

    path: Path
    facts: dict[str, Any]
    parameters: int
    size: int
    digest: str
    modified_at: datetime

    @property
    def architecture(self) -> str:
        return str(self.facts.get("general.architecture", "unknown"))

    @property
    def context_length(self) -> int:
        """Tokens of context that the model was trained for."""
        return int(self.facts.get(f"{self.architecture}.context_length", 2048))

    @property
    def quantization(self) -> str:
        return _FILE_TYPES.get(int(self.facts.get("general.file_type", -1)), "unknown")

    @property
    def chat_template(self) -> str:
        return str(self.facts.get("tokenizer.chat_template", ""))


def read_gguf(path: Path) -> Gguf:
    """Raises BadGguf for a file that is none, OSError for one that cannot be read."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        try:
            facts, parameters = _read(file)
        except (struct.error, UnicodeDecodeError, KeyError, RecursionError) as error:
            raise BadGguf("the file is cut short or damaged") from error
        head_size = file.tell()
        file.seek(0)
        # Enough to tell two versions of a file apart, without reading gigabytes at each start.
        seen = hashlib.sha256(f"{status.st_size} {status.st_mtime_ns} ".encode())
        seen.update(file.read(head_size))
    return Gguf(
        path=path,
        facts=facts,
        parameters=parameters,
        size=status.st_size,
        digest=seen.hexdigest(),
        modified_at=datetime.fromtimestamp(status.st_mtime, UTC),
    )


def _read(file: BinaryIO) -> tuple[dict[str, Any], int]:
    if file.read(4) != b"GGUF":
        raise BadGguf("the file is not in the GGUF format")
    version = _scalar(file, "I")
    if version not in (2, 3):
        raise BadGguf(f"the file has GGUF version {version}; versions 2 and 3 are known")
    tensors, keys = _scalar(file, "Q"), _scalar(file, "Q")
    if keys > _MAX_KEYS or tensors > _MAX_KEYS:
        raise BadGguf("the file is damaged")
    facts = {}
    for _ in range(keys):
        key = _text(file)
        value = _value(file, _scalar(file, "I"))
        if value is not None:
            facts[key] = value
    parameters = 0
    for _ in range(tensors):
        _text(file)
        weights = 1
        for _ in range(_scalar(file, "I")):
            weights *= _scalar(file, "Q")
        file.seek(12, os.SEEK_CUR)
        parameters += weights
    return facts, parameters


def _value(file: BinaryIO, kind: int) -> Any:
    """None for an array, which is skipped."""
    if kind == _STRING:
        return _text(file)
    if kind != _ARRAY:
        return _scalar(file, _SCALARS[kind])
    element, count = _scalar(file, "I"), _scalar(file, "Q")
    if element in _SCALARS:
        file.seek(count * struct.calcsize("<" + _SCALARS[element]), os.SEEK_CUR)
    elif element == _STRING:
        for _ in range(count):
            file.seek(_scalar(file, "Q"), os.SEEK_CUR)
    else:
        for _ in range(count):
            _value(file, element)
    return None


def _scalar(file: BinaryIO, code: str) -> Any:
    return struct.unpack("<" + code, file.read(struct.calcsize("<" + code)))[0]


def _text(file: BinaryIO) -> str:
    length = _scalar(file, "Q")
    if length > _MAX_STRING:
        raise BadGguf("the file is damaged")
    data = file.read(length)
    if len(data) < length:
        raise BadGguf("the file is cut short")
    return data.decode()
