"""Figures: what a test has measured, told at the end of the run whether it passed or not, and
whichever process ran it.
"""

from collections.abc import Callable

import pytest

Figures = Callable[[str], None]
"""``figures("10 sockets, 3 ms")``."""

_PROPERTY = "figures"


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """Tells a figure of this test."""

    def tell(text: str) -> None:
        request.node.user_properties.append((_PROPERTY, text))

    return tell


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what was told."""
    told = [
        text
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, text in getattr(report, "user_properties", ())
        if name == _PROPERTY
    ]
    if told:
        terminalreporter.section("figures")
        for text in told:
            terminalreporter.line(text)
