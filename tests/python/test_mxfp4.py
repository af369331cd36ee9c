"""The layout of gpt-oss' releases: MXFP4 experts, held to the same numbers as float32 in MLX's.

The numbers are those of OCP's specification of microscaling formats (MXFP4: E2M1, E8M0, 32), taken
here in float64 and, a second time, by the `gguf` package.
"""

import json

import gguf
import numpy as np
import pytest

import moeflux
from moeflux.checkpoint import open_checkpoint
from moeflux.converting import Settings, convert
from moeflux.families import build_spec
from moeflux.packing import pack
from moeflux.planning import plan
from oracle import build
from oracle.safetensors_file import Stored, encode, read
from oracle.writer import write_checkpoint
from support import tensors
from support.commands import run_moeflux
from support.float32_twin import ROOM, SameNumbers, logits, prompt

EXPERTS, WIDTH, HIDDEN, LAYERS = 8, 96, 128, 2
METHOD = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn",
          "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]}  # fmt: skip
PARTS = {"gate_up_proj": {"gate_proj": np.s_[::2], "up_proj": np.s_[1::2]},
         "down_proj": {"down_proj": np.s_[:]}}  # fmt: skip
MAGNITUDES = [0, 0.5, 1, 1.5, 2, 3, 4, 6]


def by_the_specification(blocks, scales):
    """float64 [..., columns] of blocks [..., groups, 16] and exponents [..., groups]."""
    codes = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*blocks.shape[:-1], 32)
    elements = np.array(MAGNITUDES)[codes & 7] * np.where(codes & 8, -1.0, 1.0)
    values = elements * np.exp2(scales.astype(np.float64) - 127)[..., None]
    return values.reshape(*scales.shape[:-1], -1)


def by_gguf(blocks, scales):
    """The same by gguf, whose byte i of a block has columns i and i + 16."""
    codes = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*blocks.shape[:-1], 32)
    own = np.concatenate([scales[..., None], codes[..., :16] | codes[..., 16:] << 4], axis=-1)
    values = gguf.quants.dequantize(own.reshape(-1, 17), gguf.GGMLQuantizationType.MXFP4)
    return values.reshape(*scales.shape[:-1], -1)


