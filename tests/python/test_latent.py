"""Latent attention: shapes beside those of the goldens, far positions, what is refused."""

import json

import numpy as np
import pytest

import moeflux
from moeflux import _core
from moeflux.checkpoint import open_checkpoint
from moeflux.converting import Settings, convert
from moeflux.families import build_spec
from moeflux.packing import pack, verify
from moeflux.spec import tree
from oracle import Reference, affine, build, safetensors_file, writer
from oracle.checkpoint import Checkpoint
from oracle.families import FAMILIES
from oracle.goldens import TOLERANCE
from oracle.safetensors_file import Stored
from support.budget import smallest_budget

TOKENS = [int(t) for t in np.random.Generator(np.random.PCG64(9)).integers(0, 250, 600)]
ROOM = {"memory": "256MiB", "context": 640}


def close(found, expected, family):
    difference = np.abs(found - expected)
    assert difference.max() <= TOLERANCE[family][0]
    assert difference.mean() <= TOLERANCE[family][1]


@pytest.mark.parametrize(
    ("family", "options"),
    [("glm4_moe_lite", {"q_lora_rank": None}), ("deepseek_v3", {"rope_scaling": None}),
     ("deepseek_v3", {"num_attention_heads": 66, "num_key_value_heads": 66, "kv_lora_rank": 36}),
     ("glm4_moe_lite", {"num_attention_heads": 1, "num_key_value_heads": 1})],
    ids=str,
)  # fmt: skip
def test_other_shapes_meet_float64(family, options, tmp_path):
    folder = build(tmp_path / "m", family, "hf-f32", branch_gain=0.5, **options)
    found = moeflux.load(folder, **ROOM).session().step(TOKENS[:70], all_logits=True)
    close(found, Reference(folder).forward(TOKENS[:70]).logits, family)


def quantised(name, values, config, dtype):
    """As MLX stores a matrix or a stack of them, by its name, and the numbers that it means."""
    said = config["quantization"]
    words, scales, biases = affine.quantize(values, said["bits"], said["group_size"])
    parts = [safetensors_file.encode(part, dtype) for part in (scales, biases)]
    stored = dict(zip(("weight", "scales", "biases"), (Stored("U32", words), *parts), strict=True))
    scales, biases = map(safetensors_file.decode, parts)
    products = affine.dequantize(words, scales, np.zeros_like(biases), said["bits"])
    # The sum of float32: of products of bf16, which are exact, that of one rounding.
    means = np.float32(products) + np.repeat(np.float32(biases), said["group_size"], axis=-1)
    return {f"{name}.{part}": value for part, value in stored.items()}, means


def with_keys_and_values(folder, family, form, how, dtype="BF16"):
    """A checkpoint whose kv_b_proj is stored otherwise, and the same with plain numbers.

    "whole": quantised as it is; "apart": in two stacks, that of keys turned, as mlx-lm makes them.
    """
    options = {"qk_nope_head_dim": 64, "v_head_dim": 32}
    if family == "mistral4":  # whose rotated part is one of the whole head
        rope = FAMILIES[family].base["rope_parameters"] | {"partial_rotary_factor": 0.2}
        options |= {"head_dim": 80, "rope_parameters": rope}
    found = Checkpoint(build(folder / "source", family, form, branch_gain=0.5, **options))
    text, stored, plain = found.text, dict(found.stored), dict(found.stored)
    heads, nope = text["num_attention_heads"], text["qk_nope_head_dim"]
    for name in [name for name in stored if name.endswith(".kv_b_proj.weight")]:
        module = name.removesuffix(".kv_b_proj.weight")
        values = safetensors_file.decode(stored.pop(name))
        if how == "whole":
            new, means = quantised(f"{module}.kv_b_proj", values, found.config, dtype)
        else:
            values = values.reshape(heads, -1, values.shape[-1])
            keys = np.ascontiguousarray(values[:, :nope].swapaxes(1, 2))
            of = {"embed_q": keys, "unembed_out": np.ascontiguousarray(values[:, nope:])}
            if form == "mlx-q4":
                made = {part: quantised(f"{module}.{part}", x, found.config, dtype)
                        for part, x in of.items()}  # fmt: skip
            else:
                made = {part: ({f"{module}.{part}.weight": safetensors_file.encode(x, "F32")}, x)
                        for part, x in of.items()}  # fmt: skip
            new = {key: value for tensors, _ in made.values() for key, value in tensors.items()}
            keys, values = (means for _, means in made.values())
            means = np.concatenate([keys.swapaxes(1, 2), values], axis=1)
        stored |= new
        numbers = np.ascontiguousarray(means.reshape(-1, means.shape[-1]), np.float32)
        plain[name] = safetensors_file.encode(numbers, "F32")
    return (writer.write_checkpoint(folder / which, found.config, tensors, "mlx", 2)
            for which, tensors in (("stored", stored), ("plain", plain)))  # fmt: skip


