"""Padding: the same values, in few numbers of places."""

from hypothesis import given
from hypothesis import strategies as st

from hub.storage.padding import padded


@given(st.lists(st.integers(), unique=True, max_size=600))
def test_padding_adds_no_value_and_less_than_as_many_places_again(values: list[int]) -> None:
    found = padded(values)
    assert found[: len(values)] == values
    assert set(found) == set(values)
    assert len(found) <= max(2, 2 * len(values) - 1)


def test_five_hundred_numbers_of_values_are_a_dozen_statements() -> None:
    assert {len(padded(range(count))) for count in range(513)} == {
        0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512,
    }  # fmt: skip
