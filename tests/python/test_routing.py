"""`routing=`: masked, forced and other numbers of experts, against numpy in float64."""

import os

import numpy as np
import pytest

import moeflux
from moeflux import Routing
from oracle import Reference, build, goldens
from oracle.reference import softmax
from support.few import few

TOKENS = [(37 * i + 11) % 250 for i in range(70)]
SHAPE = {"num_experts": 12, "num_experts_per_tok": 3, "branch_gain": 0.25}
FAMILIES = ("qwen3_moe", "qwen3_next")
OPTIONS = {"memory": "256MiB", "context": 128}


class Overridden(Reference):
    """The reference with a mask, forced experts and a top_k of its own."""

    def __init__(self, folder, mask=(), force=None, top_k=None):
        super().__init__(folder)
        self.mask, self.force = list(mask), force
        self.top_k = top_k or self.text["num_experts_per_tok"]

    def choose(self, layer, logits):
        logits = logits.copy()
        logits[:, self.mask] = -np.inf
        if self.force is None:
            ids = np.argsort(-logits, axis=1, kind="stable")[:, : self.top_k]
        else:
            ids = np.tile(self.force, (len(logits), 1))
        return np.sort(ids, axis=1), softmax(logits)


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("routing") / request.param
    return build(path, family=request.param, form="mlx-q4", seed=7, **SHAPE)


def n_layers(folder):
    return Reference(folder).text["num_hidden_layers"]


CASES = {
    "mask": {"mask": [0, 2, 5, 7]},
    "all but top_k masked": {"mask": list(range(9))},
    "one expert": {"top_k": 1},
    "more experts": {"top_k": 7},
    "every expert": {"top_k": 12},
    "force": {"force": [1, 4, 11]},
    "force and mask": {"force": [1, 4, 11], "mask": [0, 2]},
    "mask and top_k": {"mask": [3, 4], "top_k": 5},
    "force and top_k": {"force": [9, 2, 7, 0, 1], "top_k": 5},
}


@pytest.mark.parametrize("slots", few(1, [3, None]))
@pytest.mark.parametrize("case", CASES)
def test_an_override_computes_what_numpy_computes(folder, case, slots):
    options = CASES[case]
    trace = Overridden(folder, **options).forward(TOKENS)
    layers = range(n_layers(folder))
    given = dict(options)
    if "force" in given:
        given["force"] = dict.fromkeys(layers, tuple(given["force"]))
    model = moeflux.load(folder, max_slots=slots, **OPTIONS)
    session = model.session(routing=Routing(**given))
    out = session.step(TOKENS, all_logits=True, capture={"experts", "router"})
    for layer in layers:
        assert np.array_equal(out["experts"][:, layer], trace.expert_ids[layer])
        np.testing.assert_allclose(
            out["expert_weights"][:, layer], trace.expert_weights[layer], atol=1e-4
        )
        np.testing.assert_allclose(out["router"][:, layer], trace.router_logits[layer], atol=1e-3)
    worst, mean = goldens.TOLERANCE[folder.name]
    difference = np.abs(out["logits"] - trace.logits)
    assert difference.max() <= worst and difference.mean() <= mean
    native = model.session().step(TOKENS, all_logits=True)
    assert np.abs(native - out["logits"]).max() > 100 * worst, "the override changed nothing"


def test_weights_that_are_not_normalised_are_probabilities_among_what_is_there(tmp_path):
    path = build(tmp_path / "m", "qwen3_moe", "hf-f32", 3, norm_topk_prob=False, **SHAPE)
    for options in ({"mask": [0, 2, 5]}, {"force": [1, 4, 11]}):
        trace = Overridden(path, **options).forward(TOKENS)
        given = {key: {layer: ids for layer in trace.expert_ids} for key, ids in options.items()}
        session = moeflux.load(path, **OPTIONS).session(routing=Routing(**given))
        out = session.step(TOKENS, capture={"experts"})
        for layer, expected in trace.expert_weights.items():
            np.testing.assert_allclose(out["expert_weights"][:, layer], expected, atol=1e-4)


