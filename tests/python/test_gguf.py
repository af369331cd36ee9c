"""A GGUF file is a checkpoint: the logits are those of its weights, decoded by `gguf` itself."""

import json

import gguf
import numpy as np
import pytest

import moeflux
from moeflux import formats
from moeflux.checkpoint import open_checkpoint
from moeflux.gguf import together
from moeflux.gguf.keys import Keys
from moeflux.packing import pack, verify
from oracle import goldens
from oracle.checkpoint import Checkpoint
from oracle.corrupt import join_file, split_file
from oracle.families import FAMILIES as FAMILIES_OF
from support import gguf_twin
from support.budget import smallest_budget
from support.few import few

FAMILIES = list(gguf_twin.ARCHS)
# What no key holds, and files mean.
OPTIONS = {
    "gpt_oss": {"swiglu_limit": 7.0},
    "deepseek_v3": {"rope_scaling": FAMILIES_OF["deepseek_v3"].base["rope_scaling"]
                    | {"mscale": 0.8}},
}  # fmt: skip
TOKENS = [int(t) for t in np.random.Generator(np.random.PCG64(5)).integers(0, 250, 40)]
ROOM = {"memory": "256MiB", "context": 64}
U32, STRING, ARRAY, BOOL = (gguf.GGUFValueType[name] for name in
                                 ("UINT32", "STRING", "ARRAY", "BOOL"))  # fmt: skip


def logits(path, **options):
    return moeflux.load(path, **ROOM | options).session().step(TOKENS, all_logits=True)


def assert_close(family, found, expected):
    worst, mean = goldens.TOLERANCE[family]
    difference = np.abs(found - expected)
    assert difference.max() <= worst and difference.mean() <= mean


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in OPTIONS])
def test_a_golden_model_as_gguf_computes_what_transformers_does(family, tmp_path):
    golden = goldens.load(f"{family}-hf")
    path, _ = gguf_twin.make(tmp_path, family, **golden.case.options)
    session = moeflux.load(path, memory="256MiB", context=128).session()
    found = session.step(golden.tokens, all_logits=True)
    assert_close(family, found, golden.arrays["logits"])


