"""Text out: stops, ends, probabilities, sessions, streaming of characters; templates."""

import json
import os
import threading
import time

import numpy as np
import pytest

import moeflux
from moeflux.generation import StopStrings
from moeflux.tokenizer import REPLACEMENT, Tokenizer
from oracle import build
from support.numpy_sampler import log_softmax


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("generation") / "m", family="qwen3_moe", form="mlx-q4")


@pytest.fixture(scope="module")
def model(folder):
    return moeflux.load(folder, memory="128MiB", context=96)


def with_files(tmp_path, folder, **files):
    """A folder with the checkpoint's files, some JSON ones replaced."""
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    for name, content in files.items():
        path = tmp_path / name.replace("__", ".")
        path.unlink(missing_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return tmp_path


def parts(model, prompt="Hello", **options):
    return list(moeflux.stream_generate(model, prompt, **options))


def tokens(found):
    return [part.token for part in found if part.token is not None]


def test_greedy_generation_equals_stepping_by_hand(model):
    ids = model.tokenizer.encode("Hello")
    session, expected = model.session(), []
    logits = session.step(ids)
    for _ in range(10):
        expected.append(int(np.argmax(logits)))
        logits = session.step(expected[-1:])
    found = parts(model, max_tokens=10, logit_bias={256: -1e9})
    if 256 not in expected:
        assert tokens(found) == expected
    assert found[-1].finish_reason == "length"
    assert "".join(p.text for p in found) == moeflux.generate(
        model, "Hello", max_tokens=10, logit_bias={256: -1e9}
    )


def test_seed_makes_sampling_reproducible(model):
    options = {"temperature": 1.0, "seed": 3, "max_tokens": 20}
    assert tokens(parts(model, **options)) == tokens(parts(model, **options))


def test_max_tokens_zero_and_one(model):
    assert [p.finish_reason for p in parts(model, max_tokens=0)] == ["length"]
    assert len(tokens(parts(model, max_tokens=1, logit_bias={256: -1e9}))) == 1


def test_logprobs_are_those_of_the_softmax_and_sorted(model):
    logits = model.session().step(model.tokenizer.encode("Hello"))
    expected = log_softmax(logits.astype(np.float64))
    first = parts(model, max_tokens=1, top_logprobs=5, logit_bias={256: 0.0})[0]
    if first.token is not None:
        assert first.logprob == pytest.approx(expected[first.token])
        assert [i for i, _ in first.top] == np.argsort(-expected, kind="stable")[:5].tolist()


def test_context_filled_to_the_brim_is_a_length_and_no_error(model):
    found = parts(model, [65] * 90, max_tokens=1000, logit_bias={256: -1e9})
    assert len(tokens(found)) == 96 - 90 + 1 and found[-1].finish_reason == "length"
    assert len(tokens(parts(model, [65] * 96, max_tokens=9, logit_bias={256: -1e9}))) == 1


def test_every_eos_id_ends_the_text_and_generation_config_overrides(tmp_path, folder, model):
    first = tokens(parts(model, max_tokens=3, logit_bias={256: -1e9}))
    other = moeflux.load(
        with_files(tmp_path, folder, generation_config__json={"eos_token_id": [250, first[1]]}),
        memory="128MiB", context=96,
    )  # fmt: skip
    found = parts(other, max_tokens=9, logit_bias={256: -1e9})
    assert tokens(found) == first[: first.index(first[1])]
    assert found[-1].finish_reason == "eos"
    assert {250, first[1]} <= other.tokenizer.eos_ids


def continued(model, session, ids):
    """The session holds these ids: the next step's bits are those of one that was fed them."""
    assert session.position == len(ids)
    fed = model.session()
    fed.step(ids)
    return np.array_equal(session.step([10]), fed.step([10]))


NO_END = {"logit_bias": {256: -1e9}}
HELLO = list(b"Hello")


@pytest.mark.parametrize("way", ["length", "stop", "closed", "eos", "error"])
def test_a_session_holds_every_token_shown_however_the_generation_ended(model, monkeypatch, way):
    session = model.session()
    first = tokens(parts(model, max_tokens=6, **NO_END))
    options = {"length": NO_END, "closed": NO_END, "error": NO_END, "eos": {},
               "stop": NO_END | {"stop": model.tokenizer.decode(first[2:4])}}[way]  # fmt: skip
    if way == "eos":
        monkeypatch.setattr(model.tokenizer, "eos_ids", {first[4]})
    stream, shown = moeflux.stream_generate(model, "Hello", session=session, max_tokens=6,
                                            **options), []  # fmt: skip
    for part in stream:
        shown += [] if part.token is None else [part.token]
        assert session.position == 5 + len(shown)
        if len(shown) == 3 and way == "closed":
            stream.close()
        if len(shown) == 3 and way == "error":
            break
    if way == "error":
        monkeypatch.setattr(session, "_native", Failing(session._native))
        with pytest.raises(moeflux.IoError):
            next(stream)
        monkeypatch.undo()
        assert session.position == 5 + 3
    assert shown == first[: len(shown)] and len(shown) == {"length": 6, "eos": 4}.get(
        way, len(shown)
    )
    assert continued(model, session, HELLO + shown)


class Failing:
    """A native session whose next step fails."""

    def __init__(self, native):
        self._native, self.position, self.model = native, native.position, self

    def step_batch(self, *_):
        raise moeflux.IoError("planted")


def test_a_session_of_a_generation_continues_through_every_call(model):
    def used():
        session = model.session()
        return session, HELLO + tokens(parts(model, session=session, max_tokens=4, **NO_END))

    session, held = used()
    again = tokens(parts(model, "again", session=session, max_tokens=1, **NO_END))
    assert continued(model, session, [*held, *b"again", *again])
    session, held = used()
    snapshot = session.save()
    session.reset()
    assert session.position == 0
    session.restore(snapshot)
    assert continued(model, session, held)
    one, held = used()
    two = model.session()
    logits = model.step_batch([(one, [7]), (two, [8])])
    fed = model.session()
    assert np.array_equal(logits[0], fed.step([*held, 7])) and one.position == len(held) + 1
    session, held = used()
    fed.reset()
    fed.step(held)
    assert np.array_equal(session.score([7, 8])[1:], fed.score([7, 8])[1:])
    session, held = used()
    seen = session.step([7, 8], all_logits=True, capture={"experts"})
    assert seen["logits"].shape[0] == seen["experts"].shape[0] == 2


def test_a_prompt_that_fills_a_session_is_held_and_nothing_is_shown(model):
    session = model.session()
    assert [p.text for p in parts(model, [65] * 96, session=session, max_tokens=3)] == [""]
    assert session.position == 96
    session = model.session()
    found = parts(model, [65] * 90, session=session, max_tokens=1000, **NO_END)
    assert len(tokens(found)) == 6 and session.position == 96
    assert found[-1].finish_reason == "length"
    assert [p.finish_reason for p in parts(model, "", session=session)] == ["length"]
    with pytest.raises(moeflux.SessionError, match="context"):
        parts(model, "x", session=session)
    session.reset()
    parts(model, "Hello", session=session, max_tokens=0)
    assert continued(model, session, HELLO)


@pytest.mark.parametrize("empty", ["", []])
@pytest.mark.parametrize("capture", [None, {"experts"}])
def test_an_empty_prompt_goes_on_where_the_session_stands(model, monkeypatch, empty, capture):
    whole = tokens(parts(model, max_tokens=9, **NO_END))
    session = model.session()
    first = tokens(parts(model, session=session, max_tokens=4, **NO_END))
    found = parts(model, empty, session=session, max_tokens=5, capture=capture, **NO_END)
    assert first + tokens(found) == whole
    assert not capture or found[0].captured["experts"].shape[0] == 1
    stepped = model.session()
    stepped.step(HELLO)[:] = 0  # the caller's array is the caller's
    assert tokens(parts(model, empty, session=stepped, max_tokens=9, **NO_END)) == whole
    monkeypatch.setattr(model.tokenizer, "eos_ids", {whole[4]})
    for _ in range(2):  # after an end, too
        ended = model.session()
        assert tokens(parts(model, session=ended, **NO_END)) == whole[:4]
        assert [p.finish_reason for p in parts(model, empty, session=ended)] == ["eos"]


@pytest.mark.parametrize("after", ["nothing", "reset", "restore", "score"])
def test_without_a_last_step_there_is_nothing_to_go_on_from(model, after):
    session = model.session()
    if after != "nothing":
        session.step(HELLO)
        getattr(session, after)(*{"restore": [session.save()], "score": [[1]]}.get(after, []))
    for empty in ("", []):
        with pytest.raises(moeflux.SessionError, match="empty"):
            parts(model, empty, session=session)


@pytest.mark.parametrize("prompt", ["", []])
def test_empty_prompt_is_refused(model, prompt):
    with pytest.raises(moeflux.SessionError, match="empty"):
        parts(model, prompt)


def test_prompt_past_the_context_is_refused_with_numbers(model):
    with pytest.raises(moeflux.SessionError, match=r"97 tokens.*96"):
        parts(model, [65] * 97)


@pytest.mark.parametrize("bad", [[-1], [257], [2**32], [2**70], [1.5], [[1, 2]], ["a"]])
def test_what_is_no_token_is_refused_and_the_session_lives(model, bad):
    session = model.session()
    before = session.step([65, 66])
    with pytest.raises((moeflux.SessionError, TypeError)):
        session.step(bad)
    assert session.position == 2
    session.reset()
    assert np.array_equal(session.step([65, 66]), before)


def test_stop_strings_are_found_across_pieces_and_never_shown():
    """Of two letters, so that beginnings of stop strings overlap in every way."""
    random = np.random.Generator(np.random.PCG64(8))

    def letters(most):
        return "".join(random.choice(["a", "b"], random.integers(1, most + 1)))

    for _ in range(2000):
        text, wanted = letters(12), [letters(5) for _ in range(random.integers(1, 4))]
        stops, shown, stopped, left = StopStrings(wanted), "", False, text
        while left and not stopped:
            size = random.integers(1, 4)
            piece, stopped = stops.push(left[:size])
            shown, left = shown + piece, left[size:]
        # Of stop strings that have come, the one that begins first: those of one piece are seen
        # together.
        come = text[: len(text) - len(left)]
        ends = [come.find(stop) for stop in wanted if stop in come]
        assert shown + ("" if stopped else stops.finish()) == come[: min(ends, default=None)]
        assert stopped == any(stop in text for stop in wanted)


def test_a_stop_string_without_letters_ends_nothing(model):
    options = {"max_tokens": 5, **NO_END}
    for stop in ("", [""], ["", "no such text"]):
        assert moeflux.generate(model, "Hello", stop=stop, **options) == moeflux.generate(
            model, "Hello", **options
        )


def test_stop_string_ends_a_generation(model):
    options = {"max_tokens": 30, "temperature": 1.0, "seed": 5, "logit_bias": {256: -1e9}}
    whole = moeflux.generate(model, "Hello", **options)
    stop = next(whole[i : i + 2] for i in range(3, len(whole)) if REPLACEMENT not in whole[: i + 2])
    found = parts(model, stop=stop, **options)
    assert found[-1].finish_reason == "stop"
    assert "".join(p.text for p in found) == whole[: whole.index(stop)]


def test_the_first_of_two_stop_strings_ends_the_text_whatever_their_order():
    for stops in (["ef", "bc"], ["bc", "ef"]):
        assert StopStrings(stops).push("abcdefg") == ("a", True)


def test_a_stop_string_in_text_that_was_held_back_to_the_end_is_seen(model):
    """The last bytes are no whole character: what they show as comes with the closing part."""
    only = {i: -1e9 for i in range(257) if i != 0xFF}
    assert moeflux.generate(model, "Hello", max_tokens=3, logit_bias=only) == 3 * REPLACEMENT
    found = parts(model, max_tokens=3, logit_bias=only, stop=2 * REPLACEMENT)
    assert "".join(p.text for p in found) == "" and found[-1].finish_reason == "stop"


def test_logprobs_are_those_before_bias_temperature_and_filters(model):
    logits = model.session().step(model.tokenizer.encode("Hello"))
    expected = log_softmax(logits.astype(np.float64))
    for seed in range(5):
        first = parts(model, max_tokens=1, temperature=3.0, top_k=9, top_p=0.8, seed=seed,
                      top_logprobs=3, **NO_END)[0]  # fmt: skip
        assert first.logprob == pytest.approx(expected[first.token])
        assert [lp for _, lp in first.top] == pytest.approx(sorted(expected)[:-4:-1])


def test_as_many_alternatives_are_told_as_were_asked_for_whatever_is_forbidden(model):
    few = {i: -np.inf for i in range(257) if i not in (65, 66, 67)}
    free = parts(model, max_tokens=1, top_logprobs=5)[0].top
    found = parts(model, max_tokens=2, top_logprobs=5, logit_bias=few)[:-1]
    assert all(len(part.top) == 5 and part.token in (65, 66, 67) for part in found)
    assert found[0].top == free


def penalised(model, ids, history, n, penalty):
    """Greedy tokens under the penalty, as its paper tells it: of everything that came before."""
    session, seen, found = model.session(), {*history, *ids}, []
    logits = session.step(ids)
    for _ in range(n):
        adjusted = [x / penalty if x > 0 else x * penalty for x in logits.astype(np.float64)]
        scores = [adjusted[i] if i in seen else float(logits[i]) for i in range(256)]
        found.append(int(np.argmax(scores)))
        seen.add(found[-1])
        logits = session.step(found[-1:])
    return found


@pytest.mark.parametrize("where", ["history", "prompt", "output"])
def test_the_penalty_sees_every_token_however_long_ago(model, where):
    best = tokens(parts(model, max_tokens=3, **NO_END))  # what it says where nothing is penalised
    old = [*best, *[66] * 70]
    history, prompt, n = {"history": (old, [72], 9), "prompt": ([], old, 9),
                          "output": ([], [72], 80)}[where]  # fmt: skip
    options = {"max_tokens": n, "repetition_penalty": 1e3, "history": history, **NO_END}
    assert tokens(parts(model, prompt, **options)) == penalised(model, prompt, history, n, 1e3)


@pytest.mark.parametrize(
    "text", ["naïve 🙂 emoji 👩‍👩‍👧", "漢字かな交じり文", "e\u0301 combining", "plain"]
)
def test_characters_streamed_token_by_token_equal_the_whole_and_are_never_broken(model, text):
    tokenizer = model.tokenizer
    stream, shown = tokenizer.stream(), []
    for token in tokenizer.encode(text):
        shown.append(stream.push(token))
    shown.append(stream.finish())
    assert "".join(shown) == tokenizer.decode(tokenizer.encode(text)) == text
    assert not any(REPLACEMENT in piece for piece in shown)


def tokenizer_of(tmp_path, folder, **files):
    path = with_files(tmp_path, folder, **files)
    return Tokenizer(path, json.loads((path / "config.json").read_text()))


CHAT = [{"role": "user", "content": "hi"}]


def test_of_several_templates_the_default_one_is_taken(tmp_path, folder):
    named = [{"name": name, "template": name} for name in ("tool_use", "default", "rag")]
    files = {"tokenizer_config__json": {"chat_template": named}}
    found = tokenizer_of(tmp_path, folder, **files).apply_template(CHAT)
    assert found == "default"


@pytest.mark.parametrize("form", ["string", "list", "file"])
def test_chat_template_is_found_in_every_place(tmp_path, folder, form):
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}!"
    files = {
        "string": {"tokenizer_config__json": {"chat_template": template}},
        "list": {"tokenizer_config__json": {
            "chat_template": [{"name": "default", "template": template}]}},
        "file": {"chat_template__jinja": template},
    }[form]  # fmt: skip
    assert tokenizer_of(tmp_path, folder, **files).apply_template(CHAT) == "<user>hi!"


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('no') }}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{{ 'x' * 100000 }}{% endfor %}",
        "{{ 'x' * 10**12 }}",
        "{{ 9**(9**9) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% if %}",
        "{{ missing.field }}",
    ],
)
def test_hostile_templates_end_in_a_typed_error_soon(tmp_path, folder, template, monkeypatch):
    monkeypatch.setattr("moeflux.renderer.MAX_SECONDS", 1)
    tokenizer = tokenizer_of(tmp_path, folder, chat_template__jinja=template)
    with pytest.raises(moeflux.TemplateError):
        tokenizer.apply_template(CHAT)


