"""Codes of an authenticator: the vectors of RFC 6238, how far clocks may differ, and once only."""

import base64
from urllib.parse import parse_qs, urlsplit

import pyotp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.identity.factors import totp

SECRET = base64.b32encode(b"12345678901234567890").decode()


@pytest.mark.parametrize(
    ("moment", "code"),
    # RFC 6238, appendix B, of whose eight digits these are the last six.
    [
        (59, "287082"),
        (1111111109, "081804"),
        (1111111111, "050471"),
        (1234567890, "005924"),
        (2000000000, "279037"),
        (20000000000, "353130"),
    ],
)
def test_the_codes_are_those_of_the_standard(moment: int, code: str) -> None:
    assert totp.step_of(SECRET, code, moment, after=0) == moment // 30


@given(st.integers(3, 10**8), st.integers(-4, 4))
def test_a_code_is_good_a_step_early_and_late_and_no_more(step: int, off: int) -> None:
    code = pyotp.HOTP(SECRET).at(step + off) if step + off >= 0 else "000000"
    near = {pyotp.HOTP(SECRET).at(step + each): step + each for each in (1, 0, -1)}
    found = totp.step_of(SECRET, code, step * 30.0 + 7, after=0)
    assert found == near.get(code)


@given(st.integers(3, 10**8))
def test_a_code_is_good_once_and_none_before_it_after_that(step: int) -> None:
    moment = step * 30.0
    for each in (step - 1, step, step + 1):
        assert totp.step_of(SECRET, pyotp.HOTP(SECRET).at(each), moment, after=each) != each
    assert totp.step_of(SECRET, pyotp.HOTP(SECRET).at(step), moment, after=step - 1) == step


@pytest.mark.parametrize("given_code", ["", "12345", "1234567", "12345a", "١٢٣٤٥٦", "-12345"])
def test_what_is_not_six_digits_is_no_code(given_code: str) -> None:
    assert not totp.is_code(given_code)


def test_an_authenticator_can_read_the_secret_from_its_address() -> None:
    secret = totp.new_secret()
    address = urlsplit(totp.uri(secret, "ada@hub.example"))
    assert (address.scheme, address.netloc) == ("otpauth", "totp")
    assert parse_qs(address.query)["secret"] == [secret]
    assert len(base64.b32decode(secret)) == 20
    assert totp.new_secret() != secret
