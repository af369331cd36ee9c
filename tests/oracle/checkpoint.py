"""A checkpoint folder as exact float64 arrays under hub-like names. Small files only."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from . import affine, safetensors_file
from .families import FAMILIES
from .layout import EXPERT_MATRICES
from .safetensors_file import Stored

Array = np.ndarray


class Checkpoint:
    """Reads every form that `writer.build` writes; names are asked for without their prefix."""

    def __init__(self, folder: Path | str) -> None:
        folder = Path(folder)
        self.config = json.loads((folder / "config.json").read_text())
        self.text = self.config.get("text_config", self.config)
        self.stored: dict[str, Stored] = {}
        for file in sorted(folder.glob("*.safetensors")):
            self.stored.update(safetensors_file.read(file))
        self.family = family = FAMILIES[self.text["model_type"].removesuffix("_text")]
        prefixes = (family.hub_prefix, family.mlx_prefix, "model.")
        self.prefix = next(p for p in prefixes if f"{p}{family.final_norm}.weight" in self.stored)
        stacked = f".{family.mlx_experts}.{family.stacked[0]}.weight"
        self.is_mlx = any(name.endswith(stacked) for name in self.stored)
        self._cache: dict[str, Array] = {}

    def has(self, name: str) -> bool:
        """Whether tensor `name` (prefix left out) exists."""
        return self.prefix + name in self.stored

    def get(self, name: str) -> Array:
        """Tensor `name` (prefix left out), dequantised."""
        return self.full(self.prefix + name)

    def head(self) -> Array:
        """The output matrix [vocab, hidden]; the embedding if tied."""
        for name in (self.family.hub_head, self.family.mlx_head):
            if f"{name}.weight" in self.stored:
                return self.full(f"{name}.weight")
        return self.get(f"{self.family.embedding}.weight")

    def full(self, name: str) -> Array:
        """Tensor by its whole name as float64."""
        if name not in self._cache:
            self._cache[name] = self._decode(name)
        return self._cache[name]

    def _decode(self, name: str) -> Array:
        module = name.removesuffix(".weight")
        if f"{module}.scales" not in self.stored:
            return safetensors_file.decode(self.stored[name]).astype(np.float64)
        words = self.stored[name].data
        scales = safetensors_file.decode(self.stored[f"{module}.scales"])
        biases = safetensors_file.decode(self.stored[f"{module}.biases"])
        return affine.dequantize(words, scales, biases, self._bits(module, words, scales))

    def _bits(self, module: str, words: Array, scales: Array) -> int:
        quantization = self.config["quantization"]
        entry = quantization.get(module, quantization)
        # words*32/bits codes in groups of group_size: both sides must agree with the file.
        assert words.shape[-1] * 32 == scales.shape[-1] * entry["group_size"] * entry["bits"], (
            module
        )
        return int(entry["bits"])

    def expert(self, layer: int, expert: int) -> tuple[Array, ...]:
        """(gate [I,H], up [I,H], down [H,I]) of one expert, however it is stored.

        Without a gate it is (up, down).
        """
        base = f"layers.{layer}.{self.family.moe}".removesuffix(".")
        if self.is_mlx:
            stacks = f"{base}.{self.family.mlx_experts}"
            return tuple(self.get(f"{stacks}.{own}.weight")[expert] for own in self.family.stacked)
        if self.family.interleaved_experts:
            both = self.get(f"{base}.experts.gate_up_proj")[expert].T
            gate, up = both[::2], both[1::2]
            down = self.get(f"{base}.experts.down_proj")[expert].T
        elif self.has(f"{base}.experts.gate_up_proj"):
            gate, up = np.split(self.get(f"{base}.experts.gate_up_proj")[expert], 2)
            down = self.get(f"{base}.experts.down_proj")[expert]
        else:
            names = (f"{base}.experts.{expert}.{kind}.weight" for kind in self.family.experts)
            return tuple(map(self.get, names))
        return gate, up, down

    def expert_biases(self, layer: int, expert: int) -> tuple[Array | float, ...]:
        """(gate [I], up [I], down [H]) of one expert; zeros where there are none."""
        base = f"layers.{layer}.{self.family.inside}experts"
        if not self.family.biased_experts:
            return 0.0, 0.0, 0.0
        if self.has(f"{base}.gate_up_proj_bias"):
            both = self.get(f"{base}.gate_up_proj_bias")[expert]
            return both[::2], both[1::2], self.get(f"{base}.down_proj_bias")[expert]
        return tuple(self.get(f"{base}.{kind}.bias")[expert] for kind in EXPERT_MATRICES)
