"""Export the chat model's bf16 weights as the MLX-style 4-bit checkpoint that moeflux ships."""

import argparse
import shutil
from pathlib import Path

import torch
from chat_config import N_CONTEXT, chat_config
from dialogue import END, END_OF_TEXT, TEMPLATE
from safetensors.torch import load_file, save_file
from torch import Tensor

from export import quantise_affine, split_experts, write_json  # isort: skip; ../train_demo
from fake_quant import GROUP_SIZE, ROUTER_BITS, WEIGHT_BITS, bits_of  # isort: skip; ../train_demo

KEYS = """vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads
num_key_value_heads head_dim num_experts num_experts_per_tok moe_intermediate_size norm_topk_prob
decoder_sparse_step mlp_only_layers attention_bias hidden_act rms_norm_eps max_position_embeddings
initializer_range tie_word_embeddings eos_token_id""".split()  # noqa: SIM905


def export_tensors(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Transformers' weights by name as the tensors of the checkpoint."""
    tensors = {}
    for source, fused in weights.items():
        for name, weight in split_experts(source, fused).items():
            bits = bits_of(name, weight)
            if bits is None:
                tensors[name] = weight
                continue
            words, scales, biases = quantise_affine(weight.float().numpy(), bits)
            module = name.removesuffix(".weight")
            tensors[f"{module}.weight"] = torch.from_numpy(words)
            tensors[f"{module}.scales"] = torch.from_numpy(scales).bfloat16()
            tensors[f"{module}.biases"] = torch.from_numpy(biases).bfloat16()
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def checkpoint_config(tiny: bool) -> dict[str, object]:
    """config.json in the dialect of published qwen3_moe checkpoints."""
    full = chat_config(tiny)
    quantization: dict[str, object] = {"group_size": GROUP_SIZE, "bits": WEIGHT_BITS}
    quantization["mode"] = "affine"
    for layer in range(full.num_hidden_layers):
        quantization[f"model.layers.{layer}.mlp.gate"] = {
            "group_size": GROUP_SIZE,
            "bits": ROUTER_BITS,
        }
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        **{key: getattr(full, key) for key in KEYS},
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "quantization": quantization,
        "quantization_config": quantization,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, help="folder of train_chat.py")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    weights: dict[str, Tensor] = {}
    for part in sorted(args.weights.glob("weights_*.safetensors")):
        weights |= load_file(part)
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(export_tensors(weights), args.out / "model.safetensors", metadata={"format": "mlx"})
    (args.out / "model.safetensors").chmod(0o644)
    write_json(args.out / "config.json", checkpoint_config(args.tiny))
    write_json(args.out / "generation_config.json", {"do_sample": False, "eos_token_id": [2, 0]})
    shutil.copyfile(args.tokenizer, args.out / "tokenizer.json")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": END_OF_TEXT,
        "bos_token": None,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": N_CONTEXT,
        "chat_template": TEMPLATE,
    }
    write_json(args.out / "tokenizer_config.json", settings)
    for path in sorted(args.out.iterdir()):
        print(f"{path.stat().st_size:>10,}  {path.name}")


if __name__ == "__main__":
    main()
