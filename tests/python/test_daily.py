"""The command line day by day: what it recommends, shows, accepts, and the words of its errors."""

import inspect
import io
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import rich.console

import moeflux
from moeflux import cli
from moeflux.commands import chat as chat_module
from moeflux.commands import meter, options
from moeflux.device import default_threads
from moeflux.planning import probe, rates
from moeflux.thinking import Thinking, parted
from oracle import build

SMALL = ["--memory", "64MiB", "--context", "256"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return build(tmp_path_factory.mktemp("daily") / "m", family="qwen3_moe", form="mlx-q4")


@pytest.fixture
def folder(tmp_path, plain):
    """A checkpoint to which a test adds files of its own."""
    return Path(shutil.copytree(plain, tmp_path / "m"))


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*args, stdin=""):
        monkeypatch.setattr(sys, "argv", ["moeflux", *map(str, args)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = end.code or 0
        told = capsys.readouterr()
        return status, told.out, told.err

    return run


def asked(run, folder, *args):
    status, out, err = run("generate", "hi", "-m", folder, "-n", "3", *SMALL, "--json", *args)
    assert status == 0, err
    return json.loads(out)


RECOMMENDED = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95}


def test_the_makers_sampling_is_taken_where_nothing_was_asked_for(run, folder):
    path = folder / "generation_config.json"
    assert "temperature" not in asked(run, folder)["sampling"]
    path.write_text(json.dumps(RECOMMENDED))
    found = asked(run, folder, "--top-k", "5", "--seed", "1")["sampling"]
    assert {k: found[k] for k in ("temperature", "top_k", "top_p")} == {
        "temperature": 0.6, "top_k": 5, "top_p": 0.95,
    }  # fmt: skip
    assert asked(run, folder, "-t", "0")["sampling"]["temperature"] == 0
    path.write_text(json.dumps(RECOMMENDED | {"do_sample": False, "repetition_penalty": 1.1}))
    found = asked(run, folder)["sampling"]
    assert "temperature" not in found and found["repetition_penalty"] == 1.1


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_the_makers_sampling_is_shown_and_a_chats_own_is_left_out_then(run, folder, command):
    prompt = ["hi"] if command == "generate" else []
    args = [command, *prompt, "-m", folder, "-n", "2", *SMALL]
    assert "recommends" not in run(*args, stdin="hi\n")[2]
    (folder / "generation_config.json").write_text(json.dumps(RECOMMENDED))
    status, _, err = run(*args, stdin="hi\n")
    assert status == 0 and "[temperature 0.6, top_k 20, top_p 0.95: as its gen" in err
    usual = {"temperature": 0.7, "top_p": 0.9}
    model = moeflux.load(folder, memory="64MiB", context=64)
    assert options.completed({}, model, usual)[0] == model.tokenizer.sampling
    (folder / "generation_config.json").write_text("{}")
    model = moeflux.load(folder, memory="64MiB", context=64)
    assert options.completed({"top_p": 1}, model, usual)[0] == {"temperature": 0.7, "top_p": 1}


@pytest.mark.parametrize("value", [-1, "high", float("nan")])
def test_a_recommendation_that_makes_no_sense_is_refused_with_its_file(run, folder, value):
    told = json.dumps({"do_sample": True, "temperature": value})
    (folder / "generation_config.json").write_text(told)
    status, _, err = run("generate", "hi", "-m", folder, *SMALL)
    assert status == 1 and "temperature: expected" in err and "generation_config.json" in err


def test_numbers_of_a_generation_are_told_and_agree(run, folder):
    found = asked(run, folder)
    assert found["prompt_tokens"] == 2
    first, whole = found["first_token_seconds"], found["seconds"]
    assert 0 < first <= whole
    assert found["prompt_tokens_per_second"] == pytest.approx(2 / first)
    n = len(found["tokens"])
    assert found["tokens_per_second"] == (pytest.approx((n - 1) / (whole - first)) if n > 1 else 0)


class Terminal(rich.console.Console):
    """One that is there, whatever the streams are."""

    shown = None

    def __init__(self, *args, **options):
        Terminal.shown = io.StringIO()
        super().__init__(file=Terminal.shown, force_terminal=True, width=80)

    is_dumb_terminal = False


def test_a_terminal_sees_a_sign_of_life_until_the_first_token(monkeypatch):
    monkeypatch.setattr(rich.console, "Console", Terminal)

    def parts():
        found.progress(64, 190)
        found._status.refresh() if hasattr(found._status, "refresh") else None
        yield moeflux.Part("a", 1)
        seen.append(len(Terminal.shown.getvalue()))
        yield moeflux.Part("b", 2)

    found, seen = meter.Meter(), []
    assert [part.text for part in found.follow(parts())] == ["a", "b"]
    shown = Terminal.shown.getvalue()
    assert "reading the prompt" in shown and len(shown) == seen[0]  # nothing after the text began
    assert found.n_prompt == 64 and found.n_tokens == 2


TEXT = "<think>\nwell, 1 < 2\n</think>\n\nyes <thin </think> [THINK]more[/THINK] end <thi"
PIECES = [(True, "\nwell, 1 < 2\n"), (False, "\n\nyes <thin </think> "), (True, "more"),
          (False, " end <thi")]  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_thoughts_are_told_from_the_answer_however_the_text_comes(size):
    thinking, found = Thinking(), []
    for at in range(0, len(TEXT), size):
        found += thinking.push(TEXT[at : at + size])
    found += thinking.finish()
    joined = []
    for kind, text in found:
        if joined and joined[-1][0] == kind:
            joined[-1] = kind, joined[-1][1] + text
        else:
            joined.append((kind, text))
    assert joined == PIECES


def test_thoughts_may_begin_in_the_prompt():
    assert parted("hm</think>\nyes", "<assistant><think>\n") == ("hm", "yes")
    assert parted("hm</think>\nyes", "<think>\n\n</think>\n\n") == ("", "hm</think>\nyes")
    assert parted("hm", "<think>") == ("hm", "")


def test_a_terminal_shows_thoughts_dim_and_a_pipe_the_text_as_it_is(monkeypatch, capsys):
    for console, expected in (
        (rich.console.Console, "<think>a\x1b</think>b"), (Terminal, "\x1b[2ma\\x1b\x1b[0mb"),
    ):  # fmt: skip
        monkeypatch.setattr(rich.console, "Console", console)
        shown = meter.Shown(lambda: "")
        shown.write("<think>a\x1b</th")
        shown.write("ink>b")
        shown.end()
        assert capsys.readouterr().out == expected.replace("a\x1b<", "a\\x1b<") + "\n"


def test_thinking_is_switched_by_the_templates_variable(run, folder):
    config = json.loads((folder / "tokenizer_config.json").read_text())
    off = "{% if enable_thinking is defined and not enable_thinking %}</think>{% endif %}"
    template = "{{ messages[0].content }}{{ 'TT' if enable_thinking }}<think>" + off
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    counts = {}
    for flags in ((), ("--think",), ("--no-think",)):
        found = asked(run, folder, "--chat", "-t", "0", *flags)
        counts[flags] = found["prompt_tokens"]
        assert (found["thinking"] == "") == (flags == ("--no-think",))
        assert found["thinking"] or found["answer"] == found["text"].strip()
    assert counts == {(): 9, ("--think",): 11, ("--no-think",): 17}
    status, _, err = run("generate", "hi", "-m", folder, "--no-think")
    assert status == 1 and "--chat" in err
    status, _, err = run("chat", "-m", folder, "-n", "2", "--no-think", *SMALL, stdin="hi\n")
    assert status == 0 and "[16 tokens in" in err


def test_a_question_of_several_lines_stands_between_quotes(monkeypatch):
    lines = iter(['"""one', "two ", '  three"""', '""" four """', "five", '"""'])
    monkeypatch.setattr(
        "builtins.input", lambda prompt: next(lines, None) or (_ for _ in ()).throw(EOFError)
    )
    assert chat_module._question("> ", ". ") == "one\ntwo \n  three"
    assert chat_module._question("> ", ". ") == "four"
    assert chat_module._question("> ", ". ") == "five"
    with pytest.raises(EOFError):
        chat_module._question("> ", ". ")


def test_a_model_is_named_in_one_way_or_the_other_in_every_command(run, plain, monkeypatch):
    by_place, by_name = (run("info", *args, "--json") for args in ((plain,), ("-m", plain)))
    assert by_place == by_name and by_place[0] == 0
    facts = json.loads(by_place[1])
    assert facts["experts_per_layer"] == 24 and facts["experts_per_token"] == 4
    assert facts["model"] == str(plain) and facts["expert_bits"] == 4 and facts["is_local"] is True
    assert facts["bytes"] == sum(facts[f"{n}_bytes"] for n in ("routed", "resident", "ignored"))
    for command in ("info", "plan", "bench"):
        status, _, err = run(command, plain, "-m", "other")
        assert status == 1 and "expected one model" in err and "other" in err
    monkeypatch.setenv("MOEFLUX_MODEL", "/nowhere")
    assert run("info", plain)[0] == 0
    assert "/nowhere" in run("info")[2]


def test_every_command_has_the_context_of_load():
    wanted = inspect.signature(moeflux.load).parameters["context"].default
    for command in (cli.generate, cli.chat, cli.plan):
        assert inspect.signature(command).parameters["context"].default == wanted


def test_budgets_come_with_commas_or_one_by_one_and_a_narrow_table_is_whole(
    run, plain, monkeypatch
):
    machine = rates.Machine(rates.DiskRate({1: 1e9}, "direct"), 1e9, rates.KernelRate(1e9, 0.0),
                            default_threads())  # fmt: skip
    monkeypatch.setattr(probe, "machine", lambda *args: machine)
    args = ["plan", plain, "--context", "256"]
    found = [json.loads(run(*args, "--json", *more)[1]) for more in (
        ["--memory", "64MB,96MB"], ["--memory", "64MB", "--memory", "96MB"])]  # fmt: skip
    assert found[0] == found[1]
    assert [row["memory_bytes"] for row in found[0]["rows"]] == [64_000_000, 96_000_000]
    experts = json.loads(run("info", plain, "--json")[1])["routed_bytes"]
    assert found[0]["prompt_tokens"] == 64 and 0.99 < found[0]["prompt_read_bytes"] / experts <= 1
    assert found[0]["prompt_read_seconds"] == found[0]["prompt_read_bytes"] / 1e9
    for columns in (40, 80):
        monkeypatch.setenv("COLUMNS", str(columns))
        status, out, _ = run(*args, "--memory", "64MB")
        assert status == 0 and max(map(len, out.splitlines())) <= columns
        assert "tokens/s" in out and "skewed" in out and "…" not in out
        assert ("bound" in out) == (columns == 80)


def test_errors_are_told_in_options_and_in_sizes_that_do(run, plain):
    status, _, err = run("generate", "hi", "-m", plain, "--memory", "100000")
    assert status == 1 and "--memory 97.66KiB is too little" in err and "--context needs" in err
    assert not re.search(r"\w=|\d{4}", err), err
    least = re.search(r"at least (\S+)", err)[1]
    status, _, err = run("generate", "hi", "-m", plain, "-n", "1", "--memory", least)
    assert status == 0, err
    status, _, err = run("generate", "x" * 300, "-m", plain, "--context", "256")
    assert status == 1 and "a larger --context" in err
    assert cli._sentence(moeflux.MemoryBudgetError("memory=12 would do")) == "--memory 12 would do"
    assert cli._sentence(moeflux.IoError("no /a/context=4")) == "no /a/context=4"
