"""The engine computes what transformers and mlx-lm compute (tests/golden, float32 precision)."""

import numpy as np
import pytest

import moeflux
from oracle import Reference, build, goldens
from support.few import few

CHUNKS = (1, 7, 64, 86)


def load(case, form, folder):
    return moeflux.load(case.build(folder, form), memory="512MiB", context=128, precision="float32")


def assert_close(case, logits, expected):
    worst, mean = goldens.TOLERANCE[case.family]
    difference = np.abs(logits - expected)
    assert difference.max() <= worst and difference.mean() <= mean


@pytest.mark.parametrize(("name", "form"), goldens.FORMS)
def test_whole_forward_equals_golden(name, form, tmp_path):
    golden = goldens.load(name)
    session = load(golden.case, form, tmp_path).session()
    out = session.step(golden.tokens, all_logits=True, capture={"experts", "hidden", "router"})
    for key in ("logits", "mlx_logits"):
        if key in golden.arrays:
            assert_close(golden.case, out["logits"], golden.arrays[key])
    for layer in range(out["experts"].shape[1]):
        if layer not in golden.moe_layers:
            assert (out["experts"][:, layer] == -1).all()
            continue
        assert np.array_equal(out["experts"][:, layer], golden.arrays[f"expert_ids.{layer}"])
        weights = golden.arrays[f"expert_weights.{layer}"]
        np.testing.assert_allclose(out["expert_weights"][:, layer], weights, atol=1e-4)
    for layer, expected in enumerate(golden.arrays["hidden"], start=1):
        rows = out["hidden"][golden.arrays["hidden_positions"], layer]
        np.testing.assert_allclose(rows, expected, atol=5e-4, rtol=1e-4)


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("name", few(2, ["qwen3_moe-q4", "qwen3_next-q4", "qwen3_next-hf"]))
def test_steps_of_any_length_equal_golden(name, chunk, tmp_path):
    golden = goldens.load(name)
    session = load(golden.case, golden.case.form, tmp_path).session()
    tokens = golden.tokens
    parts = [
        session.step(tokens[i : i + chunk], all_logits=True) for i in range(0, len(tokens), chunk)
    ]
    assert_close(golden.case, np.concatenate(parts), golden.arrays["logits"])


@pytest.mark.parametrize("name", sorted({name for name, _ in goldens.FORMS}))
def test_greedy_continuation_equals_golden(name, tmp_path):
    golden = goldens.load(name)
    session = load(golden.case, golden.case.form, tmp_path).session()
    logits = session.step(golden.tokens[: golden.prompt_len])
    chosen = []
    while len(chosen) < len(golden.tokens) - golden.prompt_len:
        chosen.append(int(np.argmax(logits)))
        logits = session.step(chosen[-1:])
    assert chosen == golden.tokens[golden.prompt_len :]


SHAPES = {
    "top-1": {"num_experts_per_tok": 1},
    "top-10": {"num_experts_per_tok": 10},
    "every expert": {"num_experts": 7, "num_experts_per_tok": 7},
    "one kv head": {"num_key_value_heads": 1},
    "no grouping": {"num_key_value_heads": 4},
    "head dim 48": {"head_dim": 48},
    "odd vocab": {"vocab_size": 263},
    "wide": {"hidden_size": 320, "moe_intermediate_size": 192},
    "many heads": {"num_attention_heads": 6, "num_key_value_heads": 3},
    "every second layer dense": {"decoder_sparse_step": 2},
}
DELTA_NET_SHAPES = {
    "equal heads": {"linear_num_key_heads": 4},
    "four values a key": {"linear_num_key_heads": 1},
    "head dims 16 and 48": {"linear_key_head_dim": 16, "linear_value_head_dim": 48},
    "kernel 3": {"linear_conv_kernel_dim": 3},
    "half rotary": {"partial_rotary_factor": 0.5},
    "attention every second": {"full_attention_interval": 2},
}
# Of parts that both families have alike: the first family's are enough.
ALIKE = ("top-1", "top-10", "every expert", "no grouping", "odd vocab", "wide")


def clear_prompt(reference):
    """The first of some 70-token prompts whose routing is nowhere a near tie in float64."""
    for attempt in range(50):
        tokens = [(37 * i + 11 + attempt * (i * i + 1)) % 256 for i in range(70)]
        trace = reference.forward(tokens)
        top_k = reference.text["num_experts_per_tok"]
        ranked = [-np.sort(-scores, axis=1) for scores in trace.router_logits.values()]
        gaps = [np.diff(-row[:, top_k - 1 : top_k + 1]) for row in ranked]
        if all(gap.size == 0 or gap.min() > 1e-4 for gap in gaps):
            return tokens, trace
    raise AssertionError("no prompt without a near tie")


@pytest.mark.parametrize("form", few(1, ["mlx-q4", "hf-bf16"]))
@pytest.mark.parametrize(
    ("family", "shape"),
    [("qwen3_moe", shape) for shape in SHAPES]
    + [
        pytest.param("qwen3_next", shape, marks=[pytest.mark.full] * (shape in ALIKE))
        for shape in SHAPES | DELTA_NET_SHAPES
    ],
)
def test_other_shapes_and_seeds_equal_the_reference(family, shape, form, tmp_path):
    options = (SHAPES | DELTA_NET_SHAPES)[shape] | {"branch_gain": 0.25}
    folder = build(tmp_path, family, form, seed=len(shape), **options)
    tokens, trace = clear_prompt(Reference(folder))
    session = moeflux.load(folder, memory="512MiB", context=128, precision="float32").session()
    out = session.step(tokens, all_logits=True, capture={"experts"})
    for layer, ids in trace.expert_ids.items():
        assert np.array_equal(out["experts"][:, layer], ids)
    worst, mean = goldens.TOLERANCE[family]
    difference = np.abs(out["logits"] - trace.logits)
    assert difference.max() <= worst and difference.mean() <= mean


@pytest.mark.parametrize("family", few(1, ["qwen3_next", "qwen3_moe"]))
@pytest.mark.parametrize(
    "layout",
    [{"dialect": "transformers5"}, {"shards": 1}, {"shards": 5}, {"form": "hf-bf16"}],
    ids=str,
)
def test_equal_values_in_another_layout_give_equal_bits(family, layout, tmp_path):
    def logits(name, **options):
        folder = build(tmp_path / name, family, **({"form": "hf-f32"} | options))
        return moeflux.load(folder, memory="256MiB", context=64).session().step([3, 1, 4, 1, 5])

    assert np.array_equal(logits("plain"), logits("other", **layout))


@pytest.mark.parametrize("family", ["qwen3_moe", "qwen3_next"])
@pytest.mark.parametrize("gate_bits", [4, 8])
@pytest.mark.parametrize("group_size", few(1, [32, 64, 128]))
def test_gates_of_other_bits_and_groups_than_the_experts(family, gate_bits, group_size, tmp_path):
    form = f"mlx-q4-g{group_size}-wide"
    folder = build(tmp_path, family, form, 5, gate_bits=gate_bits, branch_gain=0.25)
    tokens, trace = clear_prompt(Reference(folder))
    session = moeflux.load(folder, memory="256MiB", context=128).session()
    difference = np.abs(session.step(tokens, all_logits=True) - trace.logits)
    worst, mean = goldens.TOLERANCE[family]
    assert difference.max() <= worst and difference.mean() <= mean
