"""The command line at a terminal, into a full disk and through other encodings; its defaults."""

import contextlib
import io
import logging
import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest
import typer.main

from moeflux import cli, errors, terminal
from oracle import build
from support.commands import run_moeflux
from support.few import few

SMALL = ["--memory", "17MB", "--context", "256"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("terminal") / "m", family="qwen3_moe", form="mlx-q4")


def command(*args, **options):
    return run([sys.executable, "-m", "moeflux.cli", *map(str, args)], **options)


def run(words, **options):
    return subprocess.run(
        words,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": 120,
           "check": False, "stdin": subprocess.DEVNULL, **options},
    )  # fmt: skip


@pytest.mark.parametrize(
    "args", [["generate", "x", "-n", "2", *SMALL], ["generate", "x", "-n", "2", "--json", *SMALL],
             ["info"], ["--help"]], ids=lambda args: "-".join(args[:1] + args[4:5]),
)  # fmt: skip
def test_a_full_disk_is_one_sentence(args):
    buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        done = command(*args, stdout=full, env=buffered)
    lines = done.stderr.splitlines()
    assert done.returncode == 1 and len(lines) == 1
    assert lines[0].startswith("moeflux: ") and "No space left" in lines[0]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_an_encoding_lacks_is_shown_escaped(encoding):
    done = command(
        "generate", "€ é", "--echo", "-n", "2", *SMALL, text=False,
        env=os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
    )  # fmt: skip
    assert done.returncode == 0 and b"Traceback" not in done.stderr
    shown = {"ascii": rb"\u20ac \xe9", "latin-1": b"\\u20ac \xe9", "utf-8": "€ é".encode()}
    assert done.stdout.startswith(shown[encoding])


@pytest.mark.parametrize("closed", [0, 1, 2])
@pytest.mark.parametrize(
    "args", few(2, [["generate", "-n", "2", *SMALL], ["generate", "x", "-n", "2", *SMALL],
             ["pack", "none", "target", "--replace"], ["doctor", "--help"]]),
    ids=lambda args: "-".join(args[:2]),
)  # fmt: skip
def test_a_stream_that_the_caller_closed_is_an_empty_one(args, closed):
    whole = run_moeflux(*args)
    shell = ["sh", "-c", f'exec "$@" {closed}<&-', "sh", sys.executable, "-m", "moeflux.cli", *args]
    done = run(shell)
    assert done.returncode == whole.returncode

    def timeless(text):
        return re.sub(r"[\d.]+( s|/s| tok/s|\d+ MB)", "", re.sub(r"\n.experts.*", "", text))

    assert done.stdout == ("" if closed == 1 else whole.stdout)
    assert timeless(done.stderr) == ("" if closed == 2 else timeless(whole.stderr))


@pytest.mark.parametrize(
    ("error", "words"),
    [(ValueError("from\x1b afar"), ["ValueError: from\\x1b afar", "--verbose"]),
     (PermissionError(13, "Permission denied", "a/b"), ["Permission denied", "(a/b)"]),
     (errors.FormatError("[x] expected y"), ["moeflux: [x] expected y\n"])],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_any_error_is_one_sentence(monkeypatch, capfd, caplog, error, words):
    def fails():
        raise error

    monkeypatch.setattr(cli, "app", fails)
    monkeypatch.setattr(cli, "_forget_output", lambda: None)  # it is pytest's here
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    told = capfd.readouterr().err
    assert told.count("\n") == 1 and all(word in told for word in words)
    assert not caplog.records
    caplog.set_level(logging.DEBUG, "moeflux")  # --verbose does
    with pytest.raises(SystemExit):
        cli.main()
    assert caplog.records[-1].exc_info[1] is error  # where it was raised


@pytest.mark.parametrize(("name", "args"), [("synth", ["--shape", "none"]), ("pack", ["{}/b"])])
def test_no_empty_line_comes_before_an_error(tmp_path, name, args):
    done = run_moeflux(name, tmp_path / "none", *(arg.format(tmp_path) for arg in args))
    assert done.returncode == 1 and re.fullmatch(r"moeflux: .*\n", done.stderr), done.stderr


def test_help_names_every_option_whole_and_fits_80_columns():
    for name, found in typer.main.get_command(cli.app).commands.items():
        text = run_moeflux(name, "--help", env=os.environ | {"COLUMNS": "80"}).stdout
        assert all(option in text.split() or f"{option}," in text for parameter in found.params
                   for option in parameter.opts if option.startswith("-"))  # fmt: skip
        assert max(map(len, text.splitlines())) <= 80 and "…" not in text
        told = re.split("Arguments:|Options:", text)[0]
        for line, following in zip(told.splitlines(), told.splitlines()[1:], strict=False):
            word = following.split()[:1]
            assert not (line and word) or len(line) + len(word[0]) > 70 or ":" in line


def test_lines_break_between_words_where_a_terminal_is_narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    text = "[3 tokens in 1.0 s, prompt included; memory 15 of 17 MB]\n  indented " + "word " * 9
    for is_terminal in (True, False):
        stream = io.StringIO()
        stream.isatty = lambda answer=is_terminal: answer
        terminal.show(text, stream)
        shown = stream.getvalue()
        assert shown.split() == text.split()
        assert (max(map(len, shown.splitlines())) <= 30) == is_terminal
    assert shown == text + "\n"


class Terminal:
    """A command whose standard input is a terminal, read as it writes."""

    def __init__(self, *args, kind="dumb"):
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "moeflux.cli", *map(str, args)],
            stdin=slave, stdout=slave, stderr=slave, env=os.environ | {"TERM": kind},
        )  # fmt: skip
        os.close(slave)
        self.seen = ""

    def until(self, text):
        """What it writes up to this text."""
        deadline = time.monotonic() + 120
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            try:
                self.seen += os.read(self.master, 4096).decode(errors="replace")
            except OSError:
                raise AssertionError(f"ended: {self.seen}") from None
        before, _, self.seen = self.seen.partition(text)
        return before

    def interrupt(self):
        time.sleep(0.5)  # what has just been shown is to be waited behind
        self.process.send_signal(signal.SIGINT)

    def end(self):
        """The exit status, and all that was left to read."""
        status = self.process.wait(timeout=60)
        try:
            while more := os.read(self.master, 4096):
                self.seen += more.decode(errors="replace")
        except OSError:  # Linux, at the end
            pass
        os.close(self.master)
        return status, self.seen


