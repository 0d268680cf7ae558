"""What ``deployment/run`` takes, and what it looks for."""

import http.server
import threading
from collections.abc import Iterator

import pytest

from deployment.model import ollama_answers
from deployment.start import options


@pytest.fixture
def server() -> Iterator[http.server.HTTPServer]:
    """Answers 404 to everything but what an Ollama knows."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/api/version" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def test_an_ollama_is_seen(server: http.server.HTTPServer) -> None:
    assert ollama_answers(f"http://127.0.0.1:{server.server_address[1]}")


def test_a_proxy_is_not_asked_for_it(
    server: http.server.HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert ollama_answers(f"http://127.0.0.1:{server.server_address[1]}")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "nonsense"])
def test_where_nothing_answers_there_is_no_ollama(url: str) -> None:
    assert not ollama_answers(url)


def test_another_server_is_no_ollama(server: http.server.HTTPServer) -> None:
    assert not ollama_answers(f"http://127.0.0.1:{server.server_address[1]}/other")


@pytest.mark.parametrize(
    "words", [["--port", "65536"], ["--port", "-1"], ["--port", "x"], ["--prot", "1"], ["text"]]
)
def test_what_is_not_understood_is_refused(
    words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        options(words)
    assert caught.value.code == 2
    assert "usage: deployment/run" in capfd.readouterr().err
