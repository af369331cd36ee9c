"""Export trained bf16 weights as the MLX-style 4-bit checkpoint that moeflux ships.

Layout and rounding follow what mlx-lm writes for qwen3_next: affine codes in groups of 64, routers
and shared-expert gates at 8 bits, experts stacked as switch_mlp, norms stored as 1 + w,
conv1d as (channels, 4, 1), bf16 scales and biases.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from fake_quant import GROUP_SIZE, ROUTER_BITS, WEIGHT_BITS, bits_of, is_offset_norm
from model_config import N_CONTEXT, demo_config
from safetensors.torch import load_file, save_file
from torch import Tensor


def quantise_affine(weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quantise float32 (..., d_in) along its last axis, as mlx.core.quantize does.

    Returns:
        words: uint32 (..., d_in * bits / 32), low bits first.
        scales, biases: float32 (..., d_in / 64), not yet rounded to bf16.
    """
    groups = weight.reshape(*weight.shape[:-1], -1, GROUP_SIZE)
    low, high = groups.min(-1, keepdims=True), groups.max(-1, keepdims=True)
    top = np.float32(2**bits - 1)
    scale = np.maximum((high - low) / top, np.float32(1e-7))
    low_is_edge = np.abs(low) > np.abs(high)
    scale = np.where(low_is_edge, scale, -scale)
    edge = np.where(low_is_edge, low, high)
    edge_code = np.rint(edge / scale)
    scale = np.where(edge_code != 0, edge / np.where(edge_code == 0, 1, edge_code), scale)
    bias = np.where(edge_code == 0, np.float32(0), edge)
    codes = np.clip(np.rint((groups - bias) / scale), 0, top).astype(np.uint32)
    codes = codes.reshape(*weight.shape[:-1], -1, 32 // bits)
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    words = np.bitwise_or.reduce(codes << shifts, axis=-1)
    return words, scale[..., 0].astype(np.float32), bias[..., 0].astype(np.float32)


def split_experts(name: str, weight: Tensor) -> dict[str, Tensor]:
    """Rename fused transformers tensors to the stacked tensors of the checkpoint."""
    if name.endswith("experts.gate_up_proj"):
        prefix = name.replace("experts.gate_up_proj", "switch_mlp")
        gate, up = weight.chunk(2, dim=1)
        return {f"{prefix}.gate_proj.weight": gate, f"{prefix}.up_proj.weight": up}
    if name.endswith("experts.down_proj"):
        return {name.replace("experts.down_proj", "switch_mlp.down_proj.weight"): weight}
    return {name: weight}


def quantised(name: str, weight: Tensor, bits: int) -> dict[str, Tensor]:
    """The three tensors of a matrix of codes."""
    words, scales, biases = quantise_affine(weight.float().numpy(), bits)
    module = name.removesuffix(".weight")
    return {
        f"{module}.weight": torch.from_numpy(words),
        f"{module}.scales": torch.from_numpy(scales).bfloat16(),
        f"{module}.biases": torch.from_numpy(biases).bfloat16(),
    }


def export_tensors(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turn transformers' bf16 weights by name into the tensors of the checkpoint."""
    tensors = {}
    for source, fused in weights.items():
        for name, weight in split_experts(source, fused).items():
            bits = bits_of(name, weight)
            if bits is not None:
                tensors |= quantised(name, weight, bits)
            elif "conv1d" in name:
                tensors[name] = weight.transpose(1, 2)
            elif is_offset_norm(name):
                tensors[name] = (1 + weight.float()).bfloat16()
            else:
                tensors[name] = weight
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def checkpoint_config(tensors: dict[str, Tensor], tiny: bool) -> dict[str, object]:
    """config.json in the dialect of published qwen3_next checkpoints."""
    full = demo_config(tiny).to_dict()
    keys = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "linear_num_key_heads",
        "linear_num_value_heads",
        "linear_key_head_dim",
        "linear_value_head_dim",
        "linear_conv_kernel_dim",
        "num_experts",
        "num_experts_per_tok",
        "moe_intermediate_size",
        "shared_expert_intermediate_size",
        "decoder_sparse_step",
        "mlp_only_layers",
        "norm_topk_prob",
        "attention_bias",
        "hidden_act",
        "rms_norm_eps",
        "max_position_embeddings",
        "initializer_range",
        "tie_word_embeddings",
        "eos_token_id",
    )
    quantization: dict[str, object] = {"group_size": GROUP_SIZE, "bits": WEIGHT_BITS}
    quantization["mode"] = "affine"
    for name in sorted(tensors):
        module = name.removesuffix(".scales")
        if module != name and bits_of(f"{module}.weight", tensors[name]) == ROUTER_BITS:
            quantization[module] = {"group_size": GROUP_SIZE, "bits": ROUTER_BITS}
    return {
        "architectures": ["Qwen3NextForCausalLM"],
        "model_type": "qwen3_next",
        **{key: full[key] for key in keys},
        "full_attention_interval": 4,
        "partial_rotary_factor": 0.25,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "quantization": quantization,
        "quantization_config": quantization,
    }


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def arguments(about: str, trainer: str) -> argparse.Namespace:
    """What a program is told that exports the weights of `trainer`."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--weights", type=Path, required=True, help=f"folder of {trainer}")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    return parser.parse_args()


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All parts of a trainer's weights, by name."""
    weights: dict[str, Tensor] = {}
    for part in sorted(folder.glob("weights_*.safetensors")):
        weights |= load_file(part)
    return weights


def write_checkpoint(
    args: argparse.Namespace,
    tensors: dict[str, Tensor],
    config: dict[str, object],
    generation: dict[str, object],
    tokenizer: dict[str, object],
) -> None:
    """Writes the folder of a checkpoint, and prints what is in it.

    Args:
        args: of `arguments`.
        tensors: of model.safetensors.
        config: config.json.
        generation: generation_config.json.
        tokenizer: tokenizer_config.json.
    """
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, args.out / "model.safetensors", metadata={"format": "mlx"})
    (args.out / "model.safetensors").chmod(0o644)
    write_json(args.out / "config.json", config)
    write_json(args.out / "generation_config.json", generation)
    shutil.copyfile(args.tokenizer, args.out / "tokenizer.json")
    write_json(args.out / "tokenizer_config.json", tokenizer)
    for path in sorted(args.out.iterdir()):
        print(f"{path.stat().st_size:>10,}  {path.name}")


def main() -> None:
    args = arguments(__doc__.splitlines()[0], "train.py")
    tensors = export_tensors(read_weights(args.weights))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|endoftext|>",
        "bos_token": None,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": N_CONTEXT,
    }
    config = checkpoint_config(tensors, args.tiny)
    write_checkpoint(args, tensors, config, {"eos_token_id": 0}, settings)


if __name__ == "__main__":
    main()
