"""Steps that choose tokens, whom an error is about, and what a step took."""

import numpy as np
import pytest

import moeflux
from moeflux import Routing, Sampler, SamplingParams
from oracle import build, safetensors_file

N_EXPERTS, OPTIONS = 8, {"memory": "256MiB", "context": 128}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sampled") / "m"
    return build(path, "qwen3_moe", "mlx-q4", num_experts=N_EXPERTS, num_experts_per_tok=2)


@pytest.fixture(scope="module")
def model(folder):
    return moeflux.load(folder, **OPTIONS)


def ids(n, seed):
    return [int(t) for t in np.random.Generator(np.random.PCG64(seed)).integers(0, 250, n)]


def samplers(n):
    """Some that are greedy, and some with filters, penalties and logprobs."""
    for i in range(n):
        params = SamplingParams(0.4 * (i % 4), top_p=1 - 0.2 * (i % 3), top_k=10 * (i % 2),
                                repetition_penalty=1 + 0.1 * (i % 3), seed=i)  # fmt: skip
        yield Sampler(params, seen=ids(9, i), top_logprobs=None if i % 5 else i)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_step_chooses_what_samplers_choose_of_its_logits(folder, threads):
    """40 sequences: more rows than the head computes at once; prompts of several passes, too."""
    model = moeflux.load(folder, threads=threads, **OPTIONS)
    prompts = [ids(1 + 17 * (i % 7 == 0), i) for i in range(40)]
    plain, sampled = ([model.session() for _ in prompts] for _ in range(2))
    given, other = list(samplers(40)), list(samplers(40))
    for _ in range(4):
        rows = model.step_batch(list(zip(plain, prompts, strict=True)))
        expected = [one.choose(row) for one, row in zip(given, rows, strict=True)]
        found = model.step_batch(list(zip(sampled, prompts, strict=True)), sample=other)
        assert found == expected
        prompts = [[choice.token] for choice in found]
    assert [one.position for one in sampled] == [one.position for one in plain]


def test_who_wants_no_token_gets_none(model):
    sessions = [model.session() for _ in range(3)]
    batch = [(session, [5, 6]) for session in sessions]
    found = model.step_batch(batch, sample=[None, Sampler(), None])
    assert [choice is None for choice in found] == [True, False, True]
    assert [session.position for session in sessions] == [2, 2, 2]
    with pytest.raises(moeflux.SessionError, match="prompt"):  # no logits are kept
        moeflux.generate(model, "", session=sessions[1])
    expected = model.session().step([5, 6, 7])
    assert np.array_equal(sessions[0].step([7]), expected)


