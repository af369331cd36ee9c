"""Arguments that make no sense: each is refused by name, and what makes sense is not.

A table of every argument of the public functions: it takes the values of WRONG that it names, and
refuses all others with an error of ours that says what was expected and found.
"""

import inspect
import re
import sys

import numpy as np
import pytest

import moeflux as mf
from moeflux import cli
from moeflux.arguments import show
from moeflux.conversation import Conversation
from oracle import build


class Hostile:
    """Has no repr and no truth."""

    def __repr__(self):
        raise RuntimeError("repr")

    def __bool__(self):
        raise RuntimeError("bool")


WRONG = {
    "none": None, "true": True, "minus": -1, "zero": 0, "one": 1, "2^32": 2**32,
    "huge": 10**6000, "half": 0.5, "-half": -0.5, "nan": float("nan"), "inf": float("inf"),
    "numpy nan": np.float32("nan"), "numpy -1": np.int64(-1), "numpy 1": np.uint8(1),
    "empty": "", "text": "x", "surrogate": "\ud800", "nul": "a\0b", "bytes": b"x", "list": [],
    "nested": [1, [2]], "texts": ["a"], "nones": [None], "ids": [1, 2], "id array": np.array([1]),
    "-1s": [-1], "2^70s": [2**70], "1e9s": [10**9], "halves": [0.5], "rows": np.array([[1, 2]]),
    "array of no dimension": np.array(1), "dict": {}, "ids to text": {1: "x"},
    "ids to nan": {1: float("nan")}, "ids to numbers": {1: 0.5}, "text to ids": {"a": [1]},
    "set": {"cpu"}, "class": int, "object": object(), "hostile": Hostile(),
}  # fmt: skip
WHOLE = "one, 2^32, huge, numpy 1"
FROM_0 = f"zero, {WHOLE}"
FLAG = "true"
NUMBERS = "one, numpy 1, half"
IDS = "ids, id array"
STRINGS = "empty, text, nul"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("m") / "m", family="qwen3_moe", form="mlx-q4")


@pytest.fixture(scope="module")
def model(folder):
    return mf.load(folder, memory="128MiB", context=64, threads=1)


@pytest.fixture(scope="module")
def device():
    return mf.Backend("host")


def load(folder, **options):
    return mf.load(**{"path": folder, "memory": "128MiB", "context": 64, "threads": 1} | options)


def generate(**options):
    if "messages" not in options:
        options = {"prompt": "Hello"} | options
    return mf.generate(**{"max_tokens": 1} | options)


def draw(**options):
    return generate(**{"temperature": 1.0, "seed": 1, "repetition_penalty": 1.5} | options)


def add(device, *args, **options):
    return device.dispatch("residual_add", *args, **options)


def small(size):
    """Without what some machines have the memory or the time for, and others not."""
    large = isinstance(size, int | list) and size in (2**32, [10**9])
    return -1 if large else size


def kept(model):
    """A snapshot of a token."""
    session = model.session()
    session.step([1])
    return session.save()


def operands(device):
    return [mf.Buffer.zeros(device, 8)] * 3 + [8]


