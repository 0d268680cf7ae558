"""Access tokens: ours are read, and nothing else is."""

import base64
import json
import time
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.faults import Fault
from hub.identity.tokens.access_tokens import AUDIENCE, ISSUER, Tokens
from tests.identity.conftest import KEY, key_of, ring_of

TOKENS = Tokens(ring_of(key_of()), 30)
HEADERS = {"kid": key_of().kid}


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    good: dict[str, Any] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "typ": "access",
        "sub": "u_1",
        "tid": "t_1",
        "sid": "s_1",
        "jti": "x",
        "iat": now,
        "nbf": now,
        "exp": now + 60,
    }
    return {key: value for key, value in (good | changes).items() if value is not ...}


def signed(payload: dict[str, Any], key: bytes = KEY, algorithm: str = "HS256") -> str:
    """As an attacker would: nothing is checked, unlike in PyJWT's encode."""
    body = json.dumps(payload).encode()
    return jwt.api_jws.encode(body, key, algorithm=algorithm, headers=HEADERS)


def reason(token: str) -> str:
    with pytest.raises(Fault) as caught:
        TOKENS.read(token)
    assert len(token) < 20 or token[:20] not in caught.value.message
    return caught.value.reason


def test_what_was_issued_is_read() -> None:
    read = TOKENS.read(TOKENS.issue("u_1", "t_1", "s_1"))
    assert (read.user_id, read.tenant_id, read.session_id) == ("u_1", "t_1", "s_1")
    assert read.expires_at is not None
    assert read.expires_at - read.issued_at == TOKENS.life_s == 1800


def test_two_tokens_differ() -> None:
    one, two = (TOKENS.read(TOKENS.issue("u_1", "t_1", "s_1")) for _ in range(2))
    assert one.token_id != two.token_id


def test_the_claims_these_tests_change_are_good_unchanged() -> None:
    assert TOKENS.read(signed(claims())).user_id == "u_1"


@pytest.mark.parametrize("name", sorted(claims()))
def test_no_claim_may_be_missing(name: str) -> None:
    assert reason(signed(claims(**{name: ...}))) == "unauthenticated"


@pytest.mark.parametrize("name", sorted(claims()))
@pytest.mark.parametrize("value", [None, "", True, 1.5, [], {}, ["u_1"], "9" * 12, -1, 1 << 80])
def test_no_claim_may_be_of_another_type(name: str, value: Any) -> None:
    if name in ("sub", "tid", "sid", "jti") and value == "9" * 12:
        return  # a name like any other
    assert reason(signed(claims(**{name: value}))) in ("unauthenticated", "token_expired")


@pytest.mark.parametrize(
    "changes",
    [
        {"typ": "refresh"},
        {"aud": "someone-else"},
        {"aud": [AUDIENCE]},
        {"aud": [AUDIENCE, "someone-else"]},
        {"iss": "someone-else"},
        {"exp": str(1 << 40)},
        {"exp": float("inf")},
        {"nbf": 1 << 40},
        {"iat": 1 << 40},
    ],
)
def test_claims_that_are_not_ours_are_refused(changes: dict[str, Any]) -> None:
    assert reason(signed(claims(**changes))) == "unauthenticated"


def test_an_expired_token_is_called_expired_after_the_leeway() -> None:
    now = int(time.time())
    assert TOKENS.read(signed(claims(exp=now - 20))).user_id == "u_1"
    assert reason(signed(claims(exp=now - 31))) == "token_expired"


def test_an_expired_token_of_another_key_is_not_called_expired() -> None:
    assert reason(signed(claims(exp=1), key=b"another key of thirty-two bytes!!")) == (
        "unauthenticated"
    )


def test_another_key_is_refused() -> None:
    assert reason(signed(claims(), key=b"another key of thirty-two bytes!!")) == "unauthenticated"


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_another_algorithm_of_the_same_key_is_refused(algorithm: str) -> None:
    assert reason(signed(claims(), algorithm=algorithm)) == "unauthenticated"


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", ""])
def test_no_algorithm_is_refused(name: str) -> None:
    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    _, body, signature = signed(claims()).split(".")
    header = part({"alg": name, "typ": "JWT", **HEADERS})
    assert reason(f"{header}.{body}.") == "unauthenticated"
    assert reason(f"{header}.{body}.{signature}") == "unauthenticated"


def test_critical_extensions_are_refused() -> None:
    critical = {"crit": ["b64"], "b64": True, **HEADERS}
    token = jwt.encode(claims(), KEY, algorithm="HS256", headers=critical)
    assert reason(token) == "unauthenticated"


@given(st.text() | st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_no_text_raises_anything_but_a_fault(text: str) -> None:
    assert reason(text) == "unauthenticated"
    assert reason(f"{text}.{text}.{text}") == "unauthenticated"


@given(st.integers(0, 10_000), st.characters(codec="ascii"))
def test_a_changed_character_is_noticed(place: int, character: str) -> None:
    token = signed(claims())
    place %= len(token)
    changed = token[:place] + character + token[place + 1 :]
    # The last character of a base64 part carries bits that do not count.
    last = place == len(token) - 1
    if changed != token and not last:
        assert reason(changed) == "unauthenticated"


def test_a_token_without_end_is_refused_unread() -> None:
    assert reason("x" * 1_000_000) == "unauthenticated"


def test_what_is_derived_depends_on_key_purpose_and_material() -> None:
    def derive(key: bytes, purpose: str, material: str) -> bytes:
        return Tokens(ring_of(key_of(key)), 1).derive(purpose, material)

    made = {
        derive(KEY, "a", "b"),
        derive(KEY, "a", "c"),
        derive(KEY, "b", "b"),
        derive(KEY[::-1], "a", "b"),
    }
    assert len(made) == 4
    assert derive(KEY, "a", "b") in made


def test_a_token_names_its_key_and_none_is_read_by_another() -> None:
    token = TOKENS.issue("u_1", "t_1", "s_1")
    assert jwt.get_unverified_header(token)["kid"] == key_of().kid
    for kid in (None, "", "x" * 100_000, "../../etc/passwd", "' OR 1=1 --", 7, ["a"]):
        body = json.dumps(claims()).encode()
        header = {"alg": "HS256", "typ": "JWT", **({} if kid is None else {"kid": kid})}
        parts = [json.dumps(header).encode(), body]
        signing = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
        signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
        signed_by = signature.sign(signing, KEY)
        whole = signing + b"." + base64.urlsafe_b64encode(signed_by).rstrip(b"=")
        assert reason(whole.decode()) == "unauthenticated"


def test_a_header_that_is_nested_deep_is_refused() -> None:
    deep = base64.urlsafe_b64encode(b'{"kid":' + b"[" * 2_500).decode()
    assert reason(f"{deep}.e30.x") == "unauthenticated"