@pytest.mark.parametrize("family", FAMILIES)
def test_types_of_any_mixture_compute_what_they_mean(family, tmp_path):
    options = {"branch_gain": 0.25} | OPTIONS.get(family, {})
    path, twin = gguf_twin.make(tmp_path, family, gguf_twin.mixed, **options)
    kinds = {tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
    assert {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"} <= kinds
    assert_close(family, logits(path), logits(twin))


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0"])
def test_plain_numbers_give_the_bits_of_the_same_numbers_in_safetensors(kind, tmp_path):
    path, twin = gguf_twin.make(tmp_path, "qwen3_moe", kind, branch_gain=0.25)
    if kind == "F32":
        assert np.array_equal(logits(path), logits(twin))
    else:
        assert_close("qwen3_moe", logits(path), logits(twin))


WIDE = {"hidden_size": 256, "moe_intermediate_size": 256, "num_attention_heads": 8,
        "num_hidden_layers": 2, "num_experts": 6, "num_experts_per_tok": 2}  # fmt: skip


@pytest.mark.parametrize("name", formats.BLOCKS)
def test_every_format_of_blocks_that_the_core_has_runs_from_a_file(name, tmp_path):
    path, twin = gguf_twin.make(tmp_path, "qwen3_moe", name.upper(), branch_gain=0.25, **WIDE)
    assert_close("qwen3_moe", logits(path), logits(twin))


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
SHAPES = {
    "no head": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True},
    "yarn": {"rope_scaling": YARN},
    "another head dim": {"head_dim": 64},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_option_of_the_family_is_read_from_the_keys(shape, tmp_path):
    options = SHAPES[shape] | {"branch_gain": 0.25}
    path, twin = gguf_twin.make(tmp_path, "qwen3_moe", **options)
    assert np.array_equal(logits(path), logits(twin))


@pytest.mark.parametrize("ratio", [1, 4])
def test_value_heads_find_their_key_heads_whatever_their_ratio(ratio, tmp_path):
    options = {"linear_num_key_heads": 4 // ratio, "linear_value_head_dim": 64}
    path, twin = gguf_twin.make(tmp_path, "qwen3_5_moe", gguf_twin.mixed, **options,
                                branch_gain=0.25)  # fmt: skip
    assert_close("qwen3_5_moe", logits(path), logits(twin))


def test_attention_is_where_the_file_says(tmp_path):
    """By layer, in place of an interval: here the first and the last one."""
    kinds = ["full_attention", "linear_attention", "full_attention"]
    path, twin = gguf_twin.make(tmp_path, "qwen3_next", num_hidden_layers=3, layer_types=kinds)
    keys = {"qwen3next.attention.recurrent_layers": ([False, True, False], ARRAY)}
    other = changed(tmp_path / "other.gguf", path, keys=keys)
    assert_close("qwen3_next", logits(other), logits(twin))
    with pytest.raises(moeflux.FormatError):
        moeflux.load(path, **ROOM)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    path, _ = gguf_twin.make(tmp_path_factory.mktemp("mixed"), "qwen3_moe", gguf_twin.mixed)
    return path


def test_budget_and_files_change_no_bit(mixed, tmp_path):
    first, _ = gguf_twin.make(tmp_path, "qwen3_moe", gguf_twin.mixed, split=7)
    whole = logits(mixed)
    least = smallest_budget(mixed, context=64)
    model = moeflux.load(mixed, memory=least, context=64)
    assert np.array_equal(model.session().step(TOKENS, all_logits=True), whole)
    assert model.stats["evictions"] > 0
    assert np.array_equal(logits(first, max_slots=4), whole)
    others = sorted(tmp_path.glob("*.gguf"))
    assert len(others) > 3 and np.array_equal(logits(others[-1]), whole)


def test_text_goes_in_and_out(mixed):
    with moeflux.load(mixed, **ROOM) as model:
        text = moeflux.generate(model, "ab", max_tokens=4)
        session = model.session()
        row = session.step(model.tokenizer.encode("ab"))
        assert text.startswith(model.tokenizer.decode([int(np.argmax(row))])[:1])
        assert moeflux.generate(model, messages=[{"role": "user", "content": "a"}], max_tokens=2)
        assert np.isfinite(model.session().score(TOKENS)[1:]).all()
        assert model.config["model_type"] == "qwen3_moe" and model.revision is None


def changed(path, source, *, keys=None, drop=(), add=None, of_type=None, blocks=None):
    """The same file, with other keys (None: without) or tensors; the dropped of another type."""
    reader = gguf.GGUFReader(source)
    out = gguf.GGUFWriter(path, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith(("GGUF.", "general.architecture")) and name not in (keys or {}):
            kind = field.types[0]
            sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            out.add_key_value(name, field.contents(), kind, sub)
    for name, (value, kind) in (keys or {}).items():
        if value is not None:
            out.add_key_value(name, value, kind)
    for tensor in reader.tensors:
        if tensor.name not in drop:
            out.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
        elif of_type is not None:
            kind = gguf.GGMLQuantizationType[of_type]
            rows = np.zeros((4, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8)
            out.add_tensor(tensor.name, rows, raw_dtype=kind)
    for name, data in (add or {}).items():
        out.add_tensor(name, np.ascontiguousarray(data))
    for name, (data, kind) in (blocks or {}).items():
        out.add_tensor(name, data, raw_dtype=kind)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


def test_layers_that_predict_further_tokens_and_towers_for_images_are_left_alone(mixed, tmp_path):
    _, two = gguf_twin.make(tmp_path, "qwen3_moe", gguf_twin.mixed, num_hidden_layers=2)
    path = changed(tmp_path / "further.gguf", mixed,
                   keys={"qwen3moe.nextn_predict_layers": (1, U32)},
                   add={"v.blk.0.ln1.weight": np.ones(8, np.float32)})  # fmt: skip
    assert_close("qwen3_moe", logits(path), logits(two))
    assert "v.blk.0.ln1.weight" in open_checkpoint(path).tensors


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"keys": {"qwen3moe.block_count": (2, U32)}}, "no place for, found 'blk.2"),
        ({"keys": {"qwen3moe.nextn_predict_layers": (3, U32)}}, "found 3 of which 3"),
        ({"keys": {"qwen3moe.block_count": (4, U32)}}, "layers.3.input_layernorm"),
        ({"keys": {"qwen3moe.embedding_length": (96, U32)}}, "expected"),
        ({"keys": {"qwen3moe.embedding_length": ("x", STRING)}}, "embedding_length|hidden_size"),
        ({"keys": {"qwen3moe.rope.scaling.type": ("longrope", STRING)}}, "found 'longrope'"),
        ({"keys": {"qwen3moe.attention.sliding_window": (64, U32)}}, "sliding_window 0, found 64"),
        ({"keys": {"qwen3moe.expert_gating_func": (2, U32)}}, "expert_gating_func 0 or 1, found 2"),
        ({"keys": {"qwen3moe.attention.value_length": (64, U32)}}, "value_length 32"),
        ({"keys": {"qwen3moe.attention.value_length": (64, U32),
                   "qwen3moe.attention.kv_lora_rank": (64, U32)}}, "value_length 32"),
        ({"keys": {"qwen3moe.attention.head_count_kv": ([2, 1, 2], ARRAY)}}, "one qwen3moe.attent"),
        ({"keys": {"qwen3moe.expert_used_count": (0, U32)}}, "num_experts_per_tok"),
        ({"drop": ["blk.1.attn_k.weight"]}, "layers.1.self_attn.k_proj"),
        ({"drop": ["token_embd.weight"]}, "token_embd.weight"),
        ({"add": {"rope_freqs.weight": np.ones(16, np.float32)}}, "no place for.*rope_freqs"),
        ({"add": {"blk.0.attn_sinks.weight": np.ones(4, np.float32)}}, "no place for.*attn_sinks"),
        ({"drop": ["blk.1.attn_q.weight"], "of_type": "TQ1_0"},
         "tensor blk.1.attn_q.weight of type TQ1_0: not supported; expected F32, F16"),
    ],
)  # fmt: skip
def test_what_the_engine_does_not_do_is_refused_by_name(mixed, tmp_path, change, words):
    path = changed(tmp_path / "model.gguf", mixed, **change)
    with pytest.raises(moeflux.FormatError, match=words) as refused:
        moeflux.load(path, **ROOM)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("size", "said"), [((47, 154880), True), ((48, 154880), True), ((61, 129280), False)]
)
def test_only_the_first_files_of_glm_4_7_flash_do_not_say_that_their_router_is_a_sigmoid(
    size, said, tmp_path
):
    """llama.cpp knows them by the number of layers and the vocabulary; any other is a softmax."""
    n_layers, vocab = size
    numbers = {"block_count": n_layers, "vocab_size": vocab, "attention.head_count": 20,
               "attention.key_length": 256, "attention.value_length": 256,
               "rope.dimension_count": 64}  # fmt: skip
    metadata = {f"deepseek2.{key}": value for key, value in numbers.items()}
    keys = Keys(metadata | {"general.architecture": "deepseek2"}, tmp_path)
    if said:
        assert together.deepseek2(keys, (), None)["qk_nope_head_dim"] == 192
        return
    with pytest.raises(moeflux.FormatError, match="found none, which means a softmax"):
        together.deepseek2(keys, (), None)


