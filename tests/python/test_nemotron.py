"""Nemotron-H: shapes beside those of the goldens, what a session keeps, budgets, both dialects."""

import copy
import json

import numpy as np
import pytest

import moeflux
from moeflux import _core, converting, packing
from moeflux.checkpoint import open_checkpoint
from moeflux.families import build_spec
from moeflux.planning import plan
from moeflux.planning.inventory import inventory
from moeflux.spec import tree
from oracle import Reference, build, safetensors_file
from oracle.families import FAMILIES
from support import pieces
from support.devices import DEVICES

TOKENS = [int(t) for t in np.random.Generator(np.random.PCG64(9)).integers(0, 250, 90)]
ROOM = {"memory": "64MiB", "context": 128}
GENTLE = {"branch_gain": 0.25}
LATENT = {"moe_latent_size": 64}


def close(found, expected):
    difference = np.abs(found - expected)
    worst, mean = FAMILIES["nemotron_h"].tolerance
    assert difference.max() <= worst and difference.mean() <= mean


def logits(folder, **room):
    session = moeflux.load(folder, **ROOM | room).session()
    return session.step(TOKENS, all_logits=True)


OTHERS = [
    LATENT,
    {"moe_latent_size": 192},  # wider than the model
    {"hybrid_override_pattern": "E*-MM*EM"},
    {"use_conv_bias": False, "conv_kernel": 2},
    {"mamba_num_heads": 12, "mamba_head_dim": 40, "n_groups": 4, "ssm_state_size": 24},
    {"ssm_state_size": 144, "n_groups": 1},
    {"n_group": 4, "topk_group": 2},
    {"norm_topk_prob": False, "routed_scaling_factor": 1.0},
    {"tie_word_embeddings": True},
]


@pytest.mark.parametrize("options", OTHERS, ids=str)
def test_other_shapes_meet_float64(options, tmp_path):
    folder = build(tmp_path, "nemotron_h", "hf-f32", **GENTLE | options)
    close(logits(folder), Reference(folder).forward(TOKENS).logits)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("mlx-q4", {"n_group": 4, "topk_group": 2}),
        ("mlx-q4", LATENT),
        ("hf-f32", {"moe_latent_size": 192}),
    ],
    ids=str,
)
def test_a_model_without_mamba_meets_float64_on_devices(form, options, device, tmp_path):
    """Squared ReLU without gates, sigmoids, narrow and wide experts; a chunk and single tokens."""
    options = {"hybrid_override_pattern": "E*-*E*EE"} | options
    folder = build(tmp_path, "nemotron_h", form, **GENTLE | options)
    model = moeflux.load(folder, **ROOM | {"device": device})
    session, tokens = model.session(), TOKENS[:34]
    found = [*session.step(tokens[:-2], all_logits=True)]
    found += [session.step([token]) for token in tokens[-2:]]
    close(np.stack(found), Reference(folder).forward(tokens).logits)
    assert model.stats["device"] == device


def test_a_chunk_of_the_widest_rows_has_room_beside_narrow_experts(tmp_path):
    folder = build(tmp_path, "nemotron_h", "mlx-q4", **GENTLE | LATENT | {"hidden_size": 256})
    close(logits(folder), Reference(folder).forward(TOKENS).logits)


@pytest.fixture(scope="module", params=[{}, LATENT], ids=str)
def options(request):
    return request.param


@pytest.fixture(scope="module")
def folder(options, tmp_path_factory):
    return build(tmp_path_factory.mktemp("nemo") / "m", "nemotron_h", "mlx-q4", **options)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_tokens_alone_forks_and_snapshots_have_the_bits_of_a_prompt(folder, precision):
    """Pieces are shorter and longer than the history of a convolution (3)."""
    model = moeflux.load(folder, precision=precision, **ROOM)
    pieces.assert_same_bits(model, TOKENS)


def test_a_session_with_a_state_is_not_truncated(folder):
    session = moeflux.load(folder, **ROOM).session()
    session.step(TOKENS)
    with pytest.raises(moeflux.SessionError, match="found recurrent state"):
        session.truncate(5)
    assert session.position == len(TOKENS)


def test_the_smallest_budget_is_as_planned_and_changes_no_bit(folder):
    checkpoint = open_checkpoint(folder)
    sizes = plan.measure(checkpoint, build_spec(checkpoint), 128, 2)
    least = plan.minimum_bytes(sizes)
    with pytest.raises(moeflux.MemoryBudgetError):
        moeflux.load(folder, memory=least - 1, context=128, threads=2)
    model = moeflux.load(folder, memory=least, context=128, threads=2)
    found = model.session().step(TOKENS, all_logits=True)
    assert model.stats["misses"] > model.stats["slots"]
    assert np.array_equal(found, logits(folder, threads=1))