def test_a_steps_own_array_counts_from_its_first_token_and_a_sessions_from_the_texts(folder):
    """Of experts that no router would choose: each row has its own."""
    model = moeflux.load(folder, **OPTIONS)
    rows = np.arange(20)[:, None] % 10 + np.arange(3)
    array = np.repeat(rows[:, None], n_layers(folder), axis=1)
    own, of_session = model.session(), model.session(routing=Routing(force=array))
    for session, given in ((own, {"routing": Routing(force=array[5:12])}), (of_session, {})):
        session.step(TOKENS[:5])
        found = session.step(TOKENS[5:12], capture={"experts"}, **given)["experts"]
        np.testing.assert_array_equal(found, array[5:12])
    own.score(TOKENS[12:15])
    found = own.step(TOKENS[15:18], capture={"experts"}, routing=Routing(force=array[:2]))
    np.testing.assert_array_equal(found["experts"][:2], array[:2])


def test_captured_experts_replay_as_forced_ones(folder):
    model = moeflux.load(folder, **OPTIONS)
    native = model.session().step(TOKENS, all_logits=True, capture={"experts"})
    whole = model.session(routing=Routing(force=native["experts"]))
    parts = [whole.step(TOKENS[:10], all_logits=True), whole.step(TOKENS[10:], all_logits=True)]
    assert np.array_equal(np.concatenate(parts), native["logits"])
    by_step = model.session()
    by_step.step(TOKENS[:40])
    again = by_step.step(
        TOKENS[40:], all_logits=True, routing=Routing(force=native["experts"][40:])
    )
    assert np.array_equal(again, native["logits"][40:])
    half = native["experts"].copy()
    half[:, 1:] = -1  # only layer 0 is forced, and only for these tokens
    half[:, 0] = [0, 1, 2]
    out = model.session().step(TOKENS, capture={"experts"}, routing=Routing(force=half[:30]))
    assert (out["experts"][:30, 0] == [0, 1, 2]).all()
    assert np.array_equal(out["experts"][30:, 0], native["experts"][30:, 0])


# A core made for tests (conftest.py) has the CPU's ops alone.
@pytest.mark.parametrize(
    "device", ["cpu"] if "MOEFLUX_TEST_CORE" in os.environ else ["cpu", "host"]
)
@pytest.mark.parametrize("normalise", [True, False])
def test_a_replay_has_the_bits_of_what_it_replays(tmp_path, device, normalise):
    path = build(tmp_path / "m", "qwen3_moe", "hf-f32", 3, norm_topk_prob=normalise, **SHAPE)
    model = moeflux.load(path, device=device, **OPTIONS)
    originals = [None, Routing(top_k=2)]
    if normalise:  # else the experts that are there share the probabilities of those that are not
        originals.append(Routing(mask=[0, 5]))
    for original in originals:
        seen = model.session(routing=original).step(TOKENS, capture={"experts"}, all_logits=True)
        replay = Routing(force=seen["experts"], top_k=original and original.top_k)
        again = model.session(routing=replay).step(TOKENS, capture={"experts"}, all_logits=True)
        for name, values in seen.items():
            assert np.array_equal(again[name], values), (original, name)


def test_nothing_is_overridden_unless_asked_and_stats_name_what_is(folder):
    model = moeflux.load(folder, **OPTIONS)
    plain = model.session()
    plain.step(TOKENS[:5])
    assert model.stats["routing"] == "native" and model.stats["overridden_tokens"] == 0
    assert plain.stats["routing"] == "native" and plain.routing is None
    masked = model.session(routing=Routing(mask=[1, 2], top_k=2))
    masked.step(TOKENS[:7])
    assert masked.stats == {"position": 7, "context": 128,
                            "routing": "top_k=2 mask=2 experts of every layer"}  # fmt: skip
    assert model.stats["routing"] == "override: top_k=2 mask=2 experts of every layer"
    assert model.stats["overridden_tokens"] == 7
    plain.step(TOKENS[5:], routing=Routing(top_k=1))
    assert model.stats["routing"] == "override: top_k=1"
    assert model.stats["overridden_tokens"] == 7 + len(TOKENS) - 5


def test_an_override_of_nothing_has_the_bits_of_none(folder):
    model = moeflux.load(folder, **OPTIONS)
    expected = model.session().step(TOKENS, all_logits=True)
    for routing in (Routing(), Routing(mask={}), Routing(top_k=3), Routing(mask=())):
        assert np.array_equal(
            model.session(routing=routing).step(TOKENS, all_logits=True), expected
        )


