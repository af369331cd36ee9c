"""The experts of gpt-oss' own releases: MXFP4, rows of gate and up in turns, in one matrix.

Source of the layout: the class Mxfp4GptOssExperts of transformers and what dequantises it there.
"""

from __future__ import annotations

from .. import spec
from ..checkpoint import Checkpoint, fail
from .builder import Biases, MoeNames, Tensors, slices
from .config import Config

_FORMAT, _GROUP = "mxfp4_planes", 32
_BOTH, _DOWN = "gate_up_proj", "down_proj"


class Mxfp4Tensors(Tensors):
    """Tensors of a checkpoint whose experts are MXFP4 where the config says so.

    A matrix [n_experts, out, columns] is its name with `_blocks`, U8 [n_experts, out, columns / 32,
    16], whose byte i has code 2 i in its low bits and code 2 i + 1 in the high ones, and with
    `_scales`, U8 [n_experts, out, columns / 32]. These are the planes of the format; `pack` names
    them as such. Biases are [n_experts, out]. All other matrices are plain.
    """

    def __init__(self, checkpoint: Checkpoint, config: Config) -> None:
        super().__init__(checkpoint, config, ("mxfp4",))

    def experts(
        self, prefix: str, names: MoeNames, n_experts: int, d_ff: int, d_in: int = 0
    ) -> spec.Experts:
        """The routed experts of a layer, MXFP4 or in MLX's layout."""
        module = f"{prefix}.experts"
        if self.has(f"{module}.{_BOTH}"):
            raise fail("families", f"expected experts in MLX's layout (gate_proj, up_proj) or in "
                       f"MXFP4, found {_BOTH}, which is transposed",
                       self.checkpoint.path)  # fmt: skip
        if self.method is None and self.has(f"{module}.{_BOTH}_blocks"):
            raise self.config.bad(f"expected quant_method 'mxfp4' for {_BOTH}_blocks, found none")
        if self.method is None:
            return super().experts(prefix, names, n_experts, d_ff)
        for name, columns in ((_BOTH, self.d_model), (_DOWN, d_ff)):
            if columns % _GROUP:
                raise self.config.bad(f"expected columns in whole groups of {_GROUP}, found "
                                      f"{columns} of {name}")  # fmt: skip
        gate = self._planes(f"{module}.{_BOTH}", n_experts, 2 * d_ff, self.d_model)
        down = self._planes(f"{module}.{_DOWN}", n_experts, self.d_model, d_ff)
        return spec.Experts(gate=gate, up=None, down=down, interleaved=True)

    def expert_biases(self, module: str, names: MoeNames, n_experts: int, d_ff: int) -> Biases:
        """The biases of a layer's experts."""
        if self.method is None:
            return super().expert_biases(module, names, n_experts, d_ff)
        parts = {"gate": (_BOTH, 2 * d_ff), "down": (_DOWN, self.d_model)}
        return {f"{part}_bias": self.vector(f"{module}.{own}_bias", n_experts * out)
                for part, (own, out) in parts.items()}  # fmt: skip

    def _planes(self, name: str, n_experts: int, out: int, columns: int) -> spec.ExpertMatrix:
        shape = spec.Shape(out, columns, _FORMAT, _GROUP, "F32")
        stored: dict[str, tuple[str, str, tuple[int, ...]]] = {
            part: (f"{name}.{part}", of.dtype, (n_experts, *of.shape(out)))
            for part, of in shape.tensors.items()
        }
        if not self.has(f"{name}.weight"):  # not packed
            lead = (n_experts, out, columns // _GROUP)
            stored = {"weight": (f"{name}_blocks", "U8", (*lead, _GROUP // 2)),
                      "scales": (f"{name}_scales", "U8", lead)}  # fmt: skip
        parts = {}
        for part, (own, dtype, expected) in stored.items():
            tensor = self.get(own)
            if (tensor.dtype, tensor.shape) != (dtype, expected):
                raise self._bad(tensor, f"expected {dtype} {list(expected)}, found {tensor.dtype} "
                                f"{list(tensor.shape)}")  # fmt: skip
            parts[part] = slices(tensor, n_experts)
        return spec.ExpertMatrix(**vars(shape) | parts, module=name)

    def _said(self, name: str, columns: int) -> tuple[str, int]:
        if self.method is not None:
            raise self.config.bad(f"expected plain weights beside MXFP4 experts, found scales of "
                                  f"{name}")  # fmt: skip
        return super()._said(name, columns)
