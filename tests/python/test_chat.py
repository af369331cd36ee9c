"""Conversations: what is fed again and what is not, interruption, the command."""

import signal
import subprocess
import sys
import threading

import pytest

import moeflux
from moeflux.conversation import Conversation
from oracle import build
from support.budget import smallest_budget
from support.commands import run_moeflux

GREEDY = {"temperature": 0.0, "logit_bias": {256: -1e9}}  # never <|im_end|>


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("chat") / "m", family="qwen3_next", form="mlx-q4")


@pytest.fixture(scope="module")
def model(folder):
    return moeflux.load(folder, memory="128MiB", context=256)


def text_of(parts):
    return "".join(part.text for part in parts)


def alone(model, messages, **options):
    """What a fresh session answers to the whole history."""
    return moeflux.generate(model, messages=messages, **options)


def test_every_turn_answers_as_a_fresh_session_with_the_whole_history_does(model):
    talk = Conversation(model, system="be brief")
    for question in ("one", "two", "three"):
        expected = alone(
            model, [*talk.messages, {"role": "user", "content": question}], max_tokens=6, **GREEDY
        )
        assert text_of(talk.reply(question, max_tokens=6, **GREEDY)) == expected
    assert [m["role"] for m in talk.messages] == ["system", *["user", "assistant"] * 3]


def ascii_only(model):
    """Ids that decode to themselves, so that text tokenizes back to what was generated."""
    return {i: -1e9 for i in range(257) if not 97 <= i <= 122}


def test_a_turn_feeds_only_what_is_new(model):
    talk = Conversation(model)
    bias = {"logit_bias": ascii_only(model), "max_tokens": 5}
    text_of(talk.reply("one", **bias))
    before = model.stats["tokens"]
    text_of(talk.reply("two", **bias))
    # The last token of the answer, <|im_end|>, the question in its dress, then four answers.
    fed = 1 + len("\0<user>two\0<assistant>".replace("\0", "E")) + 4
    assert model.stats["tokens"] - before == fed


def test_text_that_tokenizes_otherwise_goes_back_to_the_snapshot(model):
    # Raw bytes that are no UTF-8 come back as U+FFFD: three other ids in the history.
    broken = {"logit_bias": {i: -1e9 for i in range(257) if i != 0xFF}, "max_tokens": 3}
    talk = Conversation(model)
    assert "\N{REPLACEMENT CHARACTER}" in text_of(talk.reply("one", **broken))
    expected = alone(
        model, [*talk.messages, {"role": "user", "content": "two"}], max_tokens=6, **GREEDY
    )
    before = model.stats["tokens"]
    assert text_of(talk.reply("two", max_tokens=6, **GREEDY)) == expected
    prompt = model.tokenizer.apply_template(talk.messages[:-1])
    assert model.stats["tokens"] - before < len(model.tokenizer.encode(prompt)) + 5


def test_a_template_that_rewrites_the_past_starts_over(tmp_path, folder):
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "chat_template.jinja").write_text(
        "{{ messages | length }}{{ messages[-1].content }}"
    )
    model = moeflux.load(tmp_path, memory="128MiB", context=256)
    talk = Conversation(model)
    text_of(talk.reply("one", max_tokens=4, **GREEDY))
    expected = alone(
        model, [*talk.messages, {"role": "user", "content": "two"}], max_tokens=4, **GREEDY
    )
    assert text_of(talk.reply("two", max_tokens=4, **GREEDY)) == expected


def test_an_answer_cut_short_stays_as_far_as_it_went(model):
    talk = Conversation(model)
    stream = talk.reply("one", max_tokens=50, logit_bias=ascii_only(model))
    said = next(stream).text + next(stream).text
    stream.close()
    assert talk.messages[-1] == {"role": "assistant", "content": said}
    expected = alone(
        model, [*talk.messages, {"role": "user", "content": "two"}], max_tokens=6, **GREEDY
    )
    assert text_of(talk.reply("two", max_tokens=6, **GREEDY)) == expected


def test_a_question_without_an_answer_is_taken_back(model):
    talk = Conversation(model)
    with pytest.raises(moeflux.SessionError, match=r"context of 256"):
        text_of(talk.reply("x" * 300))
    with pytest.raises(moeflux.SessionError, match="temperature"):
        text_of(talk.reply("one", temperature=-1))
    assert talk.messages == []
    assert text_of(talk.reply("one", max_tokens=4, **GREEDY)) == alone(
        model, [{"role": "user", "content": "one"}], max_tokens=4, **GREEDY
    )