def test_a_sampler_that_fails_names_its_session_and_no_other_has_moved(model):
    def run(bad):
        sessions = [model.session() for _ in range(3)]
        batch = [(session, [9]) for session in sessions]
        given = [Sampler(SamplingParams(1.0, seed=i)) for i in range(3)]
        if bad is not None:
            nothing = np.zeros(-(-model.vocab_size // 32), np.uint32)
            given[bad].mask = nothing
            with pytest.raises(moeflux.SessionError, match="is left") as caught:
                model.step_batch(batch, sample=given)
            assert caught.value.session is sessions[bad]
            given[bad].mask = None
        assert [session.position for session in sessions] == [0, 0, 0]
        return model.step_batch(batch, sample=given)

    assert run(0) == run(1) == run(2) == run(None)


def test_a_sampler_of_two_sessions_is_refused(model):
    one, other = model.session(), model.session()
    sampler = Sampler()
    with pytest.raises(moeflux.SessionError, match="in use") as caught:
        model.step_batch([(one, [1]), (other, [1])], sample=[sampler, sampler])
    assert caught.value.session is other
    assert model.step_batch([(one, [1])], sample=[sampler])[0].token >= 0


@pytest.mark.parametrize("bad", [[10**6], [], [1] * 200])
def test_an_error_tells_whose_tokens_are_wrong(model, bad):
    sessions = [model.session() for _ in range(3)]
    with pytest.raises(moeflux.SessionError) as caught:
        model.step_batch([(sessions[0], [1]), (sessions[1], bad), (sessions[2], [1])])
    assert caught.value.session is sessions[1]
    with pytest.raises(moeflux.SessionError) as caught:
        sessions[2].step(bad)
    assert caught.value.session is sessions[2]
    with pytest.raises(moeflux.SessionError) as caught:
        model.step_batch([(sessions[0], [1]), (sessions[0], [1])])
    assert caught.value.session is None


def spoil(folder, expert):
    """Makes the scales of one expert of each layer NaN."""
    n = 0
    for path in folder.glob("*.safetensors"):
        tensors = safetensors_file.read(path)
        for name in [name for name in tensors if "switch_mlp" in name and name.endswith("scales")]:
            data = tensors[name].data.copy()
            data[expert] = 0x7FC0
            tensors[name] = safetensors_file.Stored("BF16", data)
            n += 1
        safetensors_file.write(path, tensors, "mlx")
    assert n


def test_an_error_tells_whose_expert_could_not_be_read(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    spoil(tmp_path, 5)
    model = moeflux.load(tmp_path, read_ahead=False, **OPTIONS)
    without, only = Routing(mask=[5]), Routing(mask=[0, 1, 2, 3, 4, 6])
    for at in range(3):  # wherever in the batch
        sessions = [model.session(routing=only if i == at else without) for i in range(3)]
        batch = [(session, ids(4, i)) for i, session in enumerate(sessions)]
        with pytest.raises(moeflux.FormatError, match="expert 5") as caught:
            model.step_batch(batch)
        assert caught.value.session is sessions[at]
        assert [session.position for session in sessions] == [0, 0, 0]
        del batch[at]
        model.step_batch(batch)
    with pytest.raises(moeflux.FormatError) as caught:
        sessions[2].score([1, 2])
    assert caught.value.session is sessions[2]


def test_the_last_step_tells_what_it_took(folder):
    model = moeflux.load(folder, max_slots=4, **OPTIONS)
    one, other = model.session(), model.session()
    assert one.last_step == {}
    for step in (lambda: one.step(ids(20, 1)), lambda: one.score(ids(9, 2)),
                 lambda: model.step_batch([(one, [3]), (other, [4])]),
                 lambda: model.step_batch([(one, [3])], sample=[Sampler()])):  # fmt: skip
        before = model.stats
        step()
        after = model.stats
        assert one.last_step["misses"] > 0
        for name in ("hits", "misses"):
            assert one.last_step[name] == after[name] - before[name]
        assert 0 < one.last_step["bytes_read"] <= after["bytes_read"] - before["bytes_read"]
        assert one.last_step["wait_seconds"] == pytest.approx(
            after["wait_seconds"] - before["wait_seconds"], abs=1e-9
        )
    assert other.last_step["misses"] > 0


@pytest.mark.parametrize("top", [0, 1, 5, 10**6])
def test_scores_tell_the_most_probable_tokens_by_the_same_float(model, top):
    tokens = ids(40, 3)
    logits = model.session().step(tokens, all_logits=True)
    logprobs, greedy, best, values = model.session().score(tokens, greedy=True, top=top)
    n = min(top, model.vocab_size)
    assert best.shape == values.shape == (40, n) and values.dtype == np.float32
    assert np.isnan(values[0]).all()
    expected = np.argsort(-logits[:-1], axis=1, kind="stable")[:, :n]
    assert np.array_equal(best[1:], expected)
    for i in range(1, 40):
        for token, value in zip(best[i], values[i], strict=True):
            assert token != tokens[i] or value == logprobs[i]
        assert not n or greedy[i] == (best[i, 0] == tokens[i])
    alone = model.session().score(tokens)
    assert np.array_equal(alone, logprobs, equal_nan=True)


def test_a_text_that_is_scored_in_pieces_has_all_scores(model):
    tokens = ids(50, 4)
    whole = model.session().score(tokens, top=3)
    session, pieces = model.session(), []
    for begin, end in ((0, 1), (1, 20), (20, 49)):
        found = session.score(tokens[begin:end], top=3, following=tokens[end])
        pieces.append([array[1:] for array in found])
        assert session.position == end
    for i in range(3):
        assert np.array_equal(np.concatenate([piece[i] for piece in pieces]), whole[i][1:])
    with pytest.raises(moeflux.SessionError, match="following"):
        session.score([1], following=model.vocab_size)
    assert session.position == 49


def test_pieces_of_whole_passes_take_no_more_of_them(model):
    before = model.stats["passes"]
    model.session().step(ids(model.rows, 1))
    assert model.stats["passes"] == before + 1
    session, tokens = model.session(), ids(100, 2)
    before = model.stats["passes"]
    whole = model.session().step(tokens)
    passes = model.stats["passes"] - before
    for begin in range(0, 100, model.chunk):
        logits = session.step(tokens[begin : begin + model.chunk])
    assert np.array_equal(logits, whole)
    assert model.stats["passes"] - before == 2 * passes
