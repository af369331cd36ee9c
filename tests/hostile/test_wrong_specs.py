"""The native side believes no shape that Python hands over: each is checked against the others.

A spec as a family builds it, with one entry changed, must be refused by name and not computed with.
"""

import copy
import re

import pytest

import moeflux
from moeflux import _core
from moeflux.checkpoint import open_checkpoint
from moeflux.families import build_spec
from moeflux.spec import tree
from oracle import build

FORMS = [("qwen3_moe", "hf-bf16"), ("qwen3_moe", "mlx-q4"), ("qwen3_next", "mlx-q4"),
         ("qwen3_5_moe", "hf-bf16"), ("glm4_moe", "hf-bf16"), ("olmoe", "hf-bf16"),
         ("gpt_oss", "mlx-bf16"), ("nemotron_h", "hf-bf16")]  # fmt: skip


@pytest.fixture(scope="module", params=FORMS, ids="-".join)
def checkpoint(request, tmp_path_factory):
    family, form = request.param
    return open_checkpoint(build(tmp_path_factory.mktemp("m") / "m", family=family, form=form))


def built(checkpoint):
    return tree(build_spec(checkpoint))


def load(checkpoint, spec):
    return _core.load_model(
        spec=spec, files=[str(file) for file in checkpoint.files], memory_bytes=256 << 20,
        direct=True, compute=_core.Compute(n_threads=2),
        options=_core.Options(context=64, read_threads=2, read_ahead=False),
    )  # fmt: skip


def refused(checkpoint, spec, words):
    with pytest.raises(moeflux.FormatError, match=words):
        load(checkpoint, spec)


def matrices(node):
    """Every resident matrix's dict below `node`."""
    for key, value in node.items():
        if key == "experts":
            continue
        if isinstance(value, dict) and "in" in value:
            yield value
        elif isinstance(value, dict):
            yield from matrices(value)


def vectors(node):
    for key, value in node.items():
        if isinstance(value, dict) and "count" in value:
            yield value
        elif isinstance(value, dict) and key != "experts":
            yield from vectors(value)


def test_the_spec_as_built_is_accepted(checkpoint):
    assert load(checkpoint, built(checkpoint))


def all_of(spec, kind):
    """(where, entry) of every matrix or vector of the spec."""
    for part in ("embed", "head"):
        if kind is matrices and part in spec:
            yield part, spec[part]
    for index, layer in enumerate(spec["layers"]):
        for entry in kind(layer):
            yield f"layer {index}", entry


def test_a_matrix_without_rows_is_refused(checkpoint):
    """Others of its network take their width from it."""
    reference = built(checkpoint)
    for layer in range(len(reference["layers"])):
        for index in range(sum(1 for _ in matrices(reference["layers"][layer]))):
            spec = copy.deepcopy(reference)
            list(matrices(spec["layers"][layer]))[index]["rows"] = [(0, 0)]
            with pytest.raises(moeflux.FormatError):
                load(checkpoint, spec)


@pytest.mark.parametrize(
    ("rows", "words"),
    [([(0,)], "expected pairs of rows, found 1"), ([(0, 1, 2, 3)], "found 4"), ("all", "rows")],
)
def test_ranges_of_rows_are_pairs(checkpoint, rows, words):
    spec = built(checkpoint)
    spec["embed"]["rows"] = rows
    refused(checkpoint, spec, words)


@pytest.mark.parametrize("value", [None, b"8", object()])
def test_a_spec_of_other_types_is_a_format_error(checkpoint, value):
    spec = built(checkpoint)
    spec["vocab"] = value
    refused(checkpoint, spec, "expected a spec's types")


def test_a_spec_that_holds_itself_is_refused(checkpoint):
    spec = built(checkpoint)
    spec["layers"] = [spec]
    spec["layers"][0]["again"] = spec
    refused(checkpoint, spec, "endless nesting")


def test_a_matrix_of_fewer_rows_is_refused_by_its_tensors_name(checkpoint):
    """The rows that are left are well-formed: only the shape beside the others is wrong."""
    spec = built(checkpoint)
    for number in range(len(list(all_of(spec, matrices)))):
        wrong = copy.deepcopy(spec)
        _, entry = list(all_of(wrong, matrices))[number]
        rows = entry.get("rows") or [(0, entry["out"])]
        if sum(count for _, count in rows) == 1:
            continue  # the shared expert's gate
        entry["rows"] = [*rows[:-1], (rows[-1][0], rows[-1][1] - 1)]
        name = re.escape(entry["weight"][0])
        # Of gate and up neither is known to be the right one; of up alone the width is taken.
        name = name.replace("gate_proj", "(gate|up)_proj")
        if "'unit': 'relu2'" in str(spec["layers"]):
            name = name.replace("up_proj", "(up|down)_proj")
        refused(checkpoint, wrong, name)


