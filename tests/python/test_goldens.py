"""The engine computes what transformers and mlx-lm compute (tests/golden, float32 precision)."""

import numpy as np
import pytest
from oracle import goldens

moeflux = pytest.importorskip("moeflux")
if not hasattr(moeflux, "load"):
    pytest.skip("moeflux.load is not there", allow_module_level=True)

CASES = [
    (name, form)
    for name, case in goldens.CASES.items()
    if case.family in ("qwen3_moe", "qwen3_next")
    for form in (case.form, *case.same_as)
]
CHUNKS = (1, 7, 64, 86)


def load(case, form, folder):
    return moeflux.load(case.build(folder, form), memory="512MiB", context=128, precision="float32")


def assert_close(case, logits, expected):
    worst, mean = goldens.TOLERANCE[case.family]
    difference = np.abs(logits - expected)
    assert difference.max() <= worst and difference.mean() <= mean


@pytest.mark.parametrize(("name", "form"), CASES)
def test_whole_forward_equals_golden(name, form, tmp_path):
    golden = goldens.load(name)
    session = load(golden.case, form, tmp_path).session()
    out = session.step(golden.tokens, all_logits=True, capture={"experts", "hidden", "router"})
    for key in ("logits", "mlx_logits"):
        if key in golden.arrays:
            assert_close(golden.case, out.logits, golden.arrays[key])
    for layer in golden.moe_layers:
        ids = np.asarray(out.experts[layer])
        order = np.argsort(ids, axis=-1)
        expected = golden.arrays[f"expert_ids.{layer}"]
        assert np.array_equal(np.take_along_axis(ids, order, axis=-1), expected)
    for layer, expected in enumerate(golden.arrays["hidden"]):
        rows = np.asarray(out.hidden[layer])[golden.arrays["hidden_positions"]]
        np.testing.assert_allclose(rows, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("name", ["qwen3_moe-q4", "qwen3_next-q4", "qwen3_next-hf"])
def test_steps_of_any_length_equal_golden(name, chunk, tmp_path):
    golden = goldens.load(name)
    session = load(golden.case, golden.case.form, tmp_path).session()
    tokens = golden.tokens
    parts = [
        session.step(tokens[i : i + chunk], all_logits=True) for i in range(0, len(tokens), chunk)
    ]
    logits = np.concatenate([np.asarray(getattr(part, "logits", part)) for part in parts])
    assert_close(golden.case, logits, golden.arrays["logits"])


@pytest.mark.parametrize("name", sorted({name for name, _ in CASES}))
def test_greedy_continuation_equals_golden(name, tmp_path):
    golden = goldens.load(name)
    session = load(golden.case, golden.case.form, tmp_path).session()
    logits = session.step(golden.tokens[: golden.prompt_len])
    chosen = []
    while len(chosen) < len(golden.tokens) - golden.prompt_len:
        chosen.append(int(np.argmax(logits)))
        logits = session.step(chosen[-1:])
    assert chosen == golden.tokens[golden.prompt_len :]
