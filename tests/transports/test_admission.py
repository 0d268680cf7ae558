"""By which names the hub is reached, and for whom a proxy speaks."""

from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import InvalidStatus

from hub.settings import BadSettings, Settings, read_settings
from hub.transports.admission import Hosts, Proxies, is_loopback
from tests.interaction.drivers import open_socket
from tests.parts.hub import ServeHub

ADDRESSES = st.ip_addresses(v=4).map(str).filter(lambda one: not one.startswith("10."))
PROXIES = st.ip_addresses(v=4, network="10.0.0.0/8").map(str)


def settings(**given: Any) -> Settings:
    return read_settings(HUB_DATA_DIR=".hub", **given)


def allowed(host: str, **given: Any) -> bool:
    return Hosts(settings(**given)).allow([host.encode()])


@pytest.mark.parametrize(
    "host",
    ["localhost:8000", "LocalHost", "127.0.0.1:8000", "[::1]:8000", "[::1]", "localhost:9999"],
)
def test_a_hub_on_loopback_is_reached_by_the_loopback_names(host: str) -> None:
    assert allowed(host)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example:8000",
     "localhost:", "localhost:x", "::1", "", "localhost:8000:8000", "evil.example:8000@localhost"],
)  # fmt: skip
def test_a_hub_on_loopback_is_reached_by_no_other_name(host: str) -> None:
    assert not allowed(host)


def test_without_one_host_it_is_nobodys_name() -> None:
    hosts = Hosts(settings())
    assert not hosts.allow([])
    assert not hosts.allow([b"localhost", b"localhost"])


def test_a_list_is_matched_exactly_and_a_hub_elsewhere_without_one_is_told_any_name() -> None:
    listed = {"HUB_HOST": "0.0.0.0", "HUB_ALLOWED_HOSTS": "hub.example, chat.example:8443"}
    assert allowed("hub.example", **listed)
    assert allowed("Chat.Example:8443", **listed)
    assert allowed("localhost:8000", **listed)
    assert not allowed("hub.example:8000", **listed)
    assert not allowed("chat.example", **listed)
    assert allowed("anything.example", HUB_HOST="0.0.0.0")
    assert allowed("192.0.2.5:8000", HUB_HOST="192.0.2.5", HUB_ALLOWED_HOSTS="hub.example")
    assert not allowed("evil.example", HUB_HOST="127.0.0.2")


async def test_another_name_is_answered_421_by_http_and_by_the_socket_but_not_to_probes(
    serve_hub: ServeHub,
) -> None:
    async with (
        serve_hub() as hub,
        httpx.AsyncClient(base_url=hub.url, trust_env=False) as client,
    ):
        evil = {"host": "evil.example"}
        for path in ("/", "/v1/conversations", "/ws", "/no/such", "/docs"):
            answer = await client.get(path, headers=evil)
            assert answer.status_code == 421
            assert answer.json()["error"]["data"]["reason"] == "invalid_request"
            assert "HUB_ALLOWED_HOSTS" in answer.json()["error"]["message"]
            assert answer.headers["x-request-id"]
        assert (await client.get("/health/live", headers=evil)).status_code == 200
        assert (await client.get("/health/ready", headers=evil)).status_code == 200
        token = (await hub.sign_up("ada@hub.example"))["access_token"]
        port = hub.url.rpartition(":")[2]
        with pytest.raises(InvalidStatus) as refusal:
            async with open_socket(
                f"ws://evil.example:{port}/ws", token, host="127.0.0.1", port=int(port)
            ):
                pass
        assert refusal.value.response.status_code == 421
        async with open_socket(f"ws://localhost:{port}/ws", token) as socket:
            await socket.notice("session.ready")


# --- for whom a proxy speaks ---


@given(ADDRESSES, st.lists(st.one_of(ADDRESSES, PROXIES, st.text("a:.,0", max_size=9))))
def test_a_peer_that_is_no_trusted_proxy_speaks_for_itself(peer: str, said: list[str]) -> None:
    forwarded = [",".join(said).encode()]
    assert Proxies(["10.0.0.0/8"]).client(peer, forwarded) == peer
    assert Proxies([]).client(peer, forwarded) == peer


@given(PROXIES, st.lists(st.one_of(ADDRESSES, PROXIES)), ADDRESSES, st.lists(PROXIES))
def test_what_a_client_claims_itself_is_not_believed(
    peer: str, claimed: list[str], client: str, between: list[str]
) -> None:
    """Each proxy appends the address that it was reached from."""
    forwarded = [", ".join([*claimed, client, *between]).encode()]
    assert Proxies(["10.0.0.0/8"]).client(peer, forwarded) == client


@given(PROXIES, st.lists(PROXIES, max_size=3))
def test_of_proxies_alone_the_first_is_the_client(peer: str, between: list[str]) -> None:
    heard = [hop.encode() for hop in between]
    assert Proxies(["10.0.0.0/8"]).client(peer, heard) == (between[0] if between else peer)


def test_addresses_have_one_form_and_nonsense_ends_what_is_believed() -> None:
    proxies = Proxies(["10.0.0.1", "::1"])
    assert proxies.client("::ffff:192.0.2.1", []) == "192.0.2.1"
    assert proxies.client("::ffff:10.0.0.1", [b"2001:DB8::0:1"]) == "2001:db8::1"
    assert proxies.client("10.0.0.1", [b"192.0.2.9, what"]) == "10.0.0.1"
    assert proxies.client("10.0.0.1", [b"192.0.2.9", b"10.0.0.1"]) == "192.0.2.9"
    assert proxies.client("", []) == ""


def test_a_proxy_that_is_no_address_is_refused_at_the_start() -> None:
    with pytest.raises(BadSettings, match=r"HUB_TRUSTED_PROXIES.*'proxy\.example'"):
        settings(HUB_TRUSTED_PROXIES="10.0.0.0/8,proxy.example")


def test_loopback_is_more_than_one_address() -> None:
    assert all(is_loopback(one) for one in ("127.0.0.1", "127.9.9.9", "::1"))
    assert not any(is_loopback(one) for one in ("10.0.0.1", "0.0.0.0", "localhost", ""))
