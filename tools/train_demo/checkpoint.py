"""Read the exported checkpoint back into transformers: the oracle for moeflux's own engine."""

import json
from pathlib import Path

import numpy as np
import torch
from fake_quant import is_offset_norm
from safetensors.torch import load_file
from torch import Tensor
from transformers import Qwen3NextConfig, Qwen3NextForCausalLM


def dequantise(words: Tensor, scales: Tensor, biases: Tensor, d_in: int) -> Tensor:
    """Exact float32 values (..., d_in) of MLX affine codes."""
    bits = words.shape[-1] * 32 // d_in
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    codes = (words.numpy()[..., None] >> shifts) & np.uint32(2**bits - 1)
    groups = codes.reshape(*scales.shape, -1).astype(np.float32)
    values = groups * scales.float().numpy()[..., None] + biases.float().numpy()[..., None]
    return torch.from_numpy(values.reshape(*words.shape[:-1], d_in))


def load_dequantised(folder: Path) -> Qwen3NextForCausalLM:
    """Transformers' model in float32 on exactly the values that the checkpoint stores."""
    settings = json.loads((folder / "config.json").read_text())
    settings = {k: v for k, v in settings.items() if not k.startswith("quantization")}
    model = Qwen3NextForCausalLM(Qwen3NextConfig(**settings)).float().eval()
    stored = load_file(folder / "model.safetensors")

    def matrix(module: str, d_in: int) -> Tensor:
        parts = (stored.pop(f"{module}.{kind}") for kind in ("weight", "scales", "biases"))
        return dequantise(*parts, d_in)

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("experts.gate_up_proj"):
                prefix = name.replace("experts.gate_up_proj", "switch_mlp")
                halves = [
                    matrix(f"{prefix}.{part}_proj", parameter.shape[-1]) for part in ("gate", "up")
                ]
                value = torch.cat(halves, dim=1)
            elif name.endswith("experts.down_proj"):
                module = name.replace("experts.down_proj", "switch_mlp.down_proj")
                value = matrix(module, parameter.shape[-1])
            elif name.replace(".weight", ".scales") in stored and parameter.ndim > 1:
                value = matrix(name.removesuffix(".weight"), parameter.shape[-1])
            else:
                value = stored.pop(name).float()
                value = value.transpose(1, 2) if "conv1d" in name else value
                value = value - 1 if is_offset_norm(name) else value
            parameter.copy_(value)
    if stored:
        raise ValueError(f"{folder}: tensors without a place in the model: {sorted(stored)}")
    return model
