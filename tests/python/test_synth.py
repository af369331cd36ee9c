"""Synthetic checkpoints: real sizes, weights that work, equal bytes for equal recipes."""

import hashlib
import itertools
import json
import re
import shutil
from collections import Counter

import numpy as np
import pytest

import moeflux
from moeflux import checkpoint, durable
from moeflux.planning import hit_rate
from moeflux.synth import SHAPES, Recipe, layout, mlx, shape, synthesize
from moeflux.synth.weights import N_GROUPS, STRIDE, Gate, Matrix
from oracle import Reference
from oracle.checkpoint import Checkpoint
from support import kill
from support.commands import forked, run_moeflux
from support.paper import on_paper

SMALL = {
    "qwen3-30b-a3b": (
        "hidden_size=256", "head_dim=64", "num_attention_heads=4", "num_key_value_heads=2",
        "moe_intermediate_size=128", "num_experts=16", "num_experts_per_tok=4", "vocab_size=300",
    ),
    "qwen3.6-35b-a3b": (
        "hidden_size=256", "head_dim=64", "num_attention_heads=4", "num_key_value_heads=2",
        "linear_num_key_heads=2", "linear_num_value_heads=4", "linear_key_head_dim=64",
        "linear_value_head_dim=64", "moe_intermediate_size=64", "num_experts=16",
        "num_experts_per_tok=4", "shared_expert_intermediate_size=64", "vocab_size=300",
    ),
}  # fmt: skip
SMALL["qwen3-next-80b-a3b"] = SMALL["qwen3.6-35b-a3b"]
ATTENTION = ("hidden_size=256", "head_dim=64", "num_attention_heads=4", "num_key_value_heads=2",
             "vocab_size=300")  # fmt: skip
SMALL |= {
    "gpt-oss-20b": (*ATTENTION, "intermediate_size=128", "num_local_experts=16",
                    "sliding_window=16"),
    "glm-4.5-air": (*ATTENTION, "intermediate_size=192", "moe_intermediate_size=128",
                    "n_routed_experts=16", "num_experts_per_tok=4"),
    "gemma-4-26b-a4b": (*ATTENTION, "global_head_dim=128", "num_global_key_value_heads=1",
                        "intermediate_size=192", "moe_intermediate_size=128", "num_experts=16",
                        "top_k_experts=4", "sliding_window=16"),
    "lfm2-8b-a1b": (*ATTENTION, "intermediate_size=192", "moe_intermediate_size=128",
                    "num_experts=16"),
    "nemotron-3-nano-30b-a3b": (
        *ATTENTION, "mamba_num_heads=8", "mamba_head_dim=32", "n_groups=2", "ssm_state_size=64",
        "moe_intermediate_size=128", "moe_shared_expert_intermediate_size=128",
        "n_routed_experts=16", "num_experts_per_tok=4", 'hybrid_override_pattern="ME*E-"'),
}  # fmt: skip
STACKS = r"\.(switch_mlp|switch_glu|experts)\.\w+\.weight$"
TOKENS = [int(t) for t in np.random.Generator(np.random.PCG64(5)).integers(0, 256, 40)]