def test_broken_tokenizer_is_a_format_error_that_names_the_file(tmp_path, folder):
    for content in ("", "{}", '{"version": 1}', "\x00"):
        for path in tmp_path.iterdir():
            path.unlink()
        with pytest.raises(moeflux.FormatError, match=r"tokenizer\.json"):
            tokenizer_of(tmp_path, folder, tokenizer__json=content)


def test_a_file_truncated_while_open_is_an_io_error_and_the_session_is_as_before(tmp_path, folder):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    shards = sorted(tmp_path.glob("*.safetensors"))
    contents = [path.read_bytes() for path in shards]
    model = moeflux.load(tmp_path, memory="128MiB", context=96, max_slots=4)
    session = model.session()
    session.step([65, 66, 67])
    for path in shards:
        os.truncate(path, 5000)
    with pytest.raises(moeflux.IoError, match="safetensors"):
        session.step(list(range(40)))
    assert session.position == 3
    for path, content in zip(shards, contents, strict=True):
        with path.open("r+b") as stream:
            stream.write(content)
    again = session.step(list(range(40)))
    fresh = moeflux.load(folder, memory="128MiB", context=96).session()
    fresh.step([65, 66, 67])
    assert np.array_equal(again, fresh.step(list(range(40))))


def test_nan_scale_of_an_expert_is_an_error_at_the_step_that_reads_it(tmp_path, folder):
    from moeflux.checkpoint import open_checkpoint

    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    checkpoint = open_checkpoint(tmp_path)
    tensor = checkpoint.tensors["model.layers.1.mlp.switch_mlp.up_proj.scales"]
    with checkpoint.files[tensor.file].open("r+b") as stream:  # one NaN in every expert
        size = tensor.nbytes // tensor.shape[0]
        for expert in range(tensor.shape[0]):
            stream.seek(tensor.offset + expert * size + size // 2)
            stream.write(b"\xc0\x7f")
    for _ in range(50):  # each model goes away while its readers still meet NaNs
        session = moeflux.load(tmp_path, memory="128MiB", context=96).session()
        with pytest.raises(moeflux.FormatError, match=r"expert \d+ of MoE layer 1 .*safetensors"):
            session.step(list(range(60)))
        assert session.position == 0


def test_removed_files_are_still_read(tmp_path, folder, model):
    """An open file outlives its name: deleting a model in use disturbs nothing."""
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    other = moeflux.load(tmp_path, memory="128MiB", context=96, max_slots=4)
    for path in tmp_path.iterdir():
        path.unlink()
    assert np.array_equal(other.session().step([65] * 9), model.session().step([65] * 9))


def test_other_threads_run_while_a_step_computes(model):
    """The GIL is released: a counting thread makes progress during steps."""
    count, stop = [0], threading.Event()

    def work():
        while not stop.is_set():
            count[0] += 1
            time.sleep(0)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        begin = count[0]
        for _ in range(5):
            model.session().step(list(range(90)))
        assert count[0] > begin
    finally:
        stop.set()
        thread.join()


def test_two_threads_share_a_model(model):
    expected = model.session().step(list(range(40)))
    results = [None] * 4

    def work(index):
        results[index] = model.session().step(list(range(40)))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(result, expected) for result in results)


