"""Export the chat model's bf16 weights as the MLX-style 4-bit checkpoint that moeflux ships."""

from chat_config import N_CONTEXT, chat_config
from dialogue import END, END_OF_TEXT, TEMPLATE
from torch import Tensor

from export import (  # isort: skip; ../train_demo
    arguments,
    quantised,
    read_weights,
    split_experts,
    write_checkpoint,
)
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
            tensors |= {name: weight} if bits is None else quantised(name, weight, bits)
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
    args = arguments(__doc__.splitlines()[0], "train_chat.py")
    tensors = export_tensors(read_weights(args.weights))
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
    generation = {"do_sample": False, "eos_token_id": [2, 0]}
    write_checkpoint(args, tensors, checkpoint_config(args.tiny), generation, settings)


if __name__ == "__main__":
    main()