def digest(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(scope="module", params=sorted(SMALL))
def small(request, tmp_path_factory):
    name = request.param
    recipe = Recipe(name, 5, SMALL[name], seed=3, shard_bytes=1 << 20)
    return synthesize(tmp_path_factory.mktemp("synth") / name, recipe)


# Of design measurements on the real configs: parameters (billions), experts' bytes, total GB.
@pytest.mark.parametrize(
    ("name", "billions", "expert_bytes", "gigabytes"),
    [
        ("qwen3-30b-a3b", 30.5, 2654208, 17.2),
        ("qwen3-235b-a22b", 235.1, 10616832, 132.3),
        ("qwen3-next-80b-a3b", 79.7, 1769472, 44.8),
        ("qwen3.6-35b-a3b", 34.7, 1769472, 19.5),
        ("qwen3.5-397b-a17b", 396.3, 7077888, 223.0),
        ("gpt-oss-20b", 20.9, 13996800, 11.8),
        ("glm-4.5-air", 106.9, 9732096, 60.1),
        ("gemma-4-26b-a4b", 25.2, 3345408, 14.2),
        ("lfm2-8b-a1b", 8.3, 6193152, 4.7),
        ("nemotron-3-nano-30b-a3b", 31.6, 5612544, 17.8),
    ],
)
def test_real_shapes_have_the_parameters_and_bytes_of_the_real_models(
    name, billions, expert_bytes, gigabytes
):
    items = layout.items(shape(name), 0, 0.0)
    matrices = [item for item in items if isinstance(item, Matrix)]
    gates = [item for item in items if isinstance(item, Gate)]
    count = sum(m.n_groups * 64 for m in matrices) + sum(g.out * g.columns for g in gates)
    assert round(count / 1e9, 1) == billions
    layer = next(m.name for m in matrices if m.experts).rpartition(".")[0]
    of_an_expert = [m for m in matrices if m.name.startswith(f"{layer}.")]
    assert sum(mlx.nbytes(m) // m.experts for m in of_an_expert) == expert_bytes
    assert round(mlx.data_bytes(items) / 1e9, 1) == gigabytes


@pytest.mark.parametrize("name", SHAPES)
def test_the_family_takes_every_tensor_of_a_real_shape(name):
    _, spec = on_paper(name)  # refuses tensors that it has no place for
    assert len(spec.layers) == shape(name)["num_hidden_layers"] and spec.moes


def test_the_model_computes_what_the_reference_computes(small):
    model = moeflux.load(small, memory="256MiB", context=64)
    out = model.session().step(TOKENS, all_logits=True, capture={"experts", "hidden"})
    trace = Reference(small).forward(TOKENS)
    scale = np.abs(trace.logits).max()
    assert 1 < scale < 50
    assert np.abs(out["logits"] - trace.logits).max() < 1e-3 * scale


@pytest.mark.parametrize("name", SMALL)
def test_activations_stay_level_over_all_layers_of_a_deep_model(name, tmp_path):
    settings = [setting for setting in SMALL[name] if "pattern" not in setting]
    recipe = Recipe(name, shape(name)["num_hidden_layers"], settings)
    model = moeflux.load(synthesize(tmp_path / "m", recipe), memory="512MiB", context=64)
    tokens = list(range(40))  # no token twice
    out = model.session().step(tokens, all_logits=True, capture={"hidden", "router"})
    rms = np.sqrt((out["hidden"] ** 2).mean(axis=(0, 2)))
    assert 0.9 < rms[0] < 1.1 and rms[-1] < 4
    assert (out["hidden"][:, :, :64] == 1).all()  # the channels that carry a router's bias
    # Tokens have not grown alike: a collapsed model would route all of them to the same experts.
    last = out["hidden"][:, -1, 64:]
    last = last / np.linalg.norm(last, axis=1, keepdims=True)
    assert np.abs(last @ last.T - np.eye(len(last))).max() < 0.5


def test_shards_are_read_in_place_at_odd_offsets_and_named_by_an_index(small):
    found = checkpoint.open_checkpoint(small)
    assert len(found.files) > 1
    words = [t for t in found.tensors.values() if t.dtype == "U32"]
    assert any(t.offset % 4 for t in words)


def test_every_expert_differs_from_every_other(small):
    stored = Checkpoint(small).stored
    stacks = [n for n in stored if re.search(STACKS, n) and n.endswith(".weight")]
    assert len(stacks) > 1
    slices = [stored[name].data[e].tobytes() for name in stacks for e in range(16)]
    assert len(set(slices)) == len(slices) == 16 * len(stacks)
    # And by construction: no two of up to N_GROUPS slices begin at one group of the pool.
    assert all(N_GROUPS % divisor for divisor in range(2, 1024)) and 0 < STRIDE < N_GROUPS


def test_rows_of_the_embedding_differ():
    recipe = shape("qwen3-30b-a3b")
    row, period = recipe["hidden_size"] // 64, N_GROUPS
    assert all((rows * row) % period for rows in range(1, recipe["vocab_size"]))


def test_equal_recipes_give_equal_bytes_and_other_seeds_others(tmp_path):
    one, same, other = (
        digest(synthesize(tmp_path / name, Recipe(seed=seed)))
        for name, seed in [("one", 1), ("same", 1), ("other", 2)]
    )
    assert one == same
    assert one["model-00001-of-00001.safetensors"] != other["model-00001-of-00001.safetensors"]


def routed(folder, n_tokens=400):
    """How often each expert is used, by layer, and the hit rate of an LRU of a quarter of them."""
    model = moeflux.load(folder, memory="512MiB", context=n_tokens)
    tokens = np.random.Generator(np.random.PCG64(0)).integers(0, model.vocab_size, n_tokens)
    experts = model.session().step(tokens, capture={"experts"})["experts"]
    n_layers = experts.shape[1]
    counts = np.stack([np.bincount(experts[:, i].ravel(), minlength=64) for i in range(n_layers)])
    lru: dict = {}
    hits = total = 0
    for token, layer in itertools.product(range(n_tokens), range(n_layers)):
        for expert in experts[token, layer]:
            key = (layer, int(expert))
            if token >= n_tokens // 4:
                total, hits = total + 1, hits + (key in lru)
            lru.pop(key, None)
            lru[key] = None
            if len(lru) > n_layers * 16:
                del lru[next(iter(lru))]
    return counts / n_tokens, hits / total


@pytest.mark.parametrize("skew", [0.0, 0.5, 1.0])
def test_routing_is_as_skewed_as_asked_and_hits_as_often_as_predicted(tmp_path, skew):
    settings = (*SMALL["qwen3-30b-a3b"], "num_experts=64", "vocab_size=4096")
    folder = synthesize(tmp_path / "m", Recipe("qwen3-30b-a3b", 4, settings, skew=skew))
    shares, hits = routed(folder)
    expected = np.array(hit_rate.popularity(64, 4, skew))
    for of_layer in shares:
        sorted_shares = np.sort(of_layer)[::-1]
        assert np.abs(np.cumsum(sorted_shares) - np.cumsum(expected)).max() < 0.12 * 4
    # Another layer, another order of experts.
    assert len({tuple(np.argsort(-s)[:4]) for s in shares}) == len(shares)
    assert abs(hits - hit_rate.hit_rate(0.25, 64, 4, skew)) < 0.06


def test_hit_rates_of_a_cache_that_holds_less_than_a_token_or_everything():
    for skew in (0.0, 1.0):
        assert hit_rate.hit_rate(7 / 128 - 1e-9, 128, 8, skew) == 0
        assert hit_rate.hit_rate(1.0, 128, 8, skew) == 1
    assert hit_rate.hit_rate(0.5, 128, 8) == pytest.approx(0.5, abs=1e-6)
    rates = [hit_rate.hit_rate(share / 20, 128, 8, 1.0) for share in range(2, 21)]
    assert rates == sorted(rates) and rates[8] > 0.7


def test_text_goes_in_and_out(small):
    model = moeflux.load(small, memory="256MiB", context=128)
    text = "Grüße, 世界!"
    assert model.tokenizer.decode(model.tokenizer.encode(text)) == text
    assert model.tokenizer.decode([257, 299]) == " w257 w299"
    answer = moeflux.generate(model, messages=[{"role": "user", "content": text}], max_tokens=5)
    assert answer


def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path):
    recipe = Recipe("qwen3-30b-a3b", 3, SMALL["qwen3-30b-a3b"], shard_bytes=1 << 19)
    expected = digest(synthesize(tmp_path / "whole", recipe))
    kill.until_done(
        lambda seconds: forked(synthesize, tmp_path / "killed", recipe, seconds=seconds),
        seed=1,
        start_over=lambda: shutil.rmtree(tmp_path / "killed"),
    )
    found = digest(tmp_path / "killed")
    assert {name: found[name] for name in expected} == expected
    assert all(name.endswith(durable.PART) for name in found.keys() - expected.keys())


def test_shards_that_are_there_are_kept(tmp_path):
    recipe = Recipe(shard_bytes=1 << 20)
    folder = synthesize(tmp_path / "m", recipe)
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    removed = sorted(before)[1]
    (folder / removed).unlink()
    synthesize(folder, recipe)
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    assert {name for name in before if after[name] != before[name]} == {removed}


def test_a_short_disk_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=7 << 20))
    with pytest.raises(moeflux.IoError, match=r"disk is short.*free"):
        synthesize(tmp_path / "m", Recipe())
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["synth.json"]