@pytest.mark.parametrize("way", ["twice", "end of input"])
def test_control_c_at_the_prompt_keeps_the_talk_and_twice_ends_it(folder, way):
    chat = Terminal("chat", "-m", folder, "-n", "3", "-t", "0", "--context", "256")
    try:
        chat.until("> ")
        os.write(chat.master, b"one\n")
        first = int(re.search(r"(\d+) in context", chat.until("\r\n> "))[1])
        chat.interrupt()
        chat.until("ends]\r\n> ")
        os.write(chat.master, b"two\n")
        assert int(re.search(r"(\d+) in context", chat.until("\r\n> "))[1]) > first + 5
        if way == "twice":
            chat.interrupt()
            chat.until("ends]\r\n> ")
            for _ in range(12):  # between the prompt and the reading of a line one may be missed
                chat.interrupt()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    chat.process.wait(timeout=5)
                    break
        else:
            os.write(chat.master, b"\x04")
        status, left = chat.end()
    finally:
        chat.process.kill()
    assert status == 0 and left.endswith("\n")  # the shell's prompt begins a line


def test_lines_that_are_pasted_are_one_question(folder):
    chat = Terminal("chat", "-m", folder, "-n", "3", "-t", "0", "--context", "256", kind="xterm")
    try:
        chat.until("> ")
        os.write(chat.master, b"\x1b[200~one\ntwo\x1b[201~\r")
        shown = chat.until(" in context") + chat.until("> ")
        os.write(chat.master, b"\x04")
        status, left = chat.end()
    finally:
        chat.process.kill()
    assert status == 0 and (shown + left).count("tok/s") == 1
    assert f"[{len('E<user>one_twoE<assistant>') - 2} tokens in" in shown


def test_a_command_that_chat_does_not_have_is_no_question(folder):
    done = run_moeflux("chat", "-m", folder, "-n", "3", "-t", "0",
                       stdin="/stats\n/Reset now\n/usr/bin is a path\n\n/exit\n")  # fmt: skip
    assert done.returncode == 0 and done.stderr.count("tok/s") == 1
    assert "no command /stats" in done.stderr and "no command /Reset" in done.stderr


@pytest.mark.parametrize("name", ["generate", "chat"])
def test_control_characters_of_a_model_are_shown_escaped(folder, tmp_path, name):
    (tmp_path / "said").write_text("x\x1b[2J\n")
    options = ["-m", folder, "-n", "100", "-t", "9", "--seed", "1", "--context", "200"]
    options += ["--echo"] * (name == "generate")
    with open(tmp_path / "said") as said:
        done = command(name, *options, stdin=said, text=False)
    assert done.returncode == 0 and b"\\x" in done.stdout
    assert not set(done.stdout) & (set(range(32)) - set(b"\n\t") | {0x7F})


@pytest.mark.parametrize("name", ["generate", "chat", "bench", "info"])
def test_model_and_memory_have_defaults_in_the_environment(name):
    words = {"MOEFLUX_MODEL": "/nowhere/at/all", "MOEFLUX_MEMORY": "lots"}
    for variable, word in words.items():
        if name == "info" and variable == "MOEFLUX_MEMORY":
            continue
        prompt = ["x"] if name == "generate" else []
        done = run_moeflux(name, *prompt, env=os.environ | {variable: word})
        assert done.returncode == 1 and word in done.stderr, done.stderr
