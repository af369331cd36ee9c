"""The typed description of a model, and the dicts that the core is handed."""

import numpy as np
import pytest

from moeflux import formats, spec
from moeflux.checkpoint import open_checkpoint
from moeflux.families import build_spec
from oracle import affine, build


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("m") / "m"
    return build_spec(open_checkpoint(build(folder, form="mlx-q4", mlp_only_layers=[1])))


def test_formats_of_weights_are_those_of_the_oracle():
    assert formats.BITS == affine.BITS and formats.GROUPS == affine.GROUP_SIZES


def test_a_tree_has_no_object_of_ours_and_nothing_that_is_none(model):
    def walk(node):
        if isinstance(node, (dict, list, tuple)):
            for value in node.values() if isinstance(node, dict) else node:
                walk(value)
        else:
            assert type(node) in (int, float, bool, str, np.ndarray), node

    walk(spec.tree(model))


def test_a_tree_has_each_part_of_a_layer_under_the_name_of_its_kind(model):
    layers = spec.tree(model)["layers"]
    assert {layer["mixer"] for layer in layers} == {"attention", "delta_net"}
    assert [layer["ffn"] for layer in layers] == ["moe", "dense", "moe", "moe", "moe"]
    for layer in layers:
        assert {layer["mixer"], layer["ffn"]} == layer.keys() & {
            "attention", "delta_net", "moe", "dense"}  # fmt: skip


def test_resident_tensors_are_all_but_the_experts(model, tmp_path):
    checkpoint = open_checkpoint(build(tmp_path, form="mlx-q4", mlp_only_layers=[1]))
    names = {name for name in checkpoint.tensors if ".switch_mlp." not in name}
    assert [tensor.name for tensor in model.resident] == sorted(names)
    embed = [tensor.nbytes for tensor in model.resident if ".embed_tokens." in tensor.name]
    assert model.token_bytes == sum(tensor.nbytes for tensor in model.resident) - sum(embed)


def test_ranges_of_an_expert_hold_its_weights_in_an_aligned_record(model):
    for moe in model.moes:
        n, end = moe.n_experts, 0
        for part, place in moe.experts.ranges(n - 1):
            assert place.nbytes == part.nbytes and part.offset % 64 == 0 and part.offset >= end
            end = part.offset + part.nbytes
        assert end <= moe.experts.record_bytes < end + 16384
        assert moe.experts.n_experts == n
