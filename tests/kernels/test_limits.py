"""What a kernel cannot do is refused before it runs, and leaves its buffers alone."""

import numpy as np
import pytest

import moeflux as mf
from moeflux.doctor.kernels import cases

from .run import arguments


def scalar(place, value):
    def change(case):
        case.args[place] = value

    return change


def geometry(grid=None, threads=None):
    def change(case):
        case.grid, case.threads = grid or case.grid, threads or case.threads

    return change


def largest(place, value):
    def change(case):
        case.args[place] = case.args[place].copy()
        case.args[place][-1] = value

    return change


def constants(**values):
    def change(case):
        case.constants = values

    return change


MATVEC = (16, 4096, 64)  # out_dim, in_dim, group_size
REFUSED = [
    ("moe_combine_residual", (16, 33), scalar(21, 17)),
    ("residual_add", (33,), geometry(grid=32)),
    ("swiglu_fused_batched", (3, 33), geometry(grid=98)),
    ("swiglu_fused_vec4", (33,), scalar(3, 131)),
    ("rms_norm_sum_sq", (33,), geometry(grid=64, threads=32)),
    ("rms_norm_sum_sq", (33,), geometry(grid=48, threads=48)),
    ("rms_norm_qk", (4, 33), geometry(grid=96, threads=64)),
    ("gated_rms_norm", (4, 33), geometry(grid=2048, threads=2048)),
    ("dequant_matvec_4bit", MATVEC, scalar(7, 0)),
    ("dequant_matvec_4bit", MATVEC, scalar(7, 4)),
    ("dequant_matvec_4bit", MATVEC, scalar(6, 4090)),
    ("dequant_matvec_4bit_fast", MATVEC, geometry(grid=15 * 64, threads=64)),
    ("dequant_matvec_2bit", MATVEC, scalar(7, 8)),
    ("dequant_matvec_4bit_v3", MATVEC, geometry(grid=512, threads=128)),
    ("dequant_matvec_4bit_v3", MATVEC, geometry(grid=500, threads=256)),
    ("dequant_matvec_4bit_v3", MATVEC, geometry(grid=256, threads=256)),
    ("dequant_matvec_4bit_v4", MATVEC, scalar(7, 16)),
    ("dequant_matvec_4bit_batched", MATVEC, scalar(11, 0)),
    ("dequant_matvec_4bit_batched", MATVEC, scalar(11, 1)),
    ("dequant_matvec_4bit_batched", MATVEC, largest(8, 0xFFFFFFFF)),
    ("dequant_matvec_4bit_batched", MATVEC, largest(10, 0xFFFFFFFF)),
    ("attn_scores_batched", (4, 2, 128, 1), scalar(8, 0)),
    ("attn_scores_batched", (4, 2, 128, 1), scalar(9, 0)),
    ("attn_scores_batched", (4, 2, 128, 1), scalar(8, 1)),  # more key heads than a row holds
    ("attn_softmax_batched", (8, 8, 64, 31), scalar(1, 1000)),
    ("attn_values_batched", (4, 2, 128, 1), geometry(grid=500)),
    ("conv1d_step", (4, 33), constants(K=0)),
    ("conv1d_step", (4, 33), constants(K=5)),
    ("gated_delta_net_step", (4, 2, 128, 128), constants(Dk=129)),
    ("gated_delta_net_step", (4, 2, 128, 128), scalar(7, 0)),
    ("gated_delta_net_f32", (1, 1, 1, 128, 128), constants(Dk=544)),
    ("qmatvec_bf16_f32", (1, 9, 2112, 64), constants(Bits=1)),
    ("qmatvec_f16_f32", (1, 9, 2112, 64), constants(Bits=9)),
    ("qmatmul_f32_f32", (33, 65, 192, 64), constants(Bits=7)),
    ("qmatmul_bf16_f32", (33, 65, 192, 64), scalar(8, 48)),
    ("qembed_bf16_f32", (7, 50, 256, 64), largest(3, 50)),
    ("embed_bf16_f32", (7, 50, 256, 64), largest(1, 0xFFFFFFFF)),
    ("gather_rows_f32", (3, 5, 64), largest(1, 5)),
    ("scatter_rows_f32", (3, 5, 64), largest(1, 1000)),
    ("router_top_k_f32", (1, 128, 8), scalar(7, 129)),
    ("router_top_k_f32", (1, 128, 8), scalar(10, 64)),  # groups, one a lane
    ("router_top_k_f32", (1, 128, 8), scalar(10, 3)),
    ("router_top_k_f32", (1, 128, 8), scalar(11, 0)),
    ("attention_rows_f32", (2, 4, 2, 128, 64, 4095, 1), scalar(13, 63)),
    ("attention_rows_f32", (2, 4, 2, 128, 64, 4095, 1), scalar(13, 130)),
    ("attention_decode_f32_1", (2, 1, 64, 257, 256, 0, 0), scalar(13, 3)),  # a kv_dim that is odd
    ("attention_decode_f32_4", (4, 2, 128, 33, 32, 0, 0), scalar(17, 1)),  # splits
    ("attention_decode_bf16_8", (8, 8, 128, 300, 64, 0, 0), constants(HeadDim=260)),
    ("attention_prefill_f32", (16, 48, 2, 1, 128, 0, 0), scalar(19, 32)),  # key_begin
    ("attention_prefill_f32", (16, 48, 2, 1, 128, 0, 0), scalar(10, 132)),  # value_dim
    ("attention_wide_f32", (4, 2, 512, 512, 33, 32, 0, 0), constants(HeadDim=644)),
    ("attention_wide_bf16", (4, 2, 512, 512, 33, 32, 0, 0), scalar(7, 516)),  # value_dim
    ("attention_wide_f32", (4, 2, 512, 512, 33, 32, 0, 0), scalar(14, 3)),  # parts
    ("latent_rows_f32", (1, 20, 512, 192, 64, 0, 0), scalar(12, 63)),
    ("absorb_latent_keys_f32", (1, 20, 512, 192, 256), scalar(5, 510)),
    ("absorb_latent_values_f32", (1, 20, 512, 192, 256), scalar(5, 510)),
    ("state_space_f32", (1, 2, 4, 64, 128), constants(Dk=544)),
    ("state_space_f32", (1, 2, 4, 64, 128), scalar(9, 3)),  # groups that do not divide heads
]


@pytest.mark.parametrize(
    ("name", "shape", "change"), REFUSED, ids=lambda v: getattr(v, "__name__", str(v))
)
def test_what_a_kernel_cannot_do_is_refused(backend, name, shape, change):
    case = cases.make(name, shape)
    change(case)
    args = arguments(backend, case, pad=0)
    before = [a.numpy().copy() for a in args if isinstance(a, mf.Buffer)]
    with pytest.raises(mf.FormatError, match=name):
        backend.dispatch(name, args, (case.grid, 1, 1), (case.threads, 1, 1), case.constants)
    after = [a.numpy() for a in args if isinstance(a, mf.Buffer)]
    for old, new in zip(before, after, strict=True):
        assert np.array_equal(old.view(np.uint8), new.view(np.uint8))


def test_a_grid_of_two_dimensions_is_refused(backend):
    case = cases.make("residual_add", (33,))
    with pytest.raises(mf.FormatError, match="dimension"):
        backend.dispatch("residual_add", arguments(backend, case, 0), (33, 2, 1), (32, 1, 1))
