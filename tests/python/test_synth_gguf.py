"""The GGUF form holds the very numbers of the MLX form; read with the `gguf` package."""

import gguf
import numpy as np
import pytest

import moeflux
from moeflux.synth import Recipe, synthesize
from moeflux.synth.gguf import FILE_NAME
from oracle.checkpoint import Checkpoint

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate": "ffn_gate_inp",
    "mlp.switch_mlp.gate_proj": "ffn_gate_exps",
    "mlp.switch_mlp.up_proj": "ffn_up_exps",
    "mlp.switch_mlp.down_proj": "ffn_down_exps",
}


def gguf_name(name):
    module = name.removesuffix(".weight")
    if module.startswith("model.layers."):
        _, _, layer, rest = module.split(".", 3)
        return f"blk.{layer}.{NAMES[rest]}.weight"
    return NAMES[module] + ".weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    recipe = Recipe("small", seed=4, skew=1.0)
    return synthesize(tmp_path_factory.mktemp("gguf") / "m", recipe, with_gguf=True)


def test_every_tensor_has_the_same_numbers_in_both_files(folder):
    mlx = Checkpoint(folder)
    reader = gguf.GGUFReader(folder / FILE_NAME)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    names = [name for name in mlx.stored if name.endswith(".weight")]
    assert {gguf_name(name) for name in names} == set(tensors)
    for name in names:
        tensor = tensors[gguf_name(name)]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        expected = mlx.full(name)
        assert values.shape == expected.shape == tuple(reversed(tensor.shape.tolist()))
        assert np.array_equal(values.astype(np.float64), expected), name
    kinds = {tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds == {"Q4_0", "F32"}


def test_both_blocks_of_a_group_share_its_scale_and_the_bias_is_minus_eight_scales(folder):
    mlx = Checkpoint(folder)
    name = "model.layers.1.mlp.switch_mlp.up_proj"
    scales = mlx.full(f"{name}.scales")
    assert np.array_equal(mlx.full(f"{name}.biases"), -8 * scales)
    reader = gguf.GGUFReader(folder / FILE_NAME)
    (tensor,) = [t for t in reader.tensors if t.name == "blk.1.ffn_up_exps.weight"]
    deltas = np.ascontiguousarray(tensor.data.reshape(-1, 18)[:, :2]).view(np.float16)
    pairs = deltas.reshape(*scales.shape, 2)
    assert np.array_equal(pairs[..., 0], pairs[..., 1])
    assert np.array_equal(pairs[..., 0].astype(np.float64), scales)
    assert (scales < 0).any() and (scales > 0).any()


def test_families_that_gguf_is_not_written_for_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(moeflux.FormatError, match="qwen3_moe"):
        synthesize(tmp_path / "m", Recipe("qwen3.6-35b-a3b"), with_gguf=True)
    assert not (tmp_path / "m").exists()


def test_scales_too_fine_for_f16_are_refused(tmp_path):
    from moeflux.synth.gguf import half

    with pytest.raises(moeflux.FormatError, match="f16"):
        half(np.array([1.0, 2.0**-30], np.float32))


def test_without_the_package_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(moeflux.MoefluxError, match=r"'\.\[gguf\]'"):
        synthesize(tmp_path / "m", Recipe("small"), with_gguf=True)
