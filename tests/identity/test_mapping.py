"""What claims give, by rules that an operator writes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.identity.providers import mapping
from hub.identity.providers.mapping import Given, admits, capped, values
from hub.rbac.roles import BUILT_IN
from hub.settings import BadSettings, read_settings
from hub.settings.providers import ProviderSettings

RANKS = {role.id: role.rank for role in BUILT_IN.values()}


def provider(**more: Any) -> ProviderSettings:
    one = {"name": "corp", "issuer": "https://id.example", "client_id": "hub", **more}
    return read_settings(HUB_OIDC_PROVIDERS=json.dumps([one]), HUB_PORT=8000).providers[0]


def test_each_rule_that_fits_gives_its_role_in_its_tenant() -> None:
    rules = ["groups=hub-admins:admin", "groups=staff:member", "realm.roles=ops:operator@second"]
    one = provider(roles=rules, tenant="first")
    claims = {"groups": ["staff", "hub-admins"], "realm": {"roles": ["ops"]}}
    assert mapping.given(one, claims) == (
        Given("first", "admin"), Given("first", "member"), Given("second", "operator"),
    )  # fmt: skip


def test_whom_no_rule_fits_gets_the_role_of_the_provider_or_nothing() -> None:
    rules = ["groups=hub-admins:admin"]
    assert mapping.given(provider(roles=rules, role="viewer"), {}) == (Given("default", "viewer"),)
    assert mapping.given(provider(roles=rules), {"groups": ["staff"]}) == ()
    assert mapping.given(provider(), {"groups": ["hub-admins"]}) == ()


@pytest.mark.parametrize(
    ("claims", "name", "found"),
    [
        ({"a": "x"}, "a", {"x"}),
        ({"a": ["x", "y", 1]}, "a", {"x", "y", "1"}),
        ({"a": True}, "a", {"true"}),
        ({"a": None}, "a", set()),
        ({}, "a", set()),
        ({"a": {"b": ["x"]}}, "a.b", {"x"}),
        ({"a.b": "whole", "a": {"b": "parts"}}, "a.b", {"whole"}),
        ({"a": "x"}, "a.b", set()),
        ({"a": {"b": {"c": "x"}}}, "a.b", set()),
        ({"a": [["x"]]}, "a", set()),
    ],
)
def test_a_claim_has_one_value_or_those_of_its_list(
    claims: dict[str, Any], name: str, found: set[str]
) -> None:
    assert values(claims, name) == found


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["groups", "a", "email"]), JSON))
def test_whatever_a_provider_claims_nothing_comes_but_what_a_rule_names(
    claims: dict[str, Any],
) -> None:
    one = provider(roles=["groups=g:admin", "a.b=x:member@second"])
    assert set(mapping.given(one, claims)) <= {Given("default", "admin"), Given("second", "member")}


@given(st.sampled_from(sorted(RANKS)), st.sampled_from(sorted(RANKS)))
def test_nobody_gets_a_role_above_the_ceiling(role: str, ceiling: str) -> None:
    got = capped(role, ceiling, RANKS)
    assert got is not None
    assert RANKS[got] <= RANKS[ceiling]
    assert got == role or RANKS[role] > RANKS[ceiling]


def test_a_role_that_is_not_there_gives_nothing() -> None:
    assert capped("none", "admin", RANKS) is None
    assert capped("member", "none", RANKS) is None


def test_only_addresses_of_the_allowed_domains_are_admitted() -> None:
    one = provider(domains=["Corp.example", "@two.example"])
    assert admits(one, "ada@corp.example")
    assert admits(one, "ada@TWO.example")
    for address in (None, "ada@evil.example", "ada@corp.example.evil", "corp.example@evil.example"):
        assert not admits(one, address)
    assert admits(provider(), None)


@pytest.mark.parametrize(
    ("one", "says"),
    [
        ({"issuer": "http://id.example"}, "https"),
        ({"issuer": "https://user:pass@id.example"}, "https"),
        ({"roles": ["groups"]}, "claim=value:role"),
        ({"roles": ["groups=x"]}, "claim=value:role"),
        ({"name": "Not a name"}, "name"),
        ({"client_secrets": "typo"}, "client_secrets"),
        ({"second_factor": "none"}, "second_factor"),
    ],
)
def test_a_provider_that_cannot_be_is_a_bad_setting(one: dict[str, Any], says: str) -> None:
    with pytest.raises(BadSettings, match=says) as caught:
        provider(**{"client_secret": "never shown", **one})
    assert "never shown" not in str(caught.value)


def test_what_is_not_json_is_a_bad_setting_that_is_not_shown() -> None:
    with pytest.raises(BadSettings, match="HUB_OIDC_PROVIDERS: not JSON") as caught:
        read_settings(HUB_OIDC_PROVIDERS='[{"client_secret": "never shown}]')
    assert "never shown" not in str(caught.value)


def test_two_providers_have_two_names() -> None:
    one = {"name": "a", "issuer": "https://id.example", "client_id": "hub"}
    with pytest.raises(BadSettings, match="same name"):
        read_settings(HUB_OIDC_PROVIDERS=json.dumps([one, one]))


def test_beyond_loopback_a_provider_needs_the_public_address() -> None:
    one = json.dumps([{"name": "a", "issuer": "https://id.example", "client_id": "hub"}])
    with pytest.raises(BadSettings, match="HUB_PUBLIC_URL"):
        read_settings(HUB_OIDC_PROVIDERS=one, HUB_HOST="192.0.2.1")
    read_settings(
        HUB_OIDC_PROVIDERS=one, HUB_HOST="192.0.2.1", HUB_PUBLIC_URL="https://hub.example"
    )
