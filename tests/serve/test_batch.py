"""`moeflux batch`: OpenAI's batch files. Whatever stops a run, the same bytes come out."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import moeflux
from moeflux import FormatError, IoError
from moeflux.serve.batch import rows
from moeflux.serve.batch import run as run_module
from moeflux.serve.batch.journal import Journal, beside
from moeflux.serve.batch.rows import scan
from moeflux.serve.batch.run import Batch, check_fingerprint
from moeflux.serve.engine import EngineError, Health
from moeflux.serve.local import EngineSettings, LocalEngine
from serve.scripted import FAULT, ScriptedEngine
from support import kill
from support.commands import run_moeflux
from support.later import Later

openai = Later("openai")

OPTIONS = ["-m", "demo-chat", "--memory", "64MiB", "--context", "512"]
ASK = {"max_tokens": 8}


def chat(custom_id, text, **body):
    body = {"model": "any", "messages": [{"role": "user", "content": text}], **ASK, **body}
    return {"custom_id": custom_id, "method": "POST", "url": rows.URLS[0], "body": body}


def completion(custom_id, prompt, **body):
    body = {"model": "any", "prompt": prompt, **ASK, **body}
    return {"custom_id": custom_id, "method": "POST", "url": rows.URLS[1], "body": body}


def write(path, *lines):
    said = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"".join(line + b"\n" for line in said))
    return path


def command(source, target, *more):
    return ["batch", str(source), str(target), *OPTIONS, *more]


def run(source, target, *more, fails=False):
    done = run_moeflux(*command(source, target, *more))
    assert (done.returncode != 0) == fails, done.stderr
    return done.stderr


def read(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def answered(source, engine, path, **options):
    """Runs a batch in this process; what `Journal.find` has afterwards, and what was told."""
    told, found = [], scan(source)
    journal = Journal.find(path, {"input": found.digest})
    journal = journal or Journal.create(path, {"input": found.digest, "fingerprint": "print"})
    try:
        Batch(found, journal, {"context": 1}, lambda *news: told.append(news)).run(
            engine, options.get("most"), None, "auto"
        )
    finally:
        journal.close()
    return told


MANY = [
    *(chat(f"chat-{i}", f"What is a mutex? {i}", temperature=0.9) for i in range(12)),
    *(completion(f"text-{i}", f"The number {i}", temperature=0.9, n=2) for i in range(6)),
    *(chat(f"seeded-{i}", "Hello!", seed=i, temperature=1.5, logprobs=True) for i in range(4)),
    completion("several", ["one", "two"], logprobs=1),
    b"no JSON",
    chat("far", "too long " * 600),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An input, and its output by a run that nothing has stopped."""
    folder = tmp_path_factory.mktemp("batch")
    source = write(folder / "in.jsonl", *MANY)
    run(source, folder / "out.jsonl")
    assert sorted(path.name for path in folder.iterdir()) == ["in.jsonl", "out.jsonl"]
    return source, folder / "out.jsonl"


def test_rows_are_in_the_order_of_the_input_and_have_openais_shapes(whole):
    found = read(whole[1])
    assert [row["custom_id"] for row in found] == [
        row["custom_id"] if isinstance(row, dict) else None for row in MANY
    ]
    for row, line in zip(found, MANY, strict=True):
        assert set(row) == {"id", "custom_id", "response", "error"}
        if not isinstance(line, dict):
            assert row["response"] is None and row["error"]["code"] == "invalid_line"
        elif row["custom_id"] == "far":
            assert row["error"] is None and row["response"]["status_code"] == 400
            assert row["response"]["body"]["error"]["code"] == "context_length_exceeded"
        else:
            assert row["error"] is None and row["response"]["status_code"] == 200
            kinds = {rows.URLS[0]: openai.types.chat.ChatCompletion,
                     rows.URLS[1]: openai.types.Completion}  # fmt: skip
            kinds[line["url"]].model_validate(row["response"]["body"], strict=True)
    assert len({row["id"] for row in found}) == len(found)


def test_texts_are_those_of_a_generation_of_its_own(tmp_path):
    texts = ["import os", "def main(", "class Point:\n    def"]
    source = write(tmp_path / "in", *(completion(t, t, temperature=0) for t in texts))
    run(source, tmp_path / "out", "--max-running", "2")
    model = moeflux.load("demo-chat", memory="64MiB", context=512)
    for row in read(tmp_path / "out"):
        expected = moeflux.generate(model, row["custom_id"], max_tokens=8)
        assert row["response"]["body"]["choices"][0]["text"] == expected


