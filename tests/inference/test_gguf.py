"""The header of a GGUF file, whole and damaged."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.inference.local.extra import packaged_model
from hub.inference.local.gguf import BadGguf, read_gguf


def a_string(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


HEADER = (
    b"GGUF"
    + struct.pack("<IQQ", 3, 1, 4)
    + a_string("general.architecture")
    + struct.pack("<I", 8)
    + a_string("tiny")
    + a_string("tiny.context_length")
    + struct.pack("<II", 4, 1024)
    + a_string("tokenizer.ggml.tokens")
    + struct.pack("<IIQ", 9, 8, 2)
    + a_string("a")
    + a_string("b")
    + a_string("general.file_type")
    + struct.pack("<II", 4, 7)
    + a_string("weights")
    + struct.pack("<IQQ", 2, 3, 5)
    + struct.pack("<IQ", 0, 0)
)


def test_a_header_says_what_the_model_is(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(HEADER)
    model = read_gguf(path)
    assert (model.architecture, model.context_length) == ("tiny", 1024)
    assert (model.quantization, model.parameters) == ("Q8_0", 15)
    assert "tokenizer.ggml.tokens" not in model.facts


def test_the_packaged_model_is_described(extra: None) -> None:
    path = packaged_model()
    assert path is not None
    model = read_gguf(path)
    assert (model.architecture, model.context_length, model.quantization) == ("llama", 8192, "Q4_1")
    assert 134_000_000 < model.parameters < 136_000_000


@given(length=st.integers(0, len(HEADER) - 1))
def test_a_header_that_is_cut_short_is_refused(
    tmp_path_factory: pytest.TempPathFactory, length: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.gguf"
    path.write_bytes(HEADER[:length])
    if length >= len(HEADER) - 12:  # only the weights' place is lost, which nobody reads
        assert read_gguf(path).parameters == 15
        return
    with pytest.raises(BadGguf):
        read_gguf(path)


@given(data=st.binary(max_size=200))
def test_noise_is_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.gguf"
    for noise in (data, HEADER[:24] + data):
        path.write_bytes(noise)
        with pytest.raises(BadGguf):
            read_gguf(path)