@pytest.mark.parametrize("options", [{"moe_latent_size": 64}, {"use_conv_bias": False}], ids=str)
def test_every_form_of_nemotron_is_read_from_tensors_and_keys(options, tmp_path):
    path, twin = gguf_twin.make(tmp_path, "nemotron_h", **options, branch_gain=0.25)
    assert_close("nemotron_h", logits(path), logits(twin))


U32S, BOOLS = ((values, ARRAY) for values in ([1, 1, 1, 1], [True] * 4))
DIVISORS = np.array([1.0] * 8 + [1e30] * 24, np.float32)


@pytest.mark.parametrize(
    ("family", "change", "words"),
    [
        ("gemma4", {"keys": {"gemma4.attention.sliding_window_pattern": BOOLS}}, "one of them"),
        ("gemma4", {"keys": {"gemma4.attention.sliding_window_pattern": (2, U32)}}, "an array in"),
        ("gemma4", {"keys": {"gemma4.attention.head_count_kv": ([2, 1, 1, 1], ARRAY)}},
         "one gemma4.attention.head_count_kv for layers"),
        ("gemma4", {"keys": {"gemma4.attention.shared_kv_layers": (2, U32)}}, "shared_layer"),
        ("gemma4", {"keys": {"gemma4.embedding_length_per_layer_input": (8, U32)}}, "layer_inp"),
        ("gemma4", {"keys": {"gemma4.rope.dimension_count": (32, U32)}}, "rope_freqs"),
        ("gemma4", {"keys": {"gemma4.rope.dimension_count_swa": (16, U32)}}, "partial_rotary"),
        ("gemma4", {"drop": ["rope_freqs.weight"], "add": {"rope_freqs.weight": DIVISORS[:31]}},
         "expected 32 ones and then.*found 31"),
        ("gemma4", {"drop": ["rope_freqs.weight"], "add": {"rope_freqs.weight": DIVISORS[::-1]}},
         "ones and then numbers over"),
        ("gemma4", {"drop": ["rope_freqs.weight"], "add": {"rope_freqs.weight": DIVISORS * 2}},
         "ones and then numbers over"),
        *(("gemma4", {"drop": ["rope_freqs.weight"], "add": {"rope_freqs.weight": divisors}},
           "ones and then numbers over.* 0 of them")
          for divisors in (-np.ones_like(DIVISORS), np.where(DIVISORS == 1, -1, DIVISORS))),
        ("gemma4", {"drop": ["blk.0.ffn_gate_up_exps.weight"],
                    "add": {"blk.0.ffn_gate_up_exps.weight": np.ones((8, 63, 64), np.float32)}},
         "as many rows of gates as of ups"),
        ("gemma4", {"add": {"blk.0.ffn_gate_exps.weight": np.ones((8, 64, 64), np.float32)}},
         "expected one tensor for model.layers.0.experts.gate_proj.weight"),
        ("lfm2_moe", {"keys": {"lfm2moe.attention.head_count_kv": (2, U32)}}, "head_count_kv"),
        ("mistral4", {"keys": {"mistral4.attention.temperature_length": (64, U32)}},
         "temperature_length 32, as"),
        ("mistral4", {"keys": {"mistral4.expert_gating_func": (2, U32)}}, "expert_gating_func 0"),
        ("mistral4", {"keys": {"mistral4.attention.temperature_scale": ("x", STRING)}}, "llama_4"),
        ("glm4_moe_lite", {"keys": {"deepseek2.rope.dimension_count": (48, U32)}}, "below the 48"),
        ("glm4_moe_lite", {"keys": {"deepseek2.expert_gating_func": (1, U32)}}, "gating_func 2"),
        ("glm4_moe_lite", {"keys": {"deepseek2.attention.value_length_mla": (64, U32)}},
         "unembed_out"),
        ("glm4_moe_lite", {"drop": ["blk.1.attn_k_b.weight"]}, "kv_b_proj"),
        ("glm4_moe_lite", {"drop": ["blk.1.attn_v_b.weight"]}, "unembed_out"),
        ("lfm2_moe", {"keys": {"lfm2moe.attention.head_count_kv": U32S}}, "of each of 5 layers"),
        ("lfm2_moe", {"keys": {"lfm2moe.expert_gating_func": (1, U32)}}, "expert_gating_func 2"),
        ("lfm2_moe", {"keys": {"lfm2moe.expert_weights_norm": (False, BOOL)}}, "weights_norm True"),
        ("deepseek_v3", {"keys": {"deepseek2.expert_gating_func": (None, U32)}},
         "gating_func 2, found none, which means a softmax"),
        ("nemotron_h", {"keys": {"nemotron_h_moe.expert_gating_func": (1, U32)}}, "gating_func 2"),
        ("nemotron_h", {"keys": {"nemotron_h_moe.ssm.inner_size": (127, U32)}}, "of 8 heads"),
        ("nemotron_h", {"drop": ["blk.0.ssm_in.weight"]}, "found none in layer 0"),
        ("nemotron_h", {"add": {"blk.1.ffn_up.weight": np.ones((64, 128), np.float32)}},
         "layers.1.mixer.up_proj"),
        ("nemotron_h", {"drop": ["blk.0.ssm_a"], "add": {"blk.0.ssm_a": np.ones(8, np.float32)}},
         "negative numbers in ssm_a"),
    ],
)  # fmt: skip
def test_what_a_family_cannot_be_is_refused_by_name(family, change, words, tmp_path):
    source, _ = gguf_twin.make(tmp_path, family)
    path = changed(tmp_path / "other.gguf", source, **change)
    with pytest.raises(moeflux.FormatError, match=words):
        moeflux.load(path, **ROOM)