# (function and argument, what it takes of WRONG, the call, words of a refusal when they are others)
OF_LOAD = [
    ("path", "none", "expected|config.json"),  # some have the form of a path and name nothing
    ("memory", "2^32", "memory"),  # one byte is too little, huge more than any machine has
    ("context", "one, numpy 1", ""),
    ("device", "", ""),
    ("precision", "", ""),
    ("kv", "none", ""),
    ("threads", "none, one, numpy 1", ""),
    ("max_slots", "none, 2^32, huge", ""),  # this model needs four
    ("rows", "none", "rows"),
    ("read_ahead", FLAG, ""),
    ("direct_io", FLAG, ""),
    ("revision", f"none, {STRINGS}", ""),
    ("offline", FLAG, ""),
]
OF_GENERATE = [
    ("model", "", ""),
    ("prompt", f"text, nul, {IDS}", "prompt|token ids below"),
    ("messages", "list", "messages|prompt"),
    ("max_tokens", FROM_0, ""),
    ("temperature", f"zero, 2^32, {NUMBERS}", ""),
    ("top_k", FROM_0, ""),
    ("top_p", NUMBERS, ""),
    ("min_p", f"zero, {NUMBERS}", ""),
    ("repetition_penalty", f"2^32, {NUMBERS}", ""),
    ("logit_bias", "none, dict, ids to numbers", ""),
    ("seed", f"none, {FROM_0}", ""),
    ("stop", f"none, list, texts, set, {STRINGS}", ""),
    ("top_logprobs", FROM_0, ""),
    ("session", "none", ""),
    ("history", f"list, {IDS}", ""),
    ("capture", "none, list", ""),
    ("cancel", "none, class", "a function"),
    ("routing", "none", ""),
]
TABLE = [
    *(("load", name, takes, lambda f, m, d, v, name=name: load(f, **{name: v}), says)
      for name, takes, says in OF_LOAD),
    *(("generate", name, takes, lambda f, m, d, v, name=name: draw(**{"model": m, name: v}), says)
      for name, takes, says in OF_GENERATE),
    ("session", "routing", "none", lambda f, m, d, v: m.session(routing=v), ""),
    ("step", "tokens", IDS, lambda f, m, d, v: m.session().step(v), "tokens?"),
    ("step", "all_logits", FLAG, lambda f, m, d, v: m.session().step([1], all_logits=v), ""),
    ("step", "capture", "none, list", lambda f, m, d, v: m.session().step([1], capture=v), ""),
    ("step", "routing", "none", lambda f, m, d, v: m.session().step([1], routing=v), ""),
    ("score", "tokens", IDS, lambda f, m, d, v: m.session().score(v), "tokens?"),
    ("score", "greedy", FLAG, lambda f, m, d, v: m.session().score([1], greedy=v), ""),
    ("score", "top", f"none, {FROM_0}", lambda f, m, d, v: m.session().score([1], top=v), ""),
    ("generate", "draft", "none", lambda f, m, d, v: generate(model=m, draft=v), ""),
    ("score", "following", "none, zero, one, numpy 1",
     lambda f, m, d, v: m.session().score([1], following=v), ""),
    ("score", "routing", "none", lambda f, m, d, v: m.session().score([1], routing=v), ""),
    ("restore", "snapshot", "", lambda f, m, d, v: m.session().restore(v), ""),
    ("write", "path", "text", lambda f, m, d, v: kept(m).write(v), "path: expected|cannot write"),
    ("write", "tokens", "none, id array",
     lambda f, m, d, v: kept(m).write("s", tokens=v), "tokens?"),
    ("write", "note", STRINGS, lambda f, m, d, v: kept(m).write("s", note=v), ""),
    ("read", "model", "", lambda f, m, d, v: mf.Snapshot.read(v, "s"), ""),
    ("read", "path", "", lambda f, m, d, v: mf.Snapshot.read(m, v),
     "path: expected|cannot read|regular file"),
    ("step_batch", "batch", "list", lambda f, m, d, v: m.step_batch(v), ""),
    ("step_batch", "batch", "", lambda f, m, d, v: m.step_batch([v]), ""),
    ("step_batch", "batch", "", lambda f, m, d, v: m.step_batch([(v, [1])]), ""),
    ("step_batch", "tokens", IDS, lambda f, m, d, v: m.step_batch([(m.session(), v)]), "tokens?"),
    ("step_batch", "all_logits", FLAG,
     lambda f, m, d, v: m.step_batch([(m.session(), [1])], all_logits=v), ""),
    ("step_batch", "capture", "none, list",
     lambda f, m, d, v: m.step_batch([(m.session(), [1])], capture=v), ""),
    ("step_batch", "sample", "none, list", lambda f, m, d, v: m.step_batch([], sample=v), ""),
    ("step_batch", "sample", "",
     lambda f, m, d, v: m.step_batch([(m.session(), [1])], sample=[v, v]), ""),
    ("Sampler", "params", "none", lambda f, m, d, v: mf.Sampler(v), ""),
    ("Sampler", "seen", f"list, {IDS}, 1e9s", lambda f, m, d, v: mf.Sampler(seen=v), ""),
    ("Sampler", "ends", f"list, {IDS}, 1e9s", lambda f, m, d, v: mf.Sampler(ends=v), ""),
    ("Sampler", "min_tokens", FROM_0, lambda f, m, d, v: mf.Sampler(min_tokens=v), ""),
    ("Sampler", "top_logprobs", f"none, {FROM_0}",
     lambda f, m, d, v: mf.Sampler(top_logprobs=v), ""),
    ("take", "token", "zero, one, numpy 1", lambda f, m, d, v: mf.Sampler().take(v), ""),
    ("choose", "logits", f"{IDS}, -1s, 1e9s, halves",
     lambda f, m, d, v: mf.Sampler().choose(v), ""),
    *(("SamplingParams", name, f"minus, zero, 2^32, -half, numpy -1, {NUMBERS}",
       lambda f, m, d, v, name=name: mf.SamplingParams(**{name: v}), "")
      for name in ("presence_penalty", "frequency_penalty")),
    ("Routing", "mask", f"empty, list, dict, {IDS}",
     lambda f, m, d, v: m.session(routing=mf.Routing(mask=v)), ""),
    ("Routing", "force", "none, dict",
     lambda f, m, d, v: m.session(routing=mf.Routing(force=v)), ""),
    ("Routing", "top_k", "none, one, numpy 1",
     lambda f, m, d, v: m.session(routing=mf.Routing(top_k=v)), ""),
    ("Conversation", "model", "", lambda f, m, d, v: Conversation(v), ""),
    ("Conversation", "system", f"none, {STRINGS}", lambda f, m, d, v: Conversation(m, v), ""),
    ("reply", "text", STRINGS,
     lambda f, m, d, v: list(Conversation(m).reply(v, max_tokens=1)), ""),
    ("encode", "text", STRINGS, lambda f, m, d, v: m.tokenizer.encode(v), ""),
    ("decode", "ids", f"list, bytes, {IDS}, 1e9s", lambda f, m, d, v: m.tokenizer.decode(v), ""),
    ("Backend", "kind", "none", lambda f, m, d, v: mf.Backend(v), ""),
    ("pipeline", "name", "", lambda f, m, d, v: d.pipeline(v), "no kernel"),
    ("pipeline", "constants", "none, dict",
     lambda f, m, d, v: d.pipeline("residual_add", v), "constant"),
    ("dispatch", "name", "", lambda f, m, d, v: d.dispatch(v, []), "no kernel"),
    ("dispatch", "args", "", lambda f, m, d, v: add(d, v), "arg"),
    ("dispatch", "grid", "none",
     lambda f, m, d, v: add(d, operands(d), grid=small(v)), "grid"),
    ("dispatch", "threadgroup", "none, one, numpy 1, id array",
     lambda f, m, d, v: add(d, operands(d), threadgroup=v), "threadgroup"),
    ("dispatch", "constants", "none, dict",
     lambda f, m, d, v: add(d, operands(d), constants=v), "constant"),
    ("dispatch", "wait", FLAG, lambda f, m, d, v: add(d, operands(d), wait=v), ""),
    ("commands", "wait", FLAG, lambda f, m, d, v: d.commands(v), ""),
    ("commands", "timed", FLAG, lambda f, m, d, v: d.commands(timed=v), ""),
    ("Buffer", "backend", "", lambda f, m, d, v: mf.Buffer(v, 8), ""),
    ("Buffer", "shape", "one, numpy 1, list, ids, id array",
     lambda f, m, d, v: mf.Buffer(d, small(v)), "shape"),
    ("Buffer", "dtype", "numpy nan, numpy 1", lambda f, m, d, v: mf.Buffer(d, 8, v), ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("argument", "takes", "call", "says"), [row[1:] for row in TABLE],
    ids=[f"{row[0]}-{row[1]}" for row in TABLE],
)  # fmt: skip
def test_what_an_argument_cannot_be_is_refused_by_name(
    folder, model, device, monkeypatch, tmp_path, argument, takes, call, says
):
    monkeypatch.chdir(tmp_path)  # no value is a folder's name there
    taken = []
    for name, value in WRONG.items():
        try:
            call(folder, model, device, value)
        except mf.MoefluxError as error:
            message = str(error)
            pattern = says or rf"\b{argument}\b.*: expected .*, found "
            assert re.search(pattern, message), f"{name}: {message}"
            assert "\n" not in message and len(message) < 300
        else:
            taken.append(name)
    assert taken == [name for name in WRONG if name in takes.split(", ")]


def test_the_table_has_every_argument():
    rows = {(row[0], row[1]) for row in TABLE}
    functions = {
        "load": mf.load, "generate": mf.stream_generate, "session": mf.Model.session,
        "step_batch": mf.Model.step_batch, "step": mf.Session.step, "score": mf.Session.score,
        "restore": mf.Session.restore, "Sampler": mf.Sampler, "Routing": mf.Routing,
        "Conversation": Conversation, "write": mf.Snapshot.write, "read": mf.Snapshot.read,
        "Backend": mf.Backend, "pipeline": mf.Backend.pipeline, "dispatch": mf.Backend.dispatch,
        "commands": mf.Backend.commands, "Buffer": mf.Buffer,
    }  # fmt: skip
    for name, function in functions.items():
        every = inspect.signature(function).parameters.items()
        arguments = {name for name, of in every if of.kind is not of.VAR_KEYWORD}
        arguments -= {"self", "progress"}  # test_lifetime.py: what it is given is its own affair
        assert arguments <= {row[1] for row in rows if row[0] == name}, name
    assert set(mf.SamplingParams.__dataclass_fields__) <= {row[1] for row in rows}


@pytest.mark.parametrize(
    ("messages", "fits"),
    [([{"role": "user", "content": "hi"}], True), ([{"role": "user"}], True), ("hi", False),
     ([{"role": 1, "content": "hi"}], False), ([{"content": "hi"}], False), (["hi"], False),
     ([{"role": "user", "content": "\ud800"}], False), ({"role": "user"}, False),
     ([{"role": "user", "content": b"hi"}], False),
     ([{"role": "user", "content": set()}], False)],
    ids=ascii,
)  # fmt: skip
def test_messages_are_dicts_of_text(model, messages, fits):
    if fits:
        generate(model=model, messages=messages)
    else:
        with pytest.raises(mf.SessionError, match=r"messages: expected .* found"):
            generate(model=model, messages=messages)


def test_ids_that_no_logits_have_are_refused_before_the_prompt_is_computed(model):
    session = model.session()
    for options in ({"logit_bias": {model.vocab_size: 1.0}}, {"history": [model.vocab_size]}):
        with pytest.raises(mf.SessionError, match=rf"{next(iter(options))}.*{model.vocab_size}"):
            generate(model=model, session=session, **options)
    assert session.position == 0


def test_what_has_no_repr_or_too_much_of_it_is_shown_all_the_same():
    assert "Hostile" in show(Hostile()) and "int" in show(10**6000)
    assert len(show("x" * 10**6)) < 100 and len(show(list(range(10**6)))) < 100
    assert "\n" not in show(np.zeros((9, 9)))


NUMBER = {"generate": ["--context", "--threads", "--max-tokens", "--temperature", "--top-k",
                       "--top-p", "--min-p", "--repetition-penalty", "--seed"],
          "plan": ["--context", "--threads", "--hit-rate"],
          "bench": ["--threads", "--sequences", "--prompt", "--tokens", "--warmup"],
          "synth": ["--layers", "--skew"]}  # fmt: skip
WORD = {"generate": ["--device", "--precision", "--memory"],
        "plan": ["--device", "--precision", "--memory"],
        "bench": ["--device", "--precision", "--memory"],
        "synth": ["--shape", "--set"]}  # fmt: skip
NUMBER["chat"], WORD["chat"] = NUMBER["generate"], WORD["generate"]
OPTIONS = [
    (command, option, value)
    for table, values in ((NUMBER, ("x", "-1", "nan", "")), (WORD, ("x", "", "1,,2", "\udcff")))
    for command, options in table.items()
    for option in options
    for value in values
]


@pytest.mark.parametrize(("command", "option", "value"), OPTIONS, ids=ascii)
def test_an_option_that_makes_no_sense_is_refused_by_name(
    command, option, value, monkeypatch, capsys, tmp_path
):
    monkeypatch.chdir(tmp_path)
    rest = {"generate": ["x"], "synth": [str(tmp_path / "new")]}.get(command, [])
    monkeypatch.setattr(sys, "argv", ["moeflux", command, *rest, option, value])
    with pytest.raises(SystemExit) as end:
        cli.main()
    err = capsys.readouterr().err
    name = {"--layers": "layers", "--set": "key=value"}.get(option, option[2:])
    assert end.value.code in (1, 2)
    err = "\n".join(line for line in err.splitlines() if line.strip())
    assert name in err.replace("_", "-") or (option == "--hit-rate" and "hit_rate" in err)
    if end.value.code == 1:  # ours; 2 is typer's for what is no number at all
        assert len(err.splitlines()) == 1 and "expected" in err
        assert "found" in err or "--memory" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "words"),
    [(["bench", "--prompt", str(2**32)], "context: expected"),
     (["bench", "--warmup", str(2**24)], "context: expected"),
     (["bench", "--sequences", "1000000000", "--memory", "24MB", "--prompt", "4", "-n", "1",
       "--warmup", "0"], "no room"),
     (["generate", "x", "--stop", "\udcff", "-m", "."], "stop: expected"),
     (["generate", "x", "-m", "a" * 300], "expected a checkpoint folder"),
     (["info", "a" * 300], "expected a checkpoint folder")],
    ids=lambda value: ascii(value)[:60],
)  # fmt: skip
def test_what_passes_all_bounds_is_one_sentence(args, words, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["moeflux", *args])
    with pytest.raises(SystemExit) as end:
        cli.main()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "moeflux: " in line]
    assert end.value.code == 1 and words in line
