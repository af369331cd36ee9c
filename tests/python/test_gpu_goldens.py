"""Models on a device compute what transformers and mlx-lm compute, with the kernels that fit.

The devices are those of MOEFLUX_TEST_DEVICES: the host device, or Metal (on a Mac, or over the
stand-in).
"""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import moeflux
from oracle import build, goldens
from oracle.families import FAMILIES
from support.budget import smallest_budget
from support.devices import DEVICES

# Kernels of the contract that no golden dispatches, and why.
UNUSED = {
    "attn_scores_batched": "scores, softmax and sums are one dispatch: attention_decode",
    "attn_softmax_batched": "the same",
    "attn_values_batched": "the same",
    "compute_decay_beta": "the engine holds dt_bias as f32: compute_decay_beta_f32, over n rows",
    "conv1d_step": "the engine holds conv weights as f32, and its history is double-buffered",
    "dequant_matvec_2bit": "qmatvec_bf16_f32 is this for any width and a few rows",
    "dequant_matvec_4bit": "the reference form",
    "dequant_matvec_4bit_batched": "wants experts in one buffer and an input row each; slots are "
    "buffers of their own, and all experts of a token read one row",
    "dequant_matvec_4bit_fast": "another form of the same",
    "dequant_matvec_4bit_v3": "another form of the same",
    "dequant_matvec_4bit_v4": "another form of the same",
    "dequant_matvec_4bit_v5": "another form of the same",
    "dequant_matvec_8bit_v3": "as dequant_matvec_2bit",
    "fused_gate_up_swiglu": "qgate_up_bf16_f32 is this for any width and a few rows",
    "gated_delta_net_step": "updates its state in place: a step that fails must leave it as it was",
    "gated_rms_norm": "the engine holds norm weights as f32: gated_rms_norm_f32",
    "moe_combine_residual": "wants weights and gate side by side in a buffer of its own: one more "
    "launch; moe_combine_f32 reads the router's, for n rows",
    "rms_norm_apply": "rms_norm_f32 is this and the sum in one launch, for n rows",
    "rms_norm_apply_bf16": "the engine holds norm weights as f32",
    "rms_norm_qk": "eps within the mean; the models' l2norm has it within the sum: l2_norm_f32",
    "rms_norm_sum_sq": "rms_norm_f32 is this and the rest in one launch, for n rows",
    "swiglu_fused": "for widths that are no multiple of 4, as test_gpu_ops.cpp has and no golden",
    "weighted_sum": "moe_combine_f32 is this, the shared expert and the residual in one launch",
}
CONTINUED = 6  # tokens behind a prompt: the shaders take the CPU a tenth of a second each
DEMO = json.loads((Path(__file__).parents[1] / "golden" / "demo.json").read_text())


def load(case, form, folder, device, **options):
    folder = case.build(folder, form)
    return moeflux.load(folder, **{"memory": "512MiB", "context": 128, "device": device} | options)


def assert_close(case, logits, expected):
    worst, mean = goldens.TOLERANCE[case.family]
    difference = np.abs(logits - expected)
    assert difference.max() <= worst and difference.mean() <= mean


@pytest.fixture(scope="module", params=DEVICES)
def device(request):
    return request.param


@pytest.fixture(scope="module")
def dispatched(device):
    """Dispatches by kernel, of all goldens on the device so far."""
    return Counter()


@pytest.mark.parametrize(("name", "form"), goldens.ON_DEVICES)
def test_prompt_and_continuation_equal_golden(name, form, device, dispatched, tmp_path):
    """A prompt as one chunk, with every layer looked at, then the continuation token by token."""
    golden = goldens.load(name)
    case, n = golden.case, golden.prompt_len
    model = load(case, form, tmp_path, device)
    session = model.session()
    out = session.step(golden.tokens[:n], all_logits=True, capture={"experts", "hidden", "router"})
    for key in ("logits", "mlx_logits"):
        if key in golden.arrays:
            assert_close(case, out["logits"], golden.arrays[key][:n])
    for layer in range(out["experts"].shape[1]):
        if layer not in golden.moe_layers:
            assert (out["experts"][:, layer] == -1).all()
            continue
        assert np.array_equal(out["experts"][:, layer], golden.arrays[f"expert_ids.{layer}"][:n])
        weights = golden.arrays[f"expert_weights.{layer}"][:n]
        np.testing.assert_allclose(out["expert_weights"][:, layer], weights, atol=1e-4)
    positions = golden.arrays["hidden_positions"]
    for layer, expected in enumerate(golden.arrays["hidden"], start=1):
        rows = out["hidden"][positions[positions < n], layer]
        np.testing.assert_allclose(rows, expected[positions < n], atol=5e-4, rtol=1e-4)

    logits, continuation = [out["logits"][-1]], golden.tokens[n:][:CONTINUED]
    for _ in continuation:
        logits.append(session.step([int(np.argmax(logits[-1]))]))
    assert [int(np.argmax(row)) for row in logits[:-1]] == continuation
    assert_close(case, np.stack(logits), golden.arrays["logits"][n - 1 :][: len(logits)])
    assert model.stats["device"] == device
    dispatched.update(model.stats["kernels"])


@pytest.mark.parametrize("family", [f for f in FAMILIES if FAMILIES[f].beyond_devices])
def test_a_family_that_no_kernel_computes_is_refused_by_name(family, device, tmp_path):
    build(tmp_path, family, "mlx-bf16")
    words = FAMILIES[family].beyond_devices
    with pytest.raises(moeflux.FormatError, match=f"found {words}, which no kernel of a device"):
        moeflux.load(tmp_path, memory="512MiB", context=128, device=device)


def test_every_kernel_of_the_contract_is_dispatched_or_explained(dispatched):
    """Runs after the goldens, in their process: which of them they used."""
    if not dispatched:
        pytest.fail("the goldens have not run in this session")
    unused = set(moeflux.ALL_KERNELS) - set(dispatched)
    assert unused == set(UNUSED)


def test_demo_model_writes_what_the_cpu_writes_under_the_smallest_budget(device):
    case = DEMO[0]

    def written(memory, device):
        model = moeflux.load(memory=memory, context=64, device=device)
        session, tokens = model.session(), []
        logits = session.step(case["prompt_ids"])
        for _ in range(4):
            tokens.append(int(np.argmax(logits)))
            logits = session.step(tokens[-1:])
        return tokens, logits, model.stats

    memory = smallest_budget(context=64, device=device)
    tokens, logits, stats = written(memory, device)
    on_cpu, cpu_logits, _ = written("64MiB", "cpu")
    assert tokens == on_cpu == case["continuation_ids"][: len(tokens)]
    np.testing.assert_allclose(logits, cpu_logits, atol=5e-4)
    assert stats["evictions"] > 0 and stats["peak_bytes"] <= memory
