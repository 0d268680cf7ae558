"""What pip complains of is put in words."""

import pytest

from deployment.pip import DISK_FULL, hint, tail

OUTPUTS = {
    "reached": "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError("
    "<conn>: Failed to establish a new connection: [Errno -3] Temporary failure in name "
    "resolution')': /simple/x/\nERROR: No matching distribution found for x==1",
    "certificate": "Could not fetch URL: SSLError(SSLCertVerificationError(1, '[SSL: "
    "CERTIFICATE_VERIFY_FAILED] certificate verify failed'))",
    "disk is full": "ERROR: Could not install packages due to an OSError: [Errno 28] No space left "
    "on device",
    "was pinned": "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.",
    "could not be compiled": "error: command 'gcc' failed: No such file or directory",
    "if it is a mirror": "ERROR: No matching distribution found for orjson==3.13.0",
    "may not be written": "ERROR: Could not install packages: [Errno 13] Permission denied: '/x'",
}


@pytest.mark.parametrize(("words", "output"), OUTPUTS.items(), ids=list(OUTPUTS))
def test_a_known_cause_is_named(words: str, output: str) -> None:
    assert words in (hint(output) or "")


def test_an_unknown_cause_is_not_guessed() -> None:
    assert hint("something else") is None


def test_a_full_disk_is_told_from_all_else() -> None:
    assert [name for name, output in OUTPUTS.items() if hint(output) == DISK_FULL] == [
        "disk is full"
    ]


def test_the_errors_are_shown_without_what_surrounds_them() -> None:
    output = "Collecting a\n" * 40 + "ERROR: it broke\n\n[notice] a new pip is there\n"
    assert tail(output) == "  ERROR: it broke"


def test_without_errors_the_end_is_shown() -> None:
    assert tail("\n".join(map(str, range(50))), limit=2) == "  48\n  49"
