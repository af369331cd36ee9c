"""The 4-bit rounding of the shipped checkpoint, in torch, for training and for evaluation.

`fake_quant_` replaces every parameter by the value the exported file will hold (export.py writes
the codes; tools/train_demo/evaluate.py checks that both agree). Training keeps float32 masters,
runs forward and backward on the rounded values and applies the gradient to the masters: a
straight-through estimator.
"""

import torch
from torch import Tensor, nn

GROUP_SIZE = 64
ROUTER_BITS = 8
WEIGHT_BITS = 4


def bits_of(name: str, parameter: Tensor) -> int | None:
    """Bits of a parameter in the exported file; None for those stored as bf16."""
    if parameter.ndim < 2 or "conv1d" in name:
        return None
    if name.endswith(("mlp.gate.weight", "shared_expert_gate.weight")):
        return ROUTER_BITS
    return WEIGHT_BITS


def is_offset_norm(name: str) -> bool:
    """True for the norms that multiply by 1 + w; the file stores 1 + w for them."""
    return name.endswith("norm.weight") and not name.endswith("linear_attn.norm.weight")


def round_affine(weight: Tensor, bits: int) -> Tensor:
    """Quantise and dequantise (..., d_in) in groups of 64; scale and bias rounded to bf16."""
    groups = weight.bfloat16().float().unflatten(-1, (-1, GROUP_SIZE))
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    top = float(2**bits - 1)
    step = ((high - low) / top).clamp_min(1e-7)
    low_is_edge = low.abs() > high.abs()
    step = torch.where(low_is_edge, step, -step)
    edge = torch.where(low_is_edge, low, high)
    edge_code = (edge / step).round()
    step = torch.where(edge_code != 0, edge / torch.where(edge_code == 0, 1, edge_code), step)
    bias = torch.where(edge_code == 0, 0, edge)
    codes = ((groups - bias) / step).round().clamp(0, top)
    return (codes * step.bfloat16().float() + bias.bfloat16().float()).flatten(-2)


@torch.no_grad()
def fake_quant_(model: nn.Module) -> dict[str, Tensor]:
    """Round all parameters of `model` in place; returns the masters by name for `restore_`."""
    masters = {}
    for name, parameter in model.named_parameters():
        masters[name] = parameter.data
        bits = bits_of(name, parameter)
        if bits is not None:
            parameter.data = round_affine(parameter.data, bits)
        elif is_offset_norm(name):
            parameter.data = (1 + parameter.data).bfloat16().float() - 1
        else:
            parameter.data = parameter.data.bfloat16().float()
    return masters


def restore_(model: nn.Module, masters: dict[str, Tensor]) -> None:
    """Undo `fake_quant_`."""
    for name, parameter in model.named_parameters():
        parameter.data = masters[name]