def test_a_vector_of_fewer_numbers_is_refused_by_its_tensors_name(checkpoint):
    spec = built(checkpoint)
    for number in range(len(list(all_of(spec, vectors)))):
        wrong = copy.deepcopy(spec)
        _, entry = list(all_of(wrong, vectors))[number]
        entry["count"] -= 1
        refused(checkpoint, wrong, re.escape(entry["tensor"][0]))


def numbers(layer):
    """The runtime numbers that shapes hang on: (dict, key)."""
    mixer = layer[layer["mixer"]]
    for key, value in mixer.items():
        if isinstance(value, int) and key != "window":  # any number is one
            yield mixer, key
    if "moe" in layer:
        yield layer["moe"], "n_experts"


@pytest.mark.parametrize("change", [lambda n: 2 * n, lambda n: n + 1, lambda n: 0, lambda n: 2**31])
def test_a_wrong_number_is_refused(checkpoint, change):
    spec = built(checkpoint)
    for index, layer in enumerate(spec["layers"]):
        for number in range(len(list(numbers(layer)))):
            wrong = copy.deepcopy(spec)
            node, key = list(numbers(wrong["layers"][index]))[number]
            right, node[key] = node[key], change(node[key])
            if node[key] != right:  # twice none is none
                refused(checkpoint, wrong, "expected")


@pytest.mark.parametrize(
    ("key", "wrong"),
    [("limit", -1.0), ("limit", float("inf")), ("alpha", float("nan")), ("up_add", float("inf")),
     ("scale", float("nan")), ("sum_eps", -1.0)],
)  # fmt: skip
def test_numbers_of_routers_and_experts_that_are_none_are_refused(checkpoint, key, wrong):
    spec = copy.deepcopy(built(checkpoint))
    moe = spec["layers"][-1]["moe"]
    node = moe if key in moe else moe["experts"]
    assert key in node
    node[key] = wrong
    refused(checkpoint, spec, "finite")


def test_wrong_numbers_of_experts_a_token_are_refused(checkpoint):
    spec = built(checkpoint)
    for top_k in (0, spec["layers"][-1]["moe"]["n_experts"] + 1):
        wrong = copy.deepcopy(spec)
        wrong["layers"][-1]["moe"]["top_k"] = top_k
        place = rf"\(layer {len(spec['layers']) - 1}\)"
        refused(checkpoint, wrong, rf"top_k of 1\.\.\d+, found {top_k} {place}")


def test_experts_of_another_width_are_refused(checkpoint):
    """Bytes are right: as many rows more as columns fewer."""
    spec = built(checkpoint)
    there = {"gate", "up", "down"} & spec["layers"][-1]["moe"]["experts"].keys()
    assert len(there) > 1
    for matrix in there:
        wrong = copy.deepcopy(spec)
        expert = wrong["layers"][-1]["moe"]["experts"][matrix]
        expert["out"], expert["in"] = expert["out"] * 2, expert["in"] // 2
        refused(checkpoint, wrong, r"experts\.|expected columns in whole groups")


@pytest.mark.parametrize("key", ["vocab", "d_model", "chunk"])
def test_wrong_outer_numbers_are_refused(checkpoint, key):
    spec = built(checkpoint)
    for value in (0, 1, 2 * spec[key]):
        if key == "chunk" and value:
            continue
        refused(checkpoint, spec | {key: value}, "expected")


def test_too_few_rotary_frequencies_are_refused(checkpoint):
    spec = built(checkpoint)
    if spec["inv_freq"]:
        spec["inv_freq"].pop()
    else:  # positions are not told; two channels take one frequency
        next(layer for layer in spec["layers"] if layer["mixer"] == "attention")["attention"][
            "rotary_dim"
        ] = 2
    refused(checkpoint, spec, r"inv_freq: expected \d+ numbers")


def test_a_number_of_more_than_32_bits_is_refused_by_its_name(checkpoint):
    """Such as the rows of a matrix that a config and a sparse file agree on."""
    spec = built(checkpoint)
    for kind, key in ((matrices, "out"), (matrices, "in"), (matrices, "group"), (vectors, "count")):
        wrong = copy.deepcopy(spec)
        next(iter(all_of(wrong, kind)))[1][key] = 2**32
        refused(checkpoint, wrong, f"{key}: expected integers below 2\\^32, found 4294967296")
    for key in ("vocab", "chunk"):
        refused(checkpoint, spec | {key: -1}, f"{key}: expected integers below 2\\^32, found -1")
    spec["embed"]["rows"] = [(0, 2**32)]
    refused(checkpoint, spec, r"rows: expected integers below 2\^32, found 4294967296")