def test_killed_at_random_moments_it_ends_with_the_same_bytes(whole, tmp_path):
    source, target = whole[0], tmp_path / "out.jsonl"

    def look():  # the output is whole or absent
        assert not target.exists() or target.read_bytes() == whole[1].read_bytes()

    def start_over():
        look()
        target.unlink()

    kill.until_done(lambda seconds: run_moeflux(*command(source, target), seconds=seconds), seed=1,
                    start_over=start_over, after_kill=look)  # fmt: skip
    assert target.read_bytes() == whole[1].read_bytes()
    assert not beside(target).exists()


def test_an_interrupt_says_how_to_go_on_and_nothing_is_lost(whole, tmp_path):
    source, target = whole[0], tmp_path / "out.jsonl"
    line = [sys.executable, "-m", "moeflux.cli", *command(source, target)]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        while not beside(target).exists() or beside(target).read_bytes().count(b"\n") < 3:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "the same command goes on from here" in told
    assert not target.exists()
    run(source, target, "--memory", "80MiB", "--threads", "1")
    assert target.read_bytes() == whole[1].read_bytes()


def test_cut_after_any_call_that_makes_a_step_last_it_goes_on(tmp_path, monkeypatch):
    from moeflux import durable

    source = write(tmp_path / "in", *(completion(f"c{i}", f"x{i}") for i in range(3)))
    found, target = scan(source), tmp_path / "out"

    def go_on():
        path, said = beside(target), {"input": found.digest}
        if target.exists() and not path.exists():
            return
        journal = Journal.find(path, said) or Journal.create(path, said)
        try:
            Batch(found, journal, {}, lambda *_: None).run(ScriptedEngine(), None, None, "auto")
            journal.publish(target, len(found.rows))
        finally:
            journal.close()

    go_on()
    expected = target.read_bytes()
    for holder, name in ((durable, "publish"), (durable, "sync_folder"), (Journal, "add")):
        target.unlink()
        assert kill.after_each(go_on, monkeypatch, [holder], name) > 1
        assert target.read_bytes() == expected and not beside(target).exists()


@pytest.mark.parametrize("end", [b"", b"\n", b"0 123", b"7 00000000 200 {}\n", b"\xff" * 9])
def test_a_line_that_was_cut_or_damaged_is_answered_again(tmp_path, end):
    source = write(tmp_path / "in", *(completion(f"c{i}", f"x{i}") for i in range(4)))
    assert len(answered(source, ScriptedEngine(), tmp_path / "rows")) == 4
    bytes_before = (tmp_path / "rows").read_bytes()
    (tmp_path / "rows").write_bytes(bytes_before[:-5] + end)
    assert len(answered(source, ScriptedEngine(), tmp_path / "rows")) == 1
    assert sorted((tmp_path / "rows").read_bytes().splitlines()) == sorted(
        bytes_before.splitlines()
    )


def test_one_rows_failure_is_its_own_and_the_next_run_tries_it_again(tmp_path):
    lines = [completion(f"c{i}", f"x{i}") for i in range(5)]
    source = write(tmp_path / "in", *lines)
    told = answered(source, ScriptedEngine({"": "Hello.", "x3": FAULT}), tmp_path / "rows")
    assert sorted(status for status, _ in told) == [200] * 4 + [500]
    assert [status for status, _ in answered(source, ScriptedEngine(), tmp_path / "rows")] == [200]


def test_an_engine_that_has_failed_ends_the_batch_and_takes_no_row_with_it(tmp_path):
    source = write(tmp_path / "in", *(completion(f"c{i}", f"x{i}") for i in range(5)))
    engine = ScriptedEngine({"": FAULT})
    engine.state = Health("failed", detail="the step thread has ended: OSError")
    with pytest.raises(EngineError, match=r"step thread has ended.*goes on from here"):
        answered(source, engine, tmp_path / "rows")
    assert len(answered(source, ScriptedEngine(), tmp_path / "rows")) == 5


def test_reads_that_fail_at_every_row_end_the_batch_before_all_rows_are_errors(tmp_path):
    source = write(tmp_path / "in", *(completion(f"c{i}", f"x{i}") for i in range(100)))
    engine = ScriptedEngine({"": FAULT})
    engine.state = Health("degraded", detail="reads of experts have failed")
    with pytest.raises(EngineError, match="reads of experts have failed"):
        answered(source, engine, tmp_path / "rows")
    assert len(answered(source, ScriptedEngine(), tmp_path / "rows")) == 100


def test_few_bytes_of_lines_are_on_their_way(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "MAX_BYTES", 1)
    source = write(tmp_path / "in", *(completion(f"c{i}", f"x{i}") for i in range(9)))
    engine, most = ScriptedEngine(), []
    submit = engine.submit

    def watched(job):
        most.append(engine.running)
        return submit(job)

    monkeypatch.setattr(engine, "submit", watched)
    assert len(answered(source, engine, tmp_path / "rows")) == 9 and set(most) == {0}