def tensors_of(folder):
    return {name: stored for file in sorted(folder.glob("*.safetensors"))
            for name, stored in read(file).items()}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A config, the tensors of a release and the same numbers in MLX's layout."""
    folder = build(tmp_path_factory.mktemp("source"), "gpt_oss", "mlx-bf16", 5, hidden_size=HIDDEN,
                   num_local_experts=EXPERTS, intermediate_size=WIDTH, num_hidden_layers=LAYERS,
                   layer_types=["sliding_attention", "full_attention"])  # fmt: skip
    plain = {name: stored for file in sorted(folder.glob("*.safetensors"))
             for name, stored in read(file).items() if ".mlp.experts." not in name}  # fmt: skip
    hub, random = dict(plain), np.random.Generator(np.random.PCG64(11))
    for layer in range(LAYERS):
        module = f"model.layers.{layer}.mlp.experts"
        for own, out, columns in (
            ("gate_up_proj", 2 * WIDTH, HIDDEN),
            ("down_proj", HIDDEN, WIDTH),
        ):
            groups = (EXPERTS, out, columns // 32)
            blocks = random.integers(0, 256, (*groups, 16)).astype(np.uint8)
            scales = random.integers(119, 123, groups).astype(np.uint8)
            bias = encode(random.standard_normal((EXPERTS, out)) / 4, "BF16")
            hub |= {f"{module}.{own}_blocks": Stored("U8", blocks),
                    f"{module}.{own}_scales": Stored("U8", scales),
                    f"{module}.{own}_bias": bias}  # fmt: skip
            values = by_the_specification(blocks, scales)
            assert np.array_equal(values, by_gguf(blocks, scales))
            for part, rows in PARTS[own].items():
                plain[f"{module}.{part}.weight"] = encode(values[:, rows], "F32")
                plain[f"{module}.{part}.bias"] = Stored("BF16", bias.data[:, rows].copy())
    return json.loads((folder / "config.json").read_text()), hub, plain


def write(folder, made, change=None, method=METHOD):
    """The release's folder, after a `change` of its tensors."""
    config, hub, _ = made
    hub = dict(hub)
    if change is not None:
        change(hub)
    return write_checkpoint(folder, config | {"quantization_config": method}, hub, "hf", 2)


@pytest.fixture(scope="module")
def folders(made, tmp_path_factory):
    root = tmp_path_factory.mktemp("mxfp4")
    config, _, plain = made
    return write(root / "hub", made), write_checkpoint(root / "plain", config, plain, "mlx", 1)


class TestSameNumbers(SameNumbers):
    TOKENS = prompt(3)


@pytest.fixture(scope="module")
def expected(folders):
    return logits(folders[0], TestSameNumbers.TOKENS)[0]


@pytest.mark.parametrize("packed_first", [False, True])
def test_it_converts_as_the_same_numbers_do(folders, tmp_path, packed_first):
    """Rows of gate and up are told apart, as are their biases."""
    source = pack(folders[0], tmp_path / "packed") if packed_first else folders[0]
    found = convert(source, tmp_path / "found", Settings(6, 4, 32))
    expected = convert(folders[1], tmp_path / "expected", Settings(6, 4, 32))
    assert tensors.differing(tensors.of(found), tensors.of(expected)) == []
    assert "mxfp4" not in (found / "config.json").read_text()


def test_info_and_plan_know_the_layout(folders):
    done = run_moeflux("info", folders[0], "--json")
    facts = json.loads(done.stdout)
    # 17 bytes hold 32 numbers; biases are not read on demand
    assert facts["expert_bytes"] == 3 * WIDTH * HIDDEN * 17 // 32
    assert (facts["expert_formats"], facts["expert_bits"]) == (["mxfp4_planes"], 4)
    assert (facts["ignored_tensors"], facts["experts_per_layer"]) == (0, EXPERTS)
    checkpoint = open_checkpoint(folders[0])
    sizes = plan.measure(checkpoint, build_spec(checkpoint), 128, 2)
    assert sizes.expert_bytes == facts["expert_bytes"]
    least = plan.minimum_bytes(sizes)
    assert moeflux.load(folders[0], memory=least, context=128, threads=2)
    with pytest.raises(moeflux.MemoryBudgetError, match=str(least)):
        moeflux.load(folders[0], memory=least - 1, context=128, threads=2)


FIRST = "model.layers.0.mlp.experts."


def cut(name, rows):
    """Leaves out the last numbers of a tensor's dimension."""

    def change(hub):
        stored = hub[FIRST + name]
        hub[FIRST + name] = Stored(stored.dtype, stored.data[rows].copy())

    return change


def more(name):
    """Stores four bytes more."""
    name = f"model.layers.0.{name}"
    return lambda hub: hub.update({name: Stored("U8", np.zeros(4, np.uint8))})


def as_words(hub):
    blocks = hub[f"{FIRST}down_proj_blocks"].data
    hub[f"{FIRST}down_proj_blocks"] = Stored("U32", blocks.view("<u4"))


HOSTILE = {
    "no blocks": (lambda hub: hub.pop(f"{FIRST}gate_up_proj_blocks"), "gate_up_proj_blocks"),
    "no scales": (lambda hub: hub.pop(f"{FIRST}down_proj_scales"), "down_proj_scales"),
    "no biases": (lambda hub: hub.pop(f"{FIRST}gate_up_proj_bias"), "gate_up_proj_bias"),
    "few experts": (cut("gate_up_proj_blocks", np.s_[:7]), r"\[8, 192, 4, 16\].*\[7, 192, 4, 16\]"),
    "few rows": (cut("down_proj_blocks", np.s_[:, :96]), r"\[8, 128, 3, 16\].*\[8, 96, 3, 16\]"),
    "half blocks": (cut("down_proj_blocks", np.s_[..., :8]), r"\[8, 128, 3, 8\]"),
    "few scales": (cut("gate_up_proj_scales", np.s_[..., :3]), r"\[8, 192, 4\].*\[8, 192, 3\]"),
    "few biases": (cut("gate_up_proj_bias", np.s_[:, :96]), r"1536 numbers.*\[8, 96\]"),
    "words": (as_words, r"U8 \[8, 128, 3, 16\], found U32 \[8, 128, 3, 4\]"),
    "codes": (more("self_attn.q_proj.scales"), "plain weights beside MXFP4 experts.*q_proj"),
    "more": (more("mlp.experts.gate_proj.weight"), "no place for, found .*gate_proj"),
    "transposed": (more("mlp.experts.gate_up_proj"), "found gate_up_proj, which is transposed"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), HOSTILE.values(), ids=HOSTILE)
def test_tensors_that_do_not_fit_are_refused_by_name(made, tmp_path, change, message):
    with pytest.raises(moeflux.FormatError, match=message):
        moeflux.load(write(tmp_path, made, change), **ROOM)


def test_an_exponent_that_is_no_number_is_refused(made, tmp_path):
    def change(hub):
        scales = hub[f"{FIRST}gate_up_proj_scales"].data.copy()
        scales[:, 5, 2] = 255
        hub[f"{FIRST}gate_up_proj_scales"] = Stored("U8", scales)

    hub = write(tmp_path, made, change)
    with pytest.raises(moeflux.FormatError, match=r"finite.*(?s:.)*safetensors"):
        moeflux.load(hub, **ROOM).session().step([1, 2, 3])


@pytest.mark.parametrize(
    ("method", "message"),
    [({"quant_method": "awq"}, "plain, mxfp4 or MLX's, found quant_method 'awq'"),
     ({"quant_method": ["mxfp4"]}, "found quant_method"),
     ({}, "quant_method 'mxfp4'.*found none")],
)  # fmt: skip
def test_other_methods_are_refused_by_name(made, tmp_path, method, message):
    with pytest.raises(moeflux.FormatError, match=message):
        moeflux.load(write(tmp_path, made, method=method), **ROOM)


def load_with(tmp_path, folder, **changes):
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    config = json.loads((folder / "config.json").read_text()) | changes
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    return moeflux.load(tmp_path, **ROOM)


def test_a_width_of_no_whole_groups_is_refused(folders, tmp_path):
    with pytest.raises(moeflux.FormatError, match="whole groups of 32, found 80"):
        load_with(tmp_path, folders[0], intermediate_size=80)


def test_mlx_layout_with_the_method_of_releases_is_refused(folders, tmp_path):
    with pytest.raises(moeflux.FormatError, match=r"expected tensor .*gate_up_proj_blocks"):
        load_with(tmp_path, folders[1], quantization_config=METHOD)