@pytest.mark.parametrize("kind", ["F32", "Q4_1"])
def test_gates_and_ups_may_be_one_tensor(kind, tmp_path):
    apart, _ = gguf_twin.make(tmp_path, "qwen3_moe", kind, num_hidden_layers=1)
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(apart).tensors}
    parts = [f"blk.0.ffn_{part}_exps.weight" for part in ("gate", "up")]
    both = np.concatenate([np.array(found[part].data) for part in parts], axis=1)
    fused = changed(tmp_path / "fused.gguf", apart, drop=parts)
    out = {"blk.0.ffn_gate_up_exps.weight": (both, found[parts[0]].tensor_type)}
    fused = changed(tmp_path / "with.gguf", fused, blocks=out)
    assert np.array_equal(logits(fused), logits(apart))
    folder = pack(fused, tmp_path / "packed")
    verify(folder)
    assert np.array_equal(logits(folder), logits(apart))


def test_an_old_file_has_keys_and_values_of_latents_in_one(tmp_path):
    source, twin = gguf_twin.make(tmp_path, "glm4_moe_lite")
    weights = Checkpoint(twin)
    both = {f"blk.{i}.attn_kv_b.weight": weights.get(f"layers.{i}.self_attn.kv_b_proj.weight")
            for i in range(weights.text["num_hidden_layers"])}  # fmt: skip
    drop = [name.replace("kv_b", part) for name in both for part in ("k_b", "v_b")]
    both = {name: value.astype(np.float32) for name, value in both.items()}
    path = changed(tmp_path / "old.gguf", source, drop=drop, add=both)
    assert np.array_equal(logits(path), logits(source))
    assert_close("glm4_moe_lite", logits(path), logits(twin))