def test_the_penalty_sees_the_whole_talk(model):
    options = {**GREEDY, "max_tokens": 8, "repetition_penalty": 1e6}  # no token comes twice
    talk, messages = Conversation(model), [{"role": "user", "content": "one"}]
    for question in ("two", "three"):
        answer = alone(model, messages, **options)
        assert text_of(talk.reply(messages[-1]["content"], **options)) == answer
        messages = [*talk.messages, {"role": "user", "content": question}]


def test_where_feeding_ends_early_as_much_is_held_as_the_session_holds(model, monkeypatch):
    talk = Conversation(model)
    text_of(talk.reply("one", max_tokens=4, **GREEDY))
    with monkeypatch.context() as patch, pytest.raises(moeflux.IoError):
        patch.setattr(talk._session, "step", failing_step)
        next(talk.reply("two"))
    assert talk.n_held == talk._session.position and len(talk.messages) == 2
    expected = alone(
        model, [*talk.messages, {"role": "user", "content": "two"}], max_tokens=4, **GREEDY
    )
    assert text_of(talk.reply("two", max_tokens=4, **GREEDY)) == expected


def failing_step(tokens):
    raise moeflux.IoError("a read failed")


def test_reset_keeps_the_system_message_only(model):
    talk = Conversation(model, system="be brief")
    first = text_of(talk.reply("one", max_tokens=4, **GREEDY))
    talk.reset()
    assert talk.messages == [{"role": "system", "content": "be brief"}] and talk.n_held == 0
    assert text_of(talk.reply("one", max_tokens=4, **GREEDY)) == first


def test_without_room_for_a_snapshot_the_answers_are_the_same(folder, model):
    small = moeflux.load(folder, memory=model.stats["live_bytes"] + 4096, context=256)
    one, two, crowd = Conversation(small), Conversation(model), []
    for talk in (one, two):  # from now on the cache is as large as it gets
        text_of(talk.reply("hm", max_tokens=2, **GREEDY))
    one._snapshot = None
    with pytest.raises(moeflux.MemoryBudgetError):
        while True:
            crowd.append(one._session.save())
    broken = {"logit_bias": {i: -1e9 for i in range(257) if i != 0xFF}, "max_tokens": 3}
    for options in (broken, {"max_tokens": 6, **GREEDY}):
        assert text_of(one.reply("hm", **options)) == text_of(two.reply("hm", **options))
    assert one._snapshot is None and two._snapshot is not None


def test_where_all_layers_are_attention_a_turn_goes_back_to_the_first_change(tmp_path):
    model = moeflux.load(build(tmp_path / "m", family="qwen3_moe", form="mlx-q4"),
                         memory="128MiB", context=256)  # fmt: skip
    broken = {"logit_bias": {i: -1e9 for i in range(257) if i != 0xFF}, "max_tokens": 3}
    talk = Conversation(model)
    assert "\N{REPLACEMENT CHARACTER}" in text_of(talk.reply("one", **broken))
    text_of(talk.reply("two", **broken))
    assert talk._snapshot is None
    expected = alone(
        model, [*talk.messages, {"role": "user", "content": "six"}], max_tokens=6, **GREEDY
    )
    prompt = model.tokenizer.apply_template(talk.messages[:-2])
    before = model.stats["tokens"]
    assert text_of(talk.reply("six", max_tokens=6, **GREEDY)) == expected
    assert model.stats["tokens"] - before < len(model.tokenizer.encode(prompt)) + 50


def test_a_snapshot_goes_where_the_answer_may_need_its_room(folder):
    context = 600
    small = moeflux.load(folder, memory=smallest_budget(folder, context=context), context=context)
    large = moeflux.load(folder, memory="128MiB", context=context)
    one, two = Conversation(small), Conversation(large)
    options = {"max_tokens": context, "logit_bias": ascii_only(large)}
    assert text_of(one.reply("x" * 200, **options)) == text_of(two.reply("x" * 200, **options))
    assert one.n_held == context and one._snapshot is None and two._snapshot is not None


