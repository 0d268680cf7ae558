"""By which names the hub is reached, and for whom a proxy speaks."""

from contextlib import AsyncExitStack
from ipaddress import ip_address
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import InvalidStatus

from hub.settings import BadSettings, Settings, read_settings
from hub.transports.admission import Hosts, Proxies, is_loopback
from tests.interaction.drivers import open_socket
from tests.parts.hub import PASSWORD, ServeHub

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


@pytest.mark.parametrize("trusted", ["", "192.0.2.0/24"])
async def test_who_asks_from_the_machine_itself_is_not_believed_unless_the_operator_says_so(
    serve_hub: ServeHub, monkeypatch: pytest.MonkeyPatch, trusted: str
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")  # what uvicorn knows is not what the hub knows
    limits = {"HUB_CONNECTIONS_PER_ADDRESS": "1", "HUB_TRUSTED_PROXIES": trusted}
    said = {"X-Forwarded-For": "203.0.113.9"}
    async with serve_hub(**limits) as hub:
        await hub.sign_up("ada@hub.example")
        account = {"email": "ada@hub.example", "password": PASSWORD}
        async with httpx.AsyncClient(base_url=hub.url, headers=said, trust_env=False) as client:
            session = (await client.post("/v1/auth/login", json=account)).json()
            bearer = {"Authorization": f"Bearer {session['access_token']}"}
            told = (await client.get("/v1/sessions", headers=bearer)).json()["items"]
        assert {one["address"] for one in told} == {"127.0.0.1"}
        async with AsyncExitStack() as stack:
            for _ in range(3):
                opening = open_socket(hub.ws_url, session["access_token"], headers=said)
                socket = await stack.enter_async_context(opening)
                await socket.notice("session.ready")


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
    assert proxies.client("10.0.0.1", [b"192.0.2.9, ,", b", "]) == "192.0.2.9"
    assert proxies.client("", []) == ""


@pytest.mark.parametrize(
    ("hop", "client"),
    [
        ("192.0.2.9:49152", "192.0.2.9"),
        ("[2001:db8::9]:49152", "2001:db8::9"),
        ("[2001:DB8::9]", "2001:db8::9"),
        ("2001:db8::9", "2001:db8::9"),
        ("::ffff:192.0.2.9", "192.0.2.9"),
        ("[::ffff:10.0.0.2]:1", "10.0.0.2"),
        *((nonsense, "10.0.0.1") for nonsense in (
            "192.0.2.9:", "192.0.2.9:x", "192.0.2.9:1:2", "[2001:db8::9", "[2001:db8::9]x", "[]:1",
            "192.0.2", "192.0.2.9/32", "fe80::1%eth0", "[fe80::1%25eth0]:1", "unknown", "_hidden",
            "'; DROP TABLE", "\xff", ":", "[", "]", "%",
        )),
    ],
)  # fmt: skip
def test_a_hop_may_have_a_port_and_what_is_no_address_ends_what_is_believed(
    hop: str, client: str
) -> None:
    proxies = Proxies(["10.0.0.1"])
    assert proxies.client("10.0.0.1", [f"198.51.100.1, {hop}".encode("latin-1")]) == client


@given(st.text("0123456789abf.:[]%, ", max_size=60), st.sampled_from(["10.0.0.1", "::1"]))
def test_whatever_is_forwarded_the_client_is_an_address(said: str, peer: str) -> None:
    client = Proxies(["10.0.0.0/8", "::1"]).client(peer, [said.encode()])
    assert str(ip_address(client)) == client


def test_a_proxy_that_is_no_address_is_refused_at_the_start() -> None:
    with pytest.raises(BadSettings, match=r"HUB_TRUSTED_PROXIES.*'proxy\.example'"):
        settings(HUB_TRUSTED_PROXIES="10.0.0.0/8,proxy.example")


def test_loopback_is_more_than_one_address() -> None:
    assert all(is_loopback(one) for one in ("127.0.0.1", "127.9.9.9", "::1"))
    assert not any(is_loopback(one) for one in ("10.0.0.1", "0.0.0.0", "localhost", ""))