def test_a_rotation_of_whole_heads_needs_no_divisors(tmp_path):
    rope = {"full_attention": {"rope_theta": 1e6, "rope_type": "default"},
            "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"}}  # fmt: skip
    source, twin = gguf_twin.make(tmp_path, "gemma4", rope_parameters=rope)
    path = changed(tmp_path / "other.gguf", source, drop=["rope_freqs.weight"])
    assert_close("gemma4", logits(path), logits(twin))


@pytest.mark.parametrize("family", few(3, FAMILIES))
def test_a_packed_file_computes_the_same_bits_with_one_read_an_expert(family, tmp_path):
    path, _ = gguf_twin.make(tmp_path, family, gguf_twin.mixed, **OPTIONS.get(family, {}))
    folder = pack(path, tmp_path / "packed")
    verify(folder)
    assert np.array_equal(logits(folder), logits(path))
    one, other = (moeflux.load(p, **ROOM) for p in (path, folder))
    assert one.tokenizer.json == other.tokenizer.json
    for name in ("eos_ids", "named_tokens", "chat_template", "sampling"):
        assert getattr(one.tokenizer, name) == getattr(other.tokenizer, name)
    assert pack(path, folder) == folder  # the same again finds all done
    with pytest.raises(moeflux.FormatError, match="--replace: expected a checkpoint folder"):
        pack(path, tmp_path / "other", replace=True)


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ("{", "blocks in JSON"),
        ("[]", "formats of blocks by U8 tensors"),
        ('{"model.norm.weight":"q4_0"}', "formats of blocks"),
        ('{"model.embed_tokens.weight":"q9_9"}', "found .*embed_tokens.*q9_9"),
        ('{"model.embed_tokens.weight":"q8_0"}', "found U8 for"),
        ("{}", "expected dtype F32, F16, BF16, found U8"),
    ],
)
def test_a_packed_folder_that_lies_about_blocks_is_refused(mixed, tmp_path, blocks, words):
    folder = pack(mixed, tmp_path / "packed")
    header, body = split_file(folder / "dense.safetensors")
    header["__metadata__"]["blocks"] = blocks
    join_file(folder / "dense.safetensors", json.dumps(header).encode(), body)
    with pytest.raises(moeflux.FormatError, match=words):
        moeflux.load(folder, **ROOM)


def test_the_number_of_tensors_of_all_files_is_what_the_first_says(tmp_path):
    first, _ = gguf_twin.make(tmp_path, "qwen3_moe", split=5, num_hidden_layers=1)
    content = first.read_bytes()
    at = content.index(b"split.tensors.count") + len("split.tensors.count") + 4
    total = int.from_bytes(content[at : at + 4], "little")
    first.write_bytes(content[:at] + (total + 1).to_bytes(4, "little") + content[at + 4 :])
    with pytest.raises(moeflux.FormatError, match=rf"expected {total + 1} tensors .*found {total}"):
        moeflux.load(first, **ROOM)
