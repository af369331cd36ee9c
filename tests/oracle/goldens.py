"""The stored goldens: how each one's checkpoint is built, and how to read it.

A golden holds what transformers (f32, eager) computed from the exactly dequantised weights; the
mlx cases of families that mlx-lm has were held to it, with float32 activations: the same experts,
and the difference of logits in the JSON file. Those of the first families hold `mlx_logits`, too.
Made by tools/goldens/make.py.
"""

from __future__ import annotations

import copy
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .families import FAMILIES
from .writer import build

FOLDER = Path(__file__).resolve().parent.parent / "golden"
TOLERANCE = {name: family.tolerance for name, family in FAMILIES.items()}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
_DENSE_LAYER = {"mlp_only_layers": [1]}
# A small embedding under full-size branches is ill-conditioned: transformers itself is then
# 2e-4 from float64.
_TIED = {"tie_word_embeddings": True, "branch_gain": 0.5}


@dataclass(frozen=True)
class Case:
    """One golden.

    `same_as` are other forms that hold the same values and share it; with `mlx`, mlx-lm computes
    the same of an mlx form.
    """

    family: str
    form: str
    options: dict[str, Any] = field(default_factory=dict)
    same_as: tuple[str, ...] = ()
    mlx: bool = True

    def build(self, folder: Path, form: str | None = None) -> Path:
        """Write the checkpoint this golden was made from (or an equal form of it)."""
        return build(folder, self.family, form or self.form, 0, **self.options)


CASES: dict[str, Case] = {}
for _family in (name for name in FAMILIES if name != "gpt_oss"):
    CASES |= {
        f"{_family}-hf": Case(_family, "hf-f32", same_as=("hf-bf16", "hf-f16")),
        f"{_family}-q4": Case(_family, "mlx-q4"),
    }
# Mlx-lm has one limit, and does as if `truncate` was true, which no config of this family says.
_AS_MLX = {"rope_scaling": FAMILIES["gpt_oss"].base["rope_scaling"] | {"truncate": True},
           "swiglu_limit": 7.0}  # fmt: skip
CASES |= {
    "gpt_oss-mlx": Case("gpt_oss", "mlx-f32", same_as=("mlx-bf16", "mlx-f16"), mlx=False),
    "gpt_oss-q4": Case("gpt_oss", "mlx-q4", _AS_MLX),
}
for _family in ("qwen3_moe", "qwen3_next", "qwen3_5_moe"):
    CASES[f"{_family}-hf-wide"] = Case(_family, "hf-f32-wide", same_as=("hf-bf16-wide",))
for _family in ("qwen3_moe", "qwen3_next"):
    CASES |= {
        f"{_family}-q4-odd": Case(_family, "mlx-q4-odd"),
        f"{_family}-q4-g32": Case(_family, "mlx-q4-g32"),
        f"{_family}-q4-g128": Case(_family, "mlx-q4-g128", {"moe_intermediate_size": 128}),
        f"{_family}-raw-topk": Case(_family, "hf-f32", {"norm_topk_prob": False}, ("hf-bf16",)),
        f"{_family}-tied": Case(_family, "mlx-q4", _TIED),
        f"{_family}-bias": Case(_family, "hf-f32", {"attention_bias": True}, ("hf-bf16",)),
        f"{_family}-dense-layer": Case(_family, "mlx-q4", _DENSE_LAYER),
        f"{_family}-smooth": Case(_family, "mlx-q4", {"branch_gain": 0.25}),
    }
# Every width, where it matters most: qwen3_next has all kinds of matrices.
for _family, _widths in {
    "qwen3_moe": ("q3", "q8", "q3_6"),
    "qwen3_next": ("q2", "q3", "q5", "q6", "q8", "q3_6"),
    "qwen3_5_moe": ("q3", "q6", "q8", "q4_8"),
}.items():
    CASES |= {f"{_family}-{width}": Case(_family, f"mlx-{width}") for width in _widths}
CASES["qwen3_moe-yarn"] = Case("qwen3_moe", "hf-f32", {"rope_scaling": _YARN}, ("hf-bf16",))
CASES["nemotron_h-latent"] = Case("nemotron_h", "mlx-q4", {"moe_latent_size": 64})
CASES["qwen3_next-q4-wide"] = Case("qwen3_next", "mlx-q4-wide")
# A golden in one of the forms that hold its values. MOEFLUX_GOLDENS=all takes every one (.ci/full);
# few are a form or more of each family.
ALL = [(name, form) for name, case in CASES.items() for form in (case.form, *case.same_as)]
FEW = [
    *((f"{_family}-q4", "mlx-q4") for _family in FAMILIES),
    ("gpt_oss-mlx", "mlx-bf16"),
    ("qwen3_moe-yarn", "hf-f32"),
    ("qwen3_next-q3_6", "mlx-q3_6"),
    ("nemotron_h-latent", "mlx-q4"),
    ("qwen3_next-hf", "hf-f16"),
    ("qwen3_next-q2", "mlx-q2"),
    ("qwen3_5_moe-hf", "hf-bf16"),
]
_SIZE = os.environ.get("MOEFLUX_GOLDENS", "few")
FORMS = {"all": ALL, "few": FEW}[_SIZE]
# For suites that take minutes: few families have all parts that there are.
SOME_FAMILIES = {
    "all": tuple(FAMILIES),
    "few": ("qwen3_moe", "qwen3_next", "gpt_oss", "glm4_moe_lite"),
}[_SIZE]
# What devices compute; of the few, what dispatches every kernel that the others do.
_LIKE_OTHERS = {"all": (), "few": ("qwen2_moe", "mixtral")}[_SIZE]
ON_DEVICES = [
    (name, form)
    for name, form in FORMS
    if not FAMILIES[CASES[name].family].beyond_devices and CASES[name].family not in _LIKE_OTHERS
]


@dataclass(frozen=True)
class Golden:
    """Arrays of one case. T = prompt_len + generated tokens.

    arrays: tokens [T], logits [T,vocab], hidden_positions [P], hidden [layers,P,hidden],
    expert_ids.{i} [T,K] ascending, expert_weights.{i} [T,K], mlx_logits (mlx cases).
    """

    case: Case
    prompt_len: int
    arrays: dict[str, np.ndarray]
    info: dict[str, Any]

    @property
    def tokens(self) -> list[int]:
        """Prompt and greedy continuation."""
        return [int(token) for token in self.arrays["tokens"]]

    @property
    def moe_layers(self) -> list[int]:
        """Layers that have a router."""
        return sorted(int(k.split(".")[1]) for k in self.arrays if k.startswith("expert_ids."))


def load(name: str) -> Golden:
    """Read golden `name`."""
    info = json.loads((FOLDER / f"{name}.json").read_text())
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    return Golden(CASES[name], info["prompt_len"], arrays, info)


def chat(golden: dict[str, Any], render: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Messages and options of a render in chat_templates.json; True stands for the file's own."""
    options = copy.deepcopy(render["options"])
    for name in ("tools", "documents"):
        if options.get(name) is True:
            options[name] = golden[name]
    return golden["talks"][render["talk"]], options
