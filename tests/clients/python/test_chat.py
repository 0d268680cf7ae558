"""``hub chat`` as a person meets it: a process, its input, its output, its signals."""

import asyncio
import contextlib
import os
import pty
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hub_client.chat import main

from tests.clients.python.scripted_hub import NOW, Conversations, Params, Refusal

CLIENT = Path(__file__).parents[3] / "clients" / "python"


def environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HUB_")}
    return kept | {"PYTHONPATH": str(CLIENT), "TERM": "dumb"} | more


async def chat(
    server: Conversations, *words: str, given: str = "", **more: str
) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "hub_client", *words),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(HUB_URL=server.url, **more),
    )
    async with asyncio.timeout(20):
        out, err = await process.communicate(given.encode())
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


class Screen:
    """A process on a terminal."""

    def __init__(self, descriptor: int, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.text = ""
        self._descriptor = descriptor
        self._more = asyncio.Event()
        asyncio.get_running_loop().add_reader(descriptor, self._read)

    def _read(self) -> None:
        try:
            block = os.read(self._descriptor, 65536)
        except OSError:  # the other side of the terminal is gone
            block = b""
        if not block:
            asyncio.get_running_loop().remove_reader(self._descriptor)
        self.text += block.decode(errors="replace")
        self._more.set()

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    async def shows(self, pattern: str) -> None:
        """Wait for it, and forget everything up to it."""
        async with asyncio.timeout(15):
            while (found := re.search(pattern, self.text)) is None:
                self._more.clear()
                await self._more.wait()
        self.text = self.text[found.end() :]

    async def ends(self) -> int:
        async with asyncio.timeout(15):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def on_terminal(server: Conversations, *words: str, **more: str) -> AsyncIterator[Screen]:
    outer, inner = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "hub_client", *words),
        stdin=inner,
        stdout=inner,
        stderr=inner,
        env=environment(HUB_URL=server.url, **more),
        preexec_fn=lambda: _own_terminal(inner),
    )
    os.close(inner)
    screen = Screen(outer, process)
    try:
        yield screen
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        asyncio.get_running_loop().remove_reader(outer)
        os.close(outer)


def _own_terminal(descriptor: int) -> None:
    os.setsid()
    import fcntl  # noqa: PLC0415  # in the child
    import termios  # noqa: PLC0415

    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)


def endless(server: Conversations) -> None:
    async def play(run: str) -> None:
        message = await server.begin(run)
        while server.runs[run]["status"] == "running":
            await server.say(message, "la ")
            await asyncio.sleep(0.01)
        end = {"type": "RUN_FINISHED", "runId": run, "outcome": {"type": "cancelled"}}
        await server.emit(server.channel, {"type": "TEXT_MESSAGE_END", "messageId": message}, end)
        server.script = server.answer

    async def cancel(params: Params) -> Params:
        server.runs[params["run_id"]]["status"] = "cancelled"
        return server.runs[params["run_id"]]

    server.script = play
    server.answers["run.cancel"] = cancel


async def test_one_answer_goes_to_the_output_and_nothing_else_does(server: Conversations) -> None:
    status, out, err = await chat(server, "--token", "t", "Why", "is", "it", "blue?")
    assert (status, out) == (0, "Hello there\n")
    assert "stand-in" in err
    sent = [params for name, params in server.calls if name == "message.send"]
    assert [params["content"] for params in sent] == ["Why is it blue?"]


async def test_a_run_that_fails_is_said_on_standard_error(server: Conversations) -> None:
    async def fail(run: str) -> None:
        await server.say(await server.begin(run), "Hel")
        error = {"type": "RUN_ERROR", "message": "No model can answer.", "code": "timeout"}
        await server.emit(server.channel, error)

    server.script = fail
    status, out, err = await chat(server, "hi", HUB_TOKEN="t")
    assert (status, out) == (1, "Hel\n")
    assert "hub chat: No model can answer." in err
    assert "Traceback" not in err


def test_a_hub_that_is_not_there_is_said_and_what_to_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--url", "http://127.0.0.1:9", "--token", "t", "hi"]) == 1
    assert "hub serve" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["hi"], "--token, --code or --email"),
        (["--email", "e", "hi"], "--password-file"),
        (["--token", "t", "--code", "c", "hi"], "one of"),
        (["--password-stdin", "--token", "t", "hi"], "--email"),
        (["--email", "e", "--password-file", "/nowhere", "hi"], "cannot read"),
        (["--url", "ftp://x", "--token", "t", "hi"], "not the address"),
        (["--token", "t", ""], "TEXT is blank"),
        (["--token", "t", " ", "\t\n"], "TEXT is blank"),
    ],
)
def test_a_command_that_cannot_be_followed_says_why(
    words: list[str],
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "isatty", lambda _: False)
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert says in shown.err


@pytest.mark.parametrize("how", ["stdin", "file"])
async def test_a_password_signs_in(server: Conversations, tmp_path: Path, how: str) -> None:
    async def login(params: Params) -> Params:
        return {"access_token": "a", "refresh_token": "r", "expires_in": 600}

    server.http["/v1/auth/login"] = login
    file = tmp_path / "password"
    file.write_text("pass word\r\nmore\n")
    words = ["--password-stdin"] if how == "stdin" else ["--password-file", str(file)]
    status, out, _ = await chat(server, "--email", "e@x", *words, "hi", given="pass word\n")
    assert (status, out) == (0, "Hello there\n")
    assert server.posts == [("/v1/auth/login", {"email": "e@x", "password": "pass word"})]