def test_the_command_answers_line_by_line(folder):
    done = run_moeflux("chat", "-m", folder, "-t", "0", "-n", "5",
                       stdin="one\n/reset\none\n/exit\n")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("tok/s") == 2
    lines = done.stdout.split("\n")
    assert len(lines) % 2 == 1 and lines[: len(lines) // 2] == lines[len(lines) // 2 : -1]


def test_the_command_survives_a_question_past_the_context(folder):
    done = run_moeflux("chat", "-m", folder, "--context", "64", "-n", "4", "-t", "0",
                       stdin="x" * 200 + "\none\n")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "/reset starts over" in done.stderr and done.stderr.count("tok/s") == 1


def test_the_command_names_generate_where_there_is_no_template():
    done = run_moeflux("chat", "--memory", "32MB", stdin="one\n")
    assert done.returncode == 1 and "moeflux generate" in done.stderr


def test_control_c_stops_the_answer_and_not_the_chat(folder):
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "moeflux.cli", "chat", "-m", str(folder), "-n", "100000",
         "--context", "200000", "-t", "1", "--memory", "2GB"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    watchdog = threading.Timer(120, process.kill)  # reading a line has no time-out
    watchdog.start()
    try:
        process.stdin.write("one\n")
        process.stdin.flush()
        process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        line = ""
        while "stopped" not in line:
            line = process.stderr.readline()
            assert line
        _, err = process.communicate("/exit\n", timeout=60)
    finally:
        watchdog.cancel()
        process.kill()
    assert process.returncode == 0, err  # 100,000 tokens would have taken many minutes


def talked(model, *questions, **chat):
    talk = Conversation(model, **chat)
    for question in questions:
        text_of(talk.reply(question, max_tokens=5, logit_bias=ascii_only(model)))
    return talk


@pytest.fixture(params=["qwen3_next", "qwen3_moe"])
def two_loads(request, tmp_path, folder):
    """A model twice, and the checkpoint: with recurrent state, and of attention alone."""
    if request.param == "qwen3_moe":
        folder = build(tmp_path / "attention", family="qwen3_moe", form="mlx-q4")
    return *(moeflux.load(folder, memory="128MiB", context=256) for _ in range(2)), folder


def test_a_talk_goes_on_from_its_file_and_computes_only_what_is_new(tmp_path, two_loads):
    first, other, _ = two_loads
    talk = talked(first, "one", "two", system="be brief")
    talk.write(tmp_path / "talk")
    again = Conversation.read(other, tmp_path / "talk")
    assert again.messages == talk.messages and again.n_held > 0
    before = other.stats["tokens"]
    options = {"max_tokens": 5, "logit_bias": ascii_only(first)}
    assert text_of(again.reply("six", **options)) == text_of(talk.reply("six", **options))
    # What the kept state may lack (the last answer, where state cannot be cut), the question in
    # its dress, and five answers.
    assert other.stats["tokens"] - before <= 6 + len("E<user>six\0<assistant>") + 5
    again.reset()
    assert again.messages == talk.messages[:1]


def test_a_talk_without_its_state_says_the_same(tmp_path, two_loads):
    first, other, _ = two_loads
    talk = talked(first, "one", "two")
    talk.write(tmp_path / "talk", state=False)
    assert (tmp_path / "talk").stat().st_size < 2000
    again = Conversation.read(other, tmp_path / "talk")
    assert again.messages == talk.messages and again.n_held == 0
    assert text_of(again.reply("six", max_tokens=5, **GREEDY)) == text_of(
        talk.reply("six", max_tokens=5, **GREEDY)
    )


def test_a_talk_at_another_precision_is_computed_again(tmp_path, two_loads):
    first, _, folder = two_loads
    talk = talked(first, "one", "two")
    talk.write(tmp_path / "talk")
    other = moeflux.load(folder, memory="128MiB", context=256, precision="int8")
    again = Conversation.read(other, tmp_path / "talk")
    assert again.messages == talk.messages and again.n_held == 0
    expected = alone(other, [*talk.messages, {"role": "user", "content": "x"}], max_tokens=4,
                     **GREEDY)  # fmt: skip
    assert text_of(again.reply("x", max_tokens=4, **GREEDY)) == expected


def test_a_talk_that_finds_no_memory_for_its_state_is_computed_again(tmp_path, two_loads):
    first, _, folder = two_loads
    talk = talked(first, "x" * 150)
    talk.write(tmp_path / "talk")
    small = moeflux.load(folder, memory=smallest_budget(folder, context=256), context=256)
    crowd = []
    for take in (small.session, lambda: crowd[0].save()):
        with pytest.raises(moeflux.MemoryBudgetError):
            while len(crowd) < 10_000:  # snapshots of nothing but a cache take nothing
                crowd.append(take())
            raise moeflux.MemoryBudgetError
    del crowd[0]  # room for a session, not for a snapshot
    again = Conversation.read(small, tmp_path / "talk")
    assert again.messages == talk.messages and again.n_held == 0


def test_files_of_other_models_and_of_no_talk_are_refused(tmp_path, model, folder):
    other = moeflux.load(
        build(tmp_path / "m", family="qwen3_next", form="mlx-q4", seed=9), memory="128MiB"
    )
    talked(model, "one").write(tmp_path / "talk")
    with pytest.raises(moeflux.FormatError, match="expected a snapshot of this model: weights"):
        Conversation.read(other, tmp_path / "talk")
    for note in ("", "null", "{}", '{"talk": [], "system": 1}', '{"talk": [1], "system": null}',
                 '{"talk": [{"role": "user", "content": null}], "system": null}', "[" * 10**5,
                 '{"talk": [{"role": "user", "content": "\\ud800"}], "system": null}'):  # fmt: skip
        model.session().save().write(tmp_path / "s", note=note)
        with pytest.raises(moeflux.FormatError, match=r"\[chat\] expected the file of a talk"):
            Conversation.read(model, tmp_path / "s")
    with pytest.raises(moeflux.SessionError, match=r"system: expected None.*found 'other'"):
        Conversation.read(model, tmp_path / "talk", "other")


def command(folder, file, *args, stdin):
    done = run_moeflux("chat", "-m", folder, "--resume", file, "--context", "256", "-t", "0",
                       "-n", "5", *args, stdin=stdin)  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_the_command_goes_on_with_a_talk(tmp_path, folder):
    whole = command(folder, tmp_path / "one", stdin="one\ntwo\nsix\n")
    first = command(folder, tmp_path / "talk", stdin="one\ntwo\n/exit\n")
    size = (tmp_path / "talk").stat().st_size
    then = command(folder, tmp_path / "talk", stdin="six\n")
    assert whole[0] == first[0] == then[0] == 0, whole[2] + first[2] + then[2]
    assert first[1] + then[1] == whole[1]
    assert "questions before" not in first[2] and "[2 questions before, " in then[2]
    assert size > 10_000  # with its state
    last = command(folder, tmp_path / "talk", stdin="")  # a look at it changes nothing
    assert last[0] == 0 and "[3 questions before, " in last[2]


def test_the_command_refuses_what_is_no_talk(tmp_path, folder):
    (tmp_path / "text").write_text("my notes, which shall stay")
    for file, words in ((tmp_path / "text", "expected a file of a snapshot, found another"),
                        (tmp_path / "none" / "talk", "expected a folder to write to"),
                        (tmp_path, "Is a directory")):  # fmt: skip
        status, out, err = command(folder, file, stdin="one\n")
        assert status == 1 and not out and words in err and "Traceback" not in err
    assert (tmp_path / "text").read_text() == "my notes, which shall stay"
    other = build(tmp_path / "m", family="qwen3_next", form="mlx-q4", seed=9)
    assert command(other, tmp_path / "talk", stdin="one\n")[0] == 0
    status, _, err = command(folder, tmp_path / "talk", stdin="one\n")
    assert status == 1 and "expected a snapshot of this model: weights" in err


def test_a_chat_that_is_killed_keeps_what_was_said(tmp_path, folder):
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "moeflux.cli", "chat", "-m", str(folder), "-n", "5", "-t", "0",
         "--context", "256", "--resume", str(tmp_path / "talk")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    try:
        process.stdin.write("one\ntwo\n")
        process.stdin.flush()
        answered = 0
        while answered < 2:
            line = process.stderr.readline()
            assert line
            answered += "in context]" in line
        process.stdin.write("six\n")  # the second answer is kept before this is read
        process.stdin.flush()
        while "in context]" not in process.stderr.readline():
            pass
    finally:
        process.kill()
        process.communicate()
        watchdog.cancel()
    status, _, err = command(folder, tmp_path / "talk", stdin="")
    assert status == 0 and ("[2 questions before" in err or "[3 questions before" in err)
