"""Letters: by a real mail server, or into the log where that is harmless."""

import asyncio
import datetime
import ssl
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hub.cli.doctor import _mail
from hub.identity.accounts.delivery import (
    Letter,
    LogDelivery,
    SmtpDelivery,
    Undelivered,
    open_delivery,
)
from hub.settings import BadSettings, Settings, read_settings
from tests.parts.mail import MailServer, mail_serving
from tests.parts.ports import free_port

LETTER = Letter("ada@hub.example", "Confirm your address", "Open this:\n\nhttp://h/#verify=t\n.\n")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate of 127.0.0.1 with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail.test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "mail.pem"
    pem = serialization.Encoding.PEM
    form = serialization.PrivateFormat.PKCS8
    path.write_bytes(
        made.public_bytes(pem) + key.private_bytes(pem, form, serialization.NoEncryption())
    )
    return path


def encrypting(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


async def test_a_mail_server_gets_the_letter_as_it_is(mail: MailServer) -> None:
    await SmtpDelivery(mail.url, "hub@hub.example").deliver(LETTER)
    letter = await mail.letter_to("ada@hub.example")
    assert letter["From"] == "hub@hub.example"
    assert letter["Subject"] == "Confirm your address"
    assert letter["Auto-Submitted"] == "auto-generated"
    assert letter["Message-ID"].endswith("@hub.example>")
    assert letter.get_content() == LETTER.text


async def test_credentials_and_the_letter_go_over_tls_where_it_is_offered(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server = MailServer(tls=encrypting(certificate), account=("hub", "pass word"))
    async with mail_serving(server):
        url = f"smtp://hub:pass%20word@127.0.0.1:{server.port}"
        await SmtpDelivery(url, "hub@hub.example").deliver(LETTER)
    assert server.encrypted == [True]
    assert server.logins == [("hub", "pass word")]


async def test_who_is_not_who_they_say_gets_neither(certificate: Path) -> None:
    server = MailServer(tls=encrypting(certificate), account=("hub", "secret"))
    async with mail_serving(server):
        url = f"smtp://hub:secret@127.0.0.1:{server.port}"
        with pytest.raises(Undelivered):
            await SmtpDelivery(url, "hub@hub.example").deliver(LETTER)
    assert (server.letters, server.logins) == ([], [])


async def test_a_refusal_is_told_by_its_code_alone(mail: MailServer) -> None:
    mail.refuse = 1
    with pytest.raises(Undelivered, match="451") as caught:
        await SmtpDelivery(mail.url, "hub@hub.example").deliver(LETTER)
    assert "come back" not in str(caught.value)


async def test_a_server_that_is_not_there_is_told() -> None:
    with pytest.raises(Undelivered, match="cannot be reached"):
        await SmtpDelivery(f"smtp://127.0.0.1:{free_port()}", "hub@hub.example").deliver(LETTER)


async def test_the_loop_goes_on_while_a_mail_server_is_slow() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    sending = asyncio.create_task(
        SmtpDelivery(f"smtp://127.0.0.1:{port}", "hub@hub.example").deliver(LETTER)
    )
    for _ in range(100):
        await asyncio.sleep(0)
    assert not sending.done()
    sending.cancel()
    listening.close()


def settings(**given: str) -> Settings:
    return read_settings(HUB_DATA_DIR=".hub", **given)


def test_on_a_laptop_letters_are_written_to_the_log() -> None:
    assert isinstance(open_delivery(settings()), LogDelivery)


@pytest.mark.parametrize(
    "given",
    [
        {"HUB_ENVIRONMENT": "production"},
        {"HUB_HOST": "0.0.0.0"},
        {"HUB_HOST": "192.0.2.5", "HUB_ENVIRONMENT": "production"},
    ],
    ids=str,
)
def test_where_the_hub_is_for_real_there_is_no_log_for_letters(given: dict[str, str]) -> None:
    with pytest.raises(BadSettings, match="HUB_SMTP_URL"):
        open_delivery(settings(**given))
    with_mail = settings(**given, HUB_SMTP_URL="smtp://mail.example")
    assert isinstance(open_delivery(with_mail), SmtpDelivery)
    assert with_mail.require_verified


async def test_where_tls_is_required_no_letter_goes_in_the_clear(mail: MailServer) -> None:
    with pytest.raises(Undelivered, match="HUB_SMTP_TLS") as caught:
        await SmtpDelivery(mail.url, "hub@hub.example", tls_required=True).deliver(LETTER)
    assert not caught.value.lasting, "it may have been somebody in between"
    assert mail.letters == []


@pytest.mark.parametrize(
    ("given", "required"),
    [
        ({"HUB_SMTP_URL": "smtp://mail.example"}, True),
        ({"HUB_SMTP_URL": "smtp://mail.example", "HUB_SMTP_TLS": "offered"}, False),
        ({"HUB_SMTP_URL": "smtps://mail.example", "HUB_SMTP_TLS": "offered"}, True),
        ({"HUB_SMTP_URL": "smtp://127.0.0.1:25"}, False),
        ({"HUB_SMTP_URL": "smtp://localhost:25", "HUB_SMTP_TLS": "required"}, True),
        ({"HUB_SMTP_URL": "smtp://mail.example", "HUB_ENVIRONMENT": "development"}, False),
    ],
    ids=str,
)
async def test_where_the_hub_is_for_real_letters_cross_no_network_in_the_clear(
    given: dict[str, str], required: bool
) -> None:
    chosen = settings(**{"HUB_ENVIRONMENT": "production", **given})
    delivery = open_delivery(chosen)
    assert isinstance(delivery, SmtpDelivery)
    assert delivery.tls_required is required
    assert ("over TLS alone" if required else "in the clear") in await _mail(chosen)


def test_who_says_so_develops_on_any_address() -> None:
    given = settings(HUB_HOST="0.0.0.0", HUB_ENVIRONMENT="development")
    assert isinstance(open_delivery(given), LogDelivery)
    assert not given.require_verified


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HUB_SMTP_URL", "mail.example"),
        ("HUB_SMTP_URL", "http://mail.example"),
        ("HUB_SMTP_URL", "smtp://"),
        ("HUB_SMTP_URL", "smtp://mail.example:many"),
        ("HUB_MAIL_FROM", "nobody"),
        ("HUB_MAIL_FROM", "a@b\nBcc: c@d"),
        ("HUB_PUBLIC_URL", "hub.example"),
        ("HUB_ENVIRONMENT", "staging"),
    ],
)
def test_a_setting_that_cannot_be_is_named(name: str, value: str) -> None:
    with pytest.raises(BadSettings, match=name):
        settings(**{name: value})


def test_links_lead_to_where_people_reach_the_hub() -> None:
    assert settings(HUB_PORT="80").url == "http://127.0.0.1:80"
    assert settings(HUB_HOST="0.0.0.0", HUB_PORT="80").url == "http://127.0.0.1:80"
    assert settings(HUB_PUBLIC_URL="https://hub.example/").url == "https://hub.example"
