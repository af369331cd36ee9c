"""`Session.score`: log probabilities of a text, in the memory of a step."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import moeflux
from moeflux import Routing
from oracle import Reference, build, goldens

OPTIONS = {"memory": "256MiB", "context": 512}


def ids(n, seed=3):
    return [int(t) for t in np.random.Generator(np.random.PCG64(seed)).integers(0, 250, n)]


@pytest.fixture(scope="module", params=["qwen3_moe", "qwen3_next"])
def folder(request, tmp_path_factory):
    return build(tmp_path_factory.mktemp("score") / request.param, request.param, "mlx-q4")


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 63, 64, 65, 300])
def test_scores_are_those_of_the_logits_of_a_step(folder, n):
    model = moeflux.load(folder, **OPTIONS)
    tokens = ids(n)
    logits = model.session().step(tokens, all_logits=True)
    logprobs, greedy = model.session().score(tokens, greedy=True)
    expected = log_softmax(logits)[np.arange(n - 1), tokens[1:]]
    assert logprobs.dtype == np.float32 and logprobs.shape == greedy.shape == (n,)
    assert np.isnan(logprobs[0]) and not greedy[0]
    np.testing.assert_allclose(logprobs[1:], expected, atol=1e-6, rtol=1e-6)
    assert np.array_equal(greedy[1:], logits.argmax(axis=1)[:-1] == tokens[1:])


def test_scores_equal_the_reference(folder):
    tokens = ids(40, seed=9)
    logits = Reference(folder).forward(tokens).logits
    expected = log_softmax(logits)[np.arange(39), tokens[1:]]
    logprobs = moeflux.load(folder, **OPTIONS).session().score(tokens)
    assert np.abs(logprobs[1:] - expected).max() <= 2 * goldens.TOLERANCE[folder.name][0]


def test_a_text_in_pieces_scores_as_whole_and_moves_the_session(folder):
    model = moeflux.load(folder, **OPTIONS)
    tokens = ids(150)
    whole = model.session().score(tokens)
    session = model.session()
    session.step(tokens[:99])
    assert np.array_equal(session.score(tokens[99:])[1:], whole[100:])
    assert session.position == 150
    assert np.array_equal(session.step([5]), model.session().step([*tokens, 5]))


def test_greedy_text_is_greedy(folder):
    model = moeflux.load(folder, **OPTIONS)
    session, tokens = model.session(), ids(4)
    logits = session.step(tokens)
    for _ in range(20):
        tokens.append(int(logits.argmax()))
        logits = session.step(tokens[-1:])
    _, greedy = model.session().score(tokens, greedy=True)
    assert greedy[4:].all()


def test_what_step_refuses_score_refuses(folder):
    session = moeflux.load(folder, **OPTIONS).session()
    for bad in ([], [10**6], [1.5], [1] * 513):
        with pytest.raises(moeflux.SessionError):
            session.score(bad)
    assert session.position == 0


def test_scores_follow_an_override(folder):
    model = moeflux.load(folder, **OPTIONS)
    tokens, routing = ids(30), Routing(top_k=1)
    logits = model.session(routing=routing).step(tokens, all_logits=True)
    expected = log_softmax(logits)[np.arange(29), tokens[1:]]
    for logprobs in (
        model.session(routing=routing).score(tokens),
        model.session().score(tokens, routing=routing),
    ):
        np.testing.assert_allclose(logprobs[1:], expected, atol=1e-6, rtol=1e-6)


def test_a_read_error_leaves_the_session_as_it_was(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    model = moeflux.load(tmp_path, max_slots=4, **OPTIONS)
    session = model.session()
    session.step([1, 2])
    shards = {path: path.read_bytes() for path in tmp_path.glob("*.safetensors")}
    for path in shards:
        os.truncate(path, 5000)
    with pytest.raises(moeflux.IoError):
        session.score(ids(100))
    assert session.position == 2
    for path, content in shards.items():
        with path.open("r+b") as stream:
            stream.write(content)
    fresh = model.session()
    fresh.step([1, 2])
    assert np.array_equal(session.score(ids(100)), fresh.score(ids(100)), equal_nan=True)


SCRIPT = textwrap.dedent("""
    import sys
    import moeflux
    from moeflux import _core
    import numpy as np

    def status(key):
        for line in open("/proc/self/status"):
            if line.startswith(key):
                return int(line.split()[1]) * 1024

    before = status("VmRSS:")
    budget = int(sys.argv[2])
    model = moeflux.load(sys.argv[1], memory=budget, context=2048)
    scores = model.session().score([(7 * i + 1) % 20000 for i in range(2000)])
    assert np.isfinite(scores[1:]).all()
    assert model.stats["peak_bytes"] <= budget
    grown = status("VmHWM:") - before
    print(grown)
    assert grown <= budget
""")


def test_a_long_text_with_a_wide_vocabulary_stays_in_the_budget(tmp_path):
    """2,000 tokens x 20,000 words of float32 are 160 MB; the budget is 40 MB."""
    path = build(tmp_path / "m", "qwen3_moe", "mlx-q4", vocab_size=20000, num_hidden_layers=2)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path), str(40 << 20)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