def test_overrides_in_a_batch_and_in_generation(folder):
    model = moeflux.load(folder, **OPTIONS)
    routing = Routing(mask=[0, 1, 2, 3])
    alone = model.session(routing=routing).step(TOKENS)
    plain = model.session().step(TOKENS)
    both = model.step_batch([(model.session(routing=routing), TOKENS), (model.session(), TOKENS)])
    assert np.array_equal(both[0], alone) and np.array_equal(both[1], plain)
    with pytest.raises(moeflux.SessionError, match="top_k"):
        model.step_batch([(model.session(routing=Routing(top_k=2)), [1]), (model.session(), [1])])
    two = [(model.session(routing=Routing(top_k=5)), [t]) for t in (1, 2)]
    assert len(model.step_batch(two)) == 2
    options = {"max_tokens": 3, "logit_bias": {256: -1e9}}
    text = [
        part.token for part in moeflux.stream_generate(model, TOKENS, routing=routing, **options)
    ]
    assert text[0] == int(np.argmax(np.delete(alone, 256)))
    with pytest.raises(moeflux.SessionError, match="session"):
        moeflux.stream_generate(model, TOKENS, session=model.session(), routing=routing)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"top_k": 0}, "top_k"),
        ({"top_k": 13}, "1..12"),
        ({"top_k": True}, "top_k"),
        ({"top_k": 2.0}, "top_k"),
        ({"mask": [12]}, "0..11"),
        ({"mask": [-1]}, "0..11"),
        ({"mask": [1.5]}, "0..11"),
        ({"mask": ["a"]}, "0..11"),
        ({"mask": 5}, "expert ids"),
        ({"mask": {99: [1]}}, "MoE layers"),
        ({"mask": {"a": [1]}}, "MoE layers"),
        ({"mask": list(range(10))}, "leaves 2 experts of the 3"),
        ({"mask": {1: range(12)}}, r"leaves 0 experts.*layer 1"),
        ({"mask": [0, 1, 2, 3, 4], "top_k": 8}, "leaves 7"),
        ({"force": {0: [1, 2]}}, "expected 3 experts"),
        ({"force": {0: [1, 2, 2]}}, "twice"),
        ({"force": {0: [1, 2, 12]}}, "0..11"),
        ({"force": {0: [1, 2, 3]}, "mask": [2]}, "both masked and forced"),
        ({"force": [1, 2, 3]}, "array"),
        ({"force": np.zeros((3, 2), int)}, "force"),
        ({"force": np.zeros((3, 2, 3))}, "integers"),
        ({"force": np.full((3, 99, 3), 1)}, "force"),
    ],
    ids=str,
)
def test_invalid_overrides_are_refused_with_reasons(folder, options, reason):
    model = moeflux.load(folder, **OPTIONS)
    with pytest.raises(moeflux.SessionError, match=reason):
        model.session(routing=Routing(**options))
    with pytest.raises(moeflux.SessionError, match=reason):
        model.session().step([1], routing=Routing(**options))
    assert model.stats["tokens"] == 0


def test_forced_arrays_are_checked_for_every_token_and_booked(folder):
    model = moeflux.load(folder, **OPTIONS)
    layers = n_layers(folder)
    good = np.full((50, layers, 3), -1)
    good[:, 0] = [2, 0, 1]
    before = model.stats["live_bytes"]
    session = model.session(routing=Routing(force=good))
    booked = model.stats["live_bytes"] - before
    assert booked >= good.size * 4
    for row, reason in (([1, 1, 0], "twice"), ([-1, 1, 0], "-1 in all"), ([0, 1, 12], "-1..11")):
        bad = good.copy()
        bad[49, layers - 1] = row
        with pytest.raises(moeflux.SessionError, match=reason):
            model.session(routing=Routing(force=bad))
    del session
    assert model.stats["live_bytes"] < before + booked


def test_a_dense_layer_has_no_experts_to_force_or_mask(tmp_path):
    path = build(tmp_path / "m", "qwen3_moe", "hf-bf16", mlp_only_layers=[1], **SHAPE)
    model = moeflux.load(path, **OPTIONS)
    native = model.session().step(TOKENS, all_logits=True, capture={"experts"})
    assert (native["experts"][:, 1] == -1).all()
    replay = model.session(routing=Routing(force=native["experts"]))
    np.testing.assert_allclose(replay.step(TOKENS, all_logits=True), native["logits"], atol=2e-4)
    for options in ({"mask": {1: [0]}}, {"force": {1: [0, 1, 2]}}):
        with pytest.raises(moeflux.SessionError, match="MoE layers"):
            model.session(routing=Routing(**options))
    forced = np.full(native["experts"].shape, 1)
    forced[:] = [0, 1, 2]
    with pytest.raises(moeflux.SessionError, match="layer 1"):
        model.session(routing=Routing(force=forced))
