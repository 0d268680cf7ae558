"""A stand-in for the ``hub`` command that fails as its environment says: for what the real one
does only on a bad day. ``STUB`` is a comma-separated list of what to do.
"""

import http.server
import json
import os
import signal
import sys
import threading
from pathlib import Path

DO = os.environ.get("STUB", "").split(",")
DATA_DIR = Path(os.environ["HUB_DATA_DIR"])


class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'{"status":"ready","model":{"state":"ready"}}'
        unready = "unready" in DO and self.path == "/health/ready"
        self.send_response(503 if unready else 200)
        self.end_headers()
        self.wfile.write(b"the database is down" if unready else body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def serve() -> int:
    print("a line of the log", flush=True)
    if "dies" in DO:
        return 3
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Health)
    ended = threading.Event()
    if "stubborn" in DO:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: ended.set())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    if "changed-password" not in DO:
        account = {"email": "admin@localhost", "password": "sesame"}
        (DATA_DIR / "administrator.json").write_text(json.dumps(account))
    url = f"http://127.0.0.1:{server.server_address[1]}"
    (DATA_DIR / "hub.json").write_text(json.dumps({"pid": os.getpid(), "url": url}))
    with (DATA_DIR / "starts").open("a") as starts:
        starts.write(f"{os.getpid()}\n")
    ended.wait()
    (DATA_DIR / "hub.json").unlink()
    return 0


def chat(words: list[str]) -> int:
    given = dict(zip(words[:-2:2], words[1:-2:2], strict=True))
    if "--code" in given:
        who = f"code {given['--code']}"
    else:
        who = f"{given['--email']} {Path(given['--password-file']).read_text()}"
    if "waits" in DO:
        (DATA_DIR / "asked").touch()
        signal.pause()
    if "speechless" in DO:
        print("hub chat: no model can answer now", file=sys.stderr)
        return 1
    print(f"{who}: {words[-1]}")
    return 0


def main() -> int:
    command, *words = sys.argv[1:]
    if command == "link":
        print("a-code")
        return 0
    return serve() if command == "serve" else chat(words)


if __name__ == "__main__":
    raise SystemExit(main())