def test_folders_of_others_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(moeflux.FormatError, match="empty folder"):
        synthesize(tmp_path, Recipe())
    folder = synthesize(tmp_path / "m", Recipe(seed=1))
    with pytest.raises(moeflux.FormatError, match="another model: expected seed 2, found 1"):
        synthesize(folder, Recipe(seed=2))


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe("qwen9"),
        Recipe(settings=("no_such_key=3",)),
        Recipe(settings=("num_experts",)),
        Recipe(settings=("num_experts=many",)),
        Recipe(settings=("num_experts=0",)),
        Recipe(settings=("num_experts=true",)),
        Recipe(settings=("num_experts_per_tok=33",)),
        Recipe(settings=("hidden_size=200",)),
        Recipe(settings=("vocab_size=257",)),
        Recipe(settings=("num_key_value_heads=3",)),
        Recipe(layers=0),
        Recipe(layers=1 << 30),
        Recipe(settings=('model_type="qwen9"',)),
        Recipe(settings=("model_type=[]",)),
        Recipe(settings=("attention_bias=true",)),
        Recipe("glm-4.5-air", settings=("use_qk_norm=true",)),
        Recipe("glm-4.5-air", settings=("norm_topk_prob=1",)),
        Recipe("gpt-oss-20b", settings=("layer_types=5",)),
        Recipe("gpt-oss-20b", settings=("layer_types=[]",)),
        Recipe("gpt-oss-20b", settings=('layer_types=["conv"]',)),
        Recipe("gpt-oss-20b", settings=("layer_types=[[]]",)),
        Recipe("nemotron-3-nano-30b-a3b", settings=('hybrid_override_pattern="MX"',)),
        Recipe("glm-4.5-air", settings=("first_k_dense_replace=-1",)),
        Recipe("lfm2-8b-a1b", settings=("num_experts_per_tok=33",)),
        Recipe(skew=-1),
        Recipe(skew=float("nan")),
    ],
    ids=str,
)
def test_recipes_that_make_no_model_are_refused(tmp_path, recipe):
    with pytest.raises(moeflux.FormatError, match=r"^\[synth\]"):
        synthesize(tmp_path / "m", recipe)
    assert not (tmp_path / "m").exists()


def test_the_command_writes_a_model_that_loads(tmp_path):
    folder = tmp_path / "m"
    done = run_moeflux("synth", folder, "--shape", "small", "--layers", 2, "--set",
                       "num_experts=8", "--skew", 1)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(folder)
    config = json.loads((folder / "config.json").read_text())
    assert (config["num_hidden_layers"], config["num_experts"]) == (2, 8)
    assert moeflux.load(folder, memory="128MiB", context=64).session().step([1, 2]).shape == (1024,)


def test_every_shape_is_one_that_the_recipe_check_accepts():
    assert all(layout.items(shape(name), 0, 0.0) for name in SHAPES)
    names = {item.name for item in layout.items(shape("qwen3.6-35b-a3b"), 0, 0.0)}
    assert Counter(name.rpartition(".")[2] for name in names)["q_proj"] == 10