@pytest.mark.parametrize(
    "prompt", ["\ud800", ["a"], [1.5], [-1], [2**32]], ids=lambda prompt: ascii(prompt)
)
def test_what_is_no_prompt_is_refused(model, prompt):
    with pytest.raises(moeflux.SessionError, match="expected"):
        moeflux.generate(model, prompt, max_tokens=1)


def test_a_session_of_another_model_is_refused(folder, model):
    other = moeflux.load(folder, memory="128MiB", context=96)
    with pytest.raises(moeflux.SessionError, match="another model"):
        moeflux.generate(model, "Hello", max_tokens=1, session=other.session())
    assert moeflux.generate(model, "Hello", max_tokens=1, session=model.session()) is not None


@pytest.mark.parametrize(
    ("name", "error"),
    [("tokenizer.json", moeflux.IoError), ("chat_template.jinja", moeflux.FormatError)],
)
def test_a_missing_tokenizer_and_a_template_of_bytes_are_typed(folder, tmp_path, name, error):
    for path in folder.iterdir():
        if path.name != name:
            (tmp_path / path.name).symlink_to(path)
    if name == "chat_template.jinja":
        (tmp_path / name).write_bytes(b"\xff\xfe{{ messages }}")
    with pytest.raises(error, match=name):
        Tokenizer(tmp_path, {})