HOSTILE = {
    b"": None,
    b"   ": None,
    b"{": "no JSON",
    b"[]": "no JSON object",
    b"\xff\xfe{}": "no UTF-8",
    b'{"custom_id": "a", "custom_id": "b"}': "there twice",
    b"[" * 100_000: "nested deeper",
    b'{"custom_id": "h", "body": ' + b'{"a":' * 300 + b"1" + b"}" * 300 + b"}": "nested deeper",
    b'{"custom_id": "\\ud800"}': "surrogate",
    b'{"custom_id": 7, "method": "POST"}': "custom_id",
    b'{"custom_id": ""}': "custom_id",
    json.dumps(chat("x" * 513, "a")).encode(): "custom_id",
    json.dumps(chat("m", "a") | {"method": "GET"}).encode(): "POST",
    json.dumps(chat("u", "a") | {"url": "/v1/embeddings"}).encode(): "/v1/completions",
    json.dumps(chat("v", "a") | {"url": ["/v1/completions"]}).encode(): "/v1/completions",
    json.dumps(chat("b", "a") | {"body": [1]}).encode(): "JSON object",
}


def test_hostile_lines_are_rows_with_an_error_and_nothing_is_lost(tmp_path):
    target = tmp_path / "rows"
    source = write(tmp_path / "in", *HOSTILE, completion("good", "x"))
    told = answered(source, ScriptedEngine(), target)
    wanted = [word for word in HOSTILE.values() if word]
    assert len(told) == len(wanted) + 1 and [s for s, _ in told].count(0) == len(wanted)
    found, journal = scan(source), Journal.find(target, {})
    journal.publish(tmp_path / "out", len(found.rows))
    *bad, good = read(tmp_path / "out")
    for row, word in zip(bad, wanted, strict=True):
        assert word in row["error"]["message"] and row["response"] is None
    assert good["response"]["status_code"] == 200


BAD_BODIES = [{"prompt": 7}, {"prompt": "x", "stream": True}, {"prompt": "x", "seed": "s"},
              {"prompt": "x", "n": 10**9}, {"prompt": "x", "temperature": -1}, {}]  # fmt: skip


def test_a_body_that_the_server_would_refuse_is_refused_with_its_status(tmp_path):
    lines = [completion(f"c{i}", "") | {"body": body} for i, body in enumerate(BAD_BODIES)]
    told = answered(write(tmp_path / "in", *lines), ScriptedEngine(), tmp_path / "rows")
    assert [status for status, _ in told] == [400] * len(lines)


def test_a_line_of_any_length_takes_bounded_memory_and_is_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "MAX_LINE", 1000)
    monkeypatch.setattr(rows, "PIECE", 300)
    long = completion("long", "x" * 5000)
    source = write(tmp_path / "in", completion("a", "x"), long, completion("b", "x"))
    told = answered(source, ScriptedEngine(), tmp_path / "rows")
    assert sorted(status for status, _ in told) == [0, 200, 200]
    assert "at most 1000 bytes" in (tmp_path / "rows").read_text()


def test_a_mark_of_bytes_crlf_and_a_last_line_without_end_are_read(tmp_path):
    one, two = (json.dumps(completion(name, "x")).encode() for name in "ab")
    (tmp_path / "in").write_bytes(b"\xef\xbb\xbf" + one + b"\r\n\r\n" + two)
    told = answered(tmp_path / "in", ScriptedEngine(), tmp_path / "rows")
    assert [status for status, _ in told] == [200, 200]


def test_a_custom_id_that_is_there_twice_is_refused_by_name(tmp_path):
    source = write(tmp_path / "in", chat("a", "x"), chat("twin", "x"), b"", chat("twin", "y"))
    with pytest.raises(FormatError, match=r"'twin' on lines 2 and 4"):
        scan(source)
    assert "'twin'" in run(source, tmp_path / "out", fails=True)
    assert not (tmp_path / "out").exists() and not beside(tmp_path / "out").exists()


def test_an_empty_input_a_folder_and_a_pipe_are_refused(tmp_path):
    with pytest.raises(FormatError, match="found no line"):
        scan(write(tmp_path / "in", b"", b" "))
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ".", "nowhere"):
        with pytest.raises(IoError):
            scan(tmp_path / name)


