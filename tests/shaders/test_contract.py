"""The kernels of the contract, argument by argument, as design and documentation state them."""

import re
from pathlib import Path

import pytest

from msl.contract import CONTRACT
from msl.library import read_library
from msl.source import shader_files

ROOT = Path(__file__).parents[2]
SHADERS = ROOT / "shaders"

# name: arguments in binding order. `f32`: read; `f32!`: written, or both; `=u32`: a scalar.
MATVEC = (
    "W u32, scales bf16, biases bf16, x f32, out f32!, out_dim =u32, in_dim =u32, group_size =u32"
)
EXPERTS = ", ".join(f"expert_out{k} f32" for k in range(16))
SIGNATURES = {
    "attn_scores_batched": "Q f32, K_cache f32, scores f32!, head_dim =u32, kv_dim =u32, "
    "seq_len =u32, seq_stride =u32, scale =f32, heads_per_kv =u32, num_seq_tgs =u32",
    "attn_softmax_batched": "scores f32!, seq_len =u32, seq_stride =u32",
    "attn_values_batched": "scores f32, V_cache f32, out f32!, head_dim =u32, kv_dim =u32, "
    "seq_len =u32, seq_stride =u32, heads_per_kv =u32",
    "compute_decay_beta": "alpha f32, beta f32, A_log f32, dt_bias bf16, g_decay f32!, "
    "beta_gate f32!",
    "conv1d_step": "conv_state f32!, input f32, weights bf16, out f32!, conv_dim =u32",
    "dequant_matvec_2bit": MATVEC,
    "dequant_matvec_4bit": MATVEC,
    "dequant_matvec_4bit_batched": "W u32, scales bf16, biases bf16, x_inputs f32, out f32!, "
    "out_dim =u32, in_dim =u32, group_size =u32, w_offsets u32, s_offsets u32, b_offsets u32, "
    "num_row_tiles =u32",
    "dequant_matvec_4bit_fast": MATVEC,
    "dequant_matvec_4bit_v3": MATVEC,
    "dequant_matvec_4bit_v4": MATVEC,
    "dequant_matvec_4bit_v5": MATVEC,
    "dequant_matvec_8bit_v3": MATVEC,
    "fused_gate_up_swiglu": "gate_W u32, gate_scales bf16, gate_biases bf16, up_W u32, "
    "up_scales bf16, up_biases bf16, x f32, out f32!, out_dim =u32, in_dim =u32, group_size =u32",
    "gated_delta_net_step": "state f32!, q f32, k f32, v f32, g_decay f32, beta_gate f32, "
    "out f32!, k_heads_per_v =u32",
    "gated_rms_norm": "values f32, z f32, weight bf16, out f32!, value_dim =u32, eps =f32",
    "moe_combine_residual": f"h_mid f32, shared_out f32, hidden_out f32!, {EXPERTS}, params f32, "
    "dim =u32, K =u32",
    "residual_add": "a f32, b f32, out f32!, dim =u32",
    "rms_norm_apply": "x f32, weight f32, sum_sq f32, out f32!, dim =u32, eps =f32",
    "rms_norm_apply_bf16": "x f32, weight bf16, sum_sq f32, out f32!, dim =u32, eps =f32",
    "rms_norm_qk": "q f32!, k f32!, key_dim =u32, inv_scale =f32",
    "rms_norm_sum_sq": "x f32, sum_sq f32!, dim =u32",
    "sigmoid_gate": "x f32!, gate f32, dim =u32",
    "swiglu_fused": "gate f32, up f32, out f32!, dim =u32",
    "swiglu_fused_batched": "gate f32, up f32, out f32!, dim =u32, K =u32",
    "swiglu_fused_vec4": "gate f32, up f32, out f32!, dim =u32",
    "weighted_sum": "expert_outs f32, weights f32, out f32!, K =u32, dim =u32",
}
TYPES = {"float": "f32", "half": "f16", "bf16": "bf16", "uint": "u32", "int": "i32", "uchar": "u8"}
# Legal threadgroups that the contract fixes to 256 threads.
OF_256 = {
    name
    for name in SIGNATURES
    if name.startswith("dequant_matvec")
    and name not in ("dequant_matvec_4bit", "dequant_matvec_4bit_fast")
}


@pytest.fixture(scope="module")
def kernels():
    return {k.name: k for k in read_library(shader_files(SHADERS)).kernels}


def test_the_contract_has_these_kernels():
    assert set(SIGNATURES) == CONTRACT


def test_kernels_that_the_engine_never_dispatches_lie_in_contract(kernels):
    files = (ROOT / "csrc/ops/gpu").rglob("*.*")
    named = set(re.findall(r'"(\w+)"', "".join(file.read_text() for file in files)))
    apart = {file.name for file in shader_files(SHADERS / "contract")}
    unused = {name for name in kernels if name not in named}
    # gated_rms_norm is a template, whose other form the engine uses.
    assert {name for name in kernels if kernels[name].token.file in apart} == unused - {
        "gated_rms_norm"
    }


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name, kernels):
    found = ", ".join(
        f"{p.name} {'=' * p.scalar}{TYPES[p.element]}{'!' * p.writable}"
        for p in kernels[name].bindings
    )
    assert found == SIGNATURES[name]


@pytest.mark.parametrize("name", SIGNATURES)
def test_threadgroups(name, kernels):
    if name in OF_256:
        assert kernels[name].threadgroup == 256
    else:
        assert kernels[name].threadgroup in ("any", "multiple of 32")


def test_function_constants_of_the_contract(kernels):
    found = {n: [(c.name, c.default) for c in kernels[n].constants] for n in SIGNATURES}
    assert {n: c for n, c in found.items() if c} == {
        "conv1d_step": [("K", 4)],
        "gated_delta_net_step": [("Dk", 128)],
    }