@pytest.mark.parametrize(
    ("family", "form", "how"),
    [("deepseek_v3", "mlx-q4", "whole"), ("deepseek_v3", "mlx-q4", "apart"),
     ("glm4_moe_lite", "mlx-q4", "apart"), ("mistral4", "mlx-q4", "apart"),
     ("glm4_moe_lite", "hf-f32", "apart")],
)  # fmt: skip
def test_keys_and_values_of_latents_may_be_quantised(family, form, how, tmp_path):
    folder, plain = with_keys_and_values(tmp_path, family, form, how)
    found = moeflux.load(folder, **ROOM).session().step(TOKENS[:70], all_logits=True)
    close(found, Reference(plain).forward(TOKENS[:70]).logits, family)
    exact = moeflux.load(plain, **ROOM).session().step(TOKENS[:70], all_logits=True)
    assert np.abs(found - exact).max() <= TOLERANCE[family][0] / 4
    small = moeflux.load(folder, memory=smallest_budget(folder, context=96), context=96)
    assert np.array_equal(small.session().step(TOKENS[:70], all_logits=True), found)
    packed = pack(folder, tmp_path / "packed")
    verify(packed)
    again = moeflux.load(packed, **ROOM).session().step(TOKENS[:70], all_logits=True)
    assert np.array_equal(again, found)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda of: of.update(slices=0), "expected 4 slices, found 0"),
        (lambda of: of.update(slices=8), "expected 4 slices, found 8"),
        (lambda of: of["stacks"].pop(), "kv_b: expected .256, 96., found .256, 64."),
        (lambda of: of["stacks"].extend(of["stacks"]), "expected 1 or 2 .*slices, found 4"),
        (lambda of: of["stacks"].reverse(), r"kv_b: expected .*unembed_out"),
        (lambda of: of["stacks"][1].update(turned=True), r"kv_b: expected .*unembed_out"),
        (lambda of: of["stacks"][0]["matrix"].update(out=300), r"kv_b: expected .*found .300, 64"),
        (lambda of: shorten(of["stacks"][1]["matrix"], "weight"), "expected .* bytes"),
        (lambda of: shorten(of["stacks"][1]["matrix"], "scales"), "expected .* bytes"),
    ],
)  # fmt: skip
def test_stacks_that_do_not_fit_are_refused(change, words, tmp_path):
    path, _ = with_keys_and_values(tmp_path, "deepseek_v3", "mlx-q4", "apart")
    checkpoint = open_checkpoint(path)
    spec = tree(build_spec(checkpoint))
    change(spec["layers"][1]["mla"]["kv_b"])
    with pytest.raises(moeflux.FormatError, match=words):
        _core.load_model(
            spec=spec, files=[str(file) for file in checkpoint.files], memory_bytes=256 << 20,
            direct=True, compute=_core.Compute(n_threads=2),
            options=_core.Options(context=64, read_threads=2, read_ahead=False),
        )  # fmt: skip


def shorten(matrix, part):
    name, file, offset, nbytes, dtype = matrix[part]
    matrix[part] = name, file, offset, nbytes - 4, dtype