def test_what_is_there_and_not_of_this_batch_is_not_overwritten(whole, tmp_path):
    source, target = whole[0], tmp_path / "out.jsonl"
    target.write_text("mine\n")
    assert "found another" in run(source, target, fails=True)
    assert target.read_text() == "mine\n"
    assert "beside the input" in run(source, source, fails=True)
    assert "expected a folder" in run(source, tmp_path / "no" / "out", fails=True)
    assert "answered already" in run(*whole)  # its own is taken for what it is
    other = write(tmp_path / "in", chat("chat-0", "another question"))
    beside(target).write_text("of an earlier run\n")  # which is not looked at before the output
    assert "found another" in run(source, target, fails=True)
    assert target.read_text() == "mine\n"
    assert "found another" in run(other, whole[1], fails=True)


def test_rows_of_another_input_or_model_are_refused(tmp_path):
    source = write(tmp_path / "in", chat("a", "x"))
    answered(source, ScriptedEngine(), tmp_path / "rows")
    other = write(tmp_path / "in2", chat("a", "y"))
    with pytest.raises(FormatError, match=r"another batch.*expected input"):
        answered(other, ScriptedEngine(), tmp_path / "rows")
    journal = Journal.find(tmp_path / "rows", {})
    with pytest.raises(FormatError, match="expected print, found print-2"):
        check_fingerprint(journal, "print-2")
    journal.close()
    (tmp_path / "rows").write_text('{"custom_id": "a"}\n')
    with pytest.raises(FormatError, match="found another file"):
        Journal.find(tmp_path / "rows", {})


def test_a_line_that_changes_under_way_is_noticed(tmp_path):
    source = write(tmp_path / "in", chat("a", "x"), chat("b", "x"))
    found = scan(source)
    source.write_bytes(source.read_bytes().replace(b'"b"', b'"c"'))
    journal = Journal.create(tmp_path / "rows", {})
    with pytest.raises(FormatError, match="line 2 has changed"):
        Batch(found, journal, {}, lambda *_: None).run(ScriptedEngine(), None, None, "auto")
    journal.close()


def test_two_batches_do_not_write_one_output(whole, tmp_path):
    from moeflux.durable import held_alone

    with held_alone(tmp_path / "out"):
        assert "no other batch" in run(whole[0], tmp_path / "out", fails=True)


@pytest.mark.parametrize("most", [1, 16])
def test_what_prompts_share_is_computed_once(tmp_path, most):
    """Three groups: all rows begin alike, those of a group go on alike, each has tokens of its own.

    The least that can be computed is the tokens of the tree that the prompts make.
    """
    prompts = [
        [*range(100, 200), *range(20 * group, 20 * group + 64), *([row + 1] * 8)]
        for row in range(6) for group in (1, 5, 9)
    ]  # fmt: skip
    lines = [completion(f"c{i}", ids, max_tokens=2) for i, ids in enumerate(prompts)]
    source = write(tmp_path / "in", *lines)
    tree = {tuple(ids[:n]) for ids in prompts for n in range(1, len(ids) + 1)}
    model = moeflux.load(memory="64MiB", context=256)
    engine = LocalEngine(model, "demo", EngineSettings(max_running=most, max_queued=1 << 20))
    answered(source, engine, tmp_path / "rows", most=most)
    counts = re.findall(
        r'prompt_tokens_total{source="computed"} (\S+)', engine.metrics.text().decode()
    )
    assert len(tree) == 100 + 3 * 64 + len(prompts) * 8
    assert float(counts[0]) == len(tree)


def test_the_page_runs_as_written(tmp_path):
    page = (Path(__file__).parents[2] / "docs/batch.md").read_text()
    program, line = re.findall(r"^```(?:python|text)\n(.*?)^```", page, re.S | re.M)
    words = line.split()
    assert words[:2] == ["moeflux", "batch"]
    for command_line in ([sys.executable, "-c", program],
                         [sys.executable, "-m", "moeflux.cli", *words[1:]]):  # fmt: skip
        done = subprocess.run(command_line, cwd=tmp_path, check=False, timeout=120,
                              capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stderr
    said = [row["response"]["body"] for row in read(tmp_path / "out.jsonl")]
    assert said[0]["choices"][0]["message"]["content"].startswith("A mutex is a lock")


def test_the_caches_type_is_passed_on_and_refused_by_name(tmp_path):
    source, target = write(tmp_path / "in.jsonl", chat("a", "What is a list?")), tmp_path / "out"
    assert "kv" in run(source, target, "--kv", "int4", fails=True)
    assert not target.exists()
    run(source, target, "--kv", "float32")
    said = json.loads(target.read_text())
    plain = tmp_path / "plain"
    run(source, plain)
    other = json.loads(plain.read_text())
    choices = [row["response"]["body"]["choices"] for row in (said, other)]
    assert choices[0] == choices[1] and said["id"] != other["id"]