async def test_a_conversation_can_be_piped_in(server: Conversations) -> None:
    server.answers["conversation.list"] = server.listing(
        lambda: [{"id": "c_1", "title": "hi", "created_at": NOW, "updated_at": NOW}]
    )
    lines = "hi\n/list\n/models\n/model nothing\n/history\n/nonsense\n/new\n/quit\nnot sent\n"
    status, out, err = await chat(server, given=lines, HUB_TOKEN="t")
    assert status == 0
    assert out.splitlines() == [
        "Hello there",
        "* c_1  hi",
        "tiny (, a stand-in)",
        "you> hi",
        "hub> Hello there",
        "A new conversation.",
    ]
    assert "no model nothing" in err
    assert "unknown command /nonsense" in err
    assert err.count("stand-in") == 1
    assert server.count("message.send") == 1


async def test_a_conversation_is_listed_and_gone_on_with(server: Conversations) -> None:
    server.store("m_0", "r_0", "user", "before")
    server.answers["conversation.list"] = server.listing(
        lambda: [{"id": "c_1", "title": "Sky", "created_at": NOW, "updated_at": NOW}]
    )
    assert await chat(server, "--list", HUB_TOKEN="t") == (0, "c_1  Sky\n", "")
    _, out, _ = await chat(server, "--conversation", "c_1", HUB_TOKEN="t")
    assert out == "you> before\n"
    assert server.count("conversation.create") == 0


async def test_a_first_message_that_is_refused_leaves_no_conversation_behind(
    server: Conversations,
) -> None:
    async def refuse(params: Params) -> Params:
        raise Refusal(-32602, "invalid_params")

    server.answers |= {"message.send": refuse, "conversation.delete": server.nothing}
    status, out, err = await chat(server, "--token", "t", "too long")
    assert (status, out) == (1, "")
    assert "scripted invalid_params" in err
    assert await server.until("conversation.delete") == {"conversation_id": "c_1"}
    status, _, err = await chat(server, given="too long\ntoo long\n", HUB_TOKEN="t")
    assert (status, err.count("scripted invalid_params")) == (0, 2)
    assert server.count("conversation.create") == server.count("conversation.delete") == 3
    await chat(server, "--conversation", "c_1", "too long", HUB_TOKEN="t")
    assert server.count("conversation.delete") == 3


async def test_what_is_not_a_conversations_id_is_said_in_the_conversation_too(
    server: Conversations,
) -> None:
    async def refuse(params: Params) -> Params:
        raise Refusal(-32602, "invalid_params")

    server.answers["conversation.get"] = refuse
    status, out, err = await chat(server, given="/open nope\nhi\n", HUB_TOKEN="t")
    assert (status, out) == (0, "Hello there\n")
    assert "'nope' is not the id of a conversation" in err
    assert "/list lists yours" in err


async def test_ctrl_c_cancels_the_run_and_not_the_program(server: Conversations) -> None:
    endless(server)
    async with on_terminal(server, HUB_TOKEN="t") as screen:
        await screen.shows("you> ")
        screen.type("sing\n")
        await screen.shows("la la ")
        screen.type("\x03")
        await screen.shows("cancelled")
        await screen.shows("you> ")
        assert server.count("run.cancel") == 1
        screen.type("hi\n")
        await screen.shows("Hello there")
        await screen.shows("you> ")
        screen.type("\x03")
        await screen.shows("again")
        screen.type("\x03")
        assert await screen.ends() == 0


async def test_ctrl_d_leaves(server: Conversations) -> None:
    async with on_terminal(server, HUB_TOKEN="t") as screen:
        await screen.shows("you> ")
        screen.type("\x04")
        assert await screen.ends() == 0


async def test_ctrl_c_stops_a_single_answer_and_cancels_its_run(server: Conversations) -> None:
    endless(server)
    async with on_terminal(server, "sing", HUB_TOKEN="t") as screen:
        await screen.shows("la la ")
        screen.process.send_signal(signal.SIGINT)
        assert await screen.ends() == 130
    assert server.count("run.cancel") >= 1


async def test_the_hub_cannot_steer_the_terminal(server: Conversations) -> None:
    server.words = ["safe\x1b]0;title\x07\x1b[2J", " text"]
    async with on_terminal(server, "hi", HUB_TOKEN="t") as screen:
        await screen.shows(r"safe\]0;title\[2J text")
        assert await screen.ends() == 0


async def test_the_email_and_the_password_are_asked_for_on_a_terminal(
    server: Conversations,
) -> None:
    async def login(params: Params) -> Params:
        return {"access_token": "a", "refresh_token": "r", "expires_in": 600}

    server.http["/v1/auth/login"] = login
    async with on_terminal(server, "hi") as screen:
        await screen.shows("E-mail: ")
        screen.type("e@x\n")
        await screen.shows("Password: ")
        screen.type("secret\n")
        await screen.shows("Hello there")
        assert "secret" not in screen.text
        assert await screen.ends() == 0
    assert server.posts == [("/v1/auth/login", {"email": "e@x", "password": "secret"})]


def test_help_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "API key" in shown
    for word in ("--conversation", "HUB_URL", "exit status", "Why is the sky blue?"):
        assert word in shown