@pytest.mark.parametrize(
    ("form", "part", "number"),
    [("mlx-q4", "scales", b"\xc0\x7f"), ("hf-f32", "weight", b"\0\0\xc0\x7f"),
     ("hf-f32", "weight", b"\0\0\x80\xff")],
)  # fmt: skip
def test_numbers_of_stacks_that_are_none_are_refused(form, part, number, tmp_path):
    path, _ = with_keys_and_values(tmp_path, "deepseek_v3", form, "apart")
    tensor = open_checkpoint(path).tensors[f"model.layers.1.self_attn.embed_q.{part}"]
    file = open_checkpoint(path).files[tensor.file]
    content = bytearray(file.read_bytes())
    content[tensor.offset + 8 : tensor.offset + 8 + len(number)] = number
    file.write_bytes(content)
    with pytest.raises(moeflux.FormatError, match=rf"NaN.*layers.1.self_attn.embed_q.{part} "):
        moeflux.load(path, **ROOM)


def test_stacks_are_decoded_by_the_kernels_that_are_asked_for(tmp_path, monkeypatch):
    """The portable ones round products, others may not."""
    stored, plain = with_keys_and_values(tmp_path, "deepseek_v3", "mlx-q4", "apart", "F32")
    monkeypatch.setenv("MOEFLUX_SIMD", "portable")
    found, expected = (moeflux.load(path, **ROOM).session().step(TOKENS[:9])
                       for path in (stored, plain))  # fmt: skip
    assert np.array_equal(found, expected)


def test_stacks_are_not_converted(tmp_path):
    path, _ = with_keys_and_values(tmp_path, "deepseek_v3", "mlx-q4", "apart")
    with pytest.raises(moeflux.FormatError, match=r"embed_q.weight.*keys and values"):
        convert(path, tmp_path / "out", Settings())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("latent") / "m", "deepseek_v3", "hf-f32", branch_gain=0.25)


def test_far_positions_meet_float64_and_have_the_bits_of_a_token_alone(folder):
    """600 positions are three spans, and two extents of the cache."""
    model = moeflux.load(folder, **ROOM)
    whole = model.session().step(TOKENS, all_logits=True)
    close(whole, Reference(folder).forward(TOKENS).logits, "deepseek_v3")
    session = model.session()
    session.step(TOKENS[:250])
    for at in range(250, 275):
        assert np.array_equal(session.step(TOKENS[at : at + 1]), whole[at])
    session.step(TOKENS[275:598])
    assert np.array_equal(session.step(TOKENS[598:]), whole[599])


def test_a_cache_of_latents_does_not_grow_with_heads(tmp_path, folder):
    heads = {"num_attention_heads": 16, "num_key_value_heads": 16}
    other = build(tmp_path / "m", "deepseek_v3", "hf-f32", **heads)
    extents = []
    for path in (folder, other):
        session = moeflux.load(path, **ROOM).session()
        extents.append(session.bytes(512) - session.bytes(256))
    # Twice a latent of 64 and a key of 16, float32, in each of three layers.
    assert extents == [256 * 2 * (64 + 16) * 4 * 3] * 2


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [("attention_bias", True, "attention_bias"), ("rope_interleave", False, "rope_interleave"),
     ("num_key_value_heads", 2, "num_key_value_heads 4"), ("topk_method", "greedy", "noaux"),
     ("scoring_func", "softmax", "scoring_func"), ("n_group", None, "expected n_group"),
     ("q_lora_rank", 0, "q_lora_rank"), ("v_head_dim", 1 << 20, "v_head_dim"),
     ("qk_rope_head_dim", 15, "even rotary"), ("kv_lora_rank", 63, "kv_a_proj_with_mqa")],
)  # fmt: skip
def test_what_is_not_done_is_refused_by_name(field, value, words, tmp_path):
    folder = build(tmp_path / "m", "deepseek_v3", "hf-f32", num_hidden_layers=2)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(moeflux.FormatError, match=words):
        moeflux.load(folder, **ROOM)