def test_sessions_together_have_the_bits_of_sessions_alone(folder):
    model = moeflux.load(folder, **ROOM)
    alone = [model.session().step(TOKENS[:n]) for n in (90, 7, 1)]
    items = [(model.session(), TOKENS[:n]) for n in (90, 7, 1)]
    for found, expected in zip(model.step_batch(items), alone, strict=True):
        assert np.array_equal(found, expected)


def test_packed_and_converted_files_have_the_logits_of_their_numbers(folder, options, tmp_path):
    packed = packing.pack(folder, tmp_path / "packed")
    assert np.array_equal(logits(packed), logits(folder))
    source = build(tmp_path / "source", "nemotron_h", "hf-bf16", **GENTLE | options)
    converted = converting.convert(source, tmp_path / "converted", converting.Settings(6, 3, 32))
    close(logits(converted), Reference(converted).forward(TOKENS).logits)


def test_a_config_of_transformers_5_gives_the_same_logits(tmp_path):
    hub, other = (
        build(tmp_path / dialect, "nemotron_h", "hf-bf16", dialect=dialect)
        for dialect in ("hub", "transformers5")
    )
    assert "num_hidden_layers" not in json.loads((other / "config.json").read_text())
    assert np.array_equal(logits(hub), logits(other))


def test_a_layer_of_one_part_is_listed_as_that_part(folder):
    checkpoint = open_checkpoint(folder)
    spec = build_spec(checkpoint)
    kinds = [(layer.mixer.kind, layer.ffn.kind) for layer in spec.layers]
    m, e, a, d = ("mamba2", "nothing"), ("nothing", "moe"), ("attention", "nothing"), (
        "nothing", "dense")  # fmt: skip
    assert kinds == [m, e, a, m, e, d, m, e]
    assert inventory(checkpoint, spec).n_ignored == 0


def load_spec(checkpoint, spec):
    return _core.load_model(
        spec=spec, files=[str(file) for file in checkpoint.files], memory_bytes=64 << 20,
        direct=True, compute=_core.Compute(n_threads=1),
        options=_core.Options(context=64, read_threads=1, read_ahead=False),
    )  # fmt: skip


NUMBERS = ("n_heads", "head_dim", "n_groups", "state_dim", "conv_width")


@pytest.mark.parametrize("change", [lambda n: 2 * n, lambda n: n + 1, lambda n: 0, lambda n: 2**31])
def test_the_core_refuses_a_wrong_number_of_a_mixer(folder, change):
    checkpoint = open_checkpoint(folder)
    right = tree(build_spec(checkpoint))
    assert load_spec(checkpoint, right)
    for key in NUMBERS:
        wrong = copy.deepcopy(right)
        mixer = wrong["layers"][0]["mamba2"]
        mixer[key] = change(mixer[key])
        with pytest.raises(moeflux.FormatError, match="expected"):
            load_spec(checkpoint, wrong)


@pytest.mark.parametrize(
    ("layer", "path", "value", "words"),
    [
        (0, ("mamba2", "conv", "count"), 3, "conv: expected"),
        (0, ("mamba2", "steps", "rows"), [(0, 7)], "steps: expected"),
        (1, ("ffn",), "none", "expected a known network, found none"),
        (1, ("mixer",), "none", "expected a known mixer, found none"),
        (1, ("moe", "experts", "unit"), "relu", "unit: expected one of silu, gelu, relu2"),
        (1, ("moe", "experts", "interleaved"), True, "experts.down: expected"),
        (1, ("moe", "experts", "gate", "in"), 256, "experts.gate: expected"),
    ],
    ids=str,
)
def test_the_core_refuses_a_wrong_part_by_name(folder, layer, path, value, words):
    checkpoint = open_checkpoint(folder)
    spec = tree(build_spec(checkpoint))
    node = spec["layers"][layer]
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    with pytest.raises(moeflux.FormatError, match=words):
        load_spec(checkpoint, spec)


@pytest.mark.parametrize("part", ["latent_in", "latent_out"])
def test_the_core_refuses_half_of_what_is_around_narrow_experts(part, tmp_path):
    checkpoint = open_checkpoint(build(tmp_path, "nemotron_h", "mlx-q4", **LATENT))
    spec = tree(build_spec(checkpoint))
    del spec["layers"][1]["moe"][part]
    with pytest.raises(moeflux.FormatError, match=r"layer 1"):
        load_spec(checkpoint, spec)


def test_what_predicts_further_tokens_is_ignored(tmp_path):
    folder = build(tmp_path, "nemotron_h", "hf-bf16", shards=1)
    expected = logits(folder)
    stored = safetensors_file.read(folder / "model.safetensors")
    stored["mtp.layers.0.eh_proj.weight"] = safetensors_file.encode(
        np.zeros((128, 256), np.float32), "BF16"
    )
    safetensors_file.write(folder / "model.safetensors", stored, "hf")
    assert np.array_equal(logits(folder), expected)
