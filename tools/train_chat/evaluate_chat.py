"""Check an exported chat checkpoint: transformers' greedy answers, which moeflux must repeat.

The values are those that the checkpoint stores, dequantised, in float32. Writes the golden file;
prints the load of the experts over held-out talks.
"""

import argparse
import json
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from dialogue import START, WEATHER, Talk
from generate import encode, talks
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from checkpoint import dequantise  # isort: skip; ../train_demo

MIN_MARGIN = 0.05  # logits; float32 engines differ by about 1e-4
ENDS = (0, 2)


def cases() -> list[Talk]:
    """Talks that end where the model goes on."""
    plain, tools, told = Talk(), Talk([WEATHER], "You are a helpful assistant."), Talk([WEATHER])
    plain.user("What is moeflux?")
    tools.user("What is the weather in Paris and in Rome?")
    told.user("What is the weather in Paris?")
    told.call([("get_weather", {"city": "Paris"})])
    told.result('{"temperature": 18, "condition": "cloudy"}')
    return [plain, tools, told]


def load_dequantised(folder: Path) -> Qwen3MoeForCausalLM:
    """Transformers' model in float32 on exactly the values that the checkpoint stores."""
    settings = json.loads((folder / "config.json").read_text())
    settings = {k: v for k, v in settings.items() if not k.startswith("quantization")}
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**settings)).float().eval()
    stored = load_file(folder / "model.safetensors")

    def matrix(module: str, d_in: int) -> torch.Tensor:
        parts = (stored.pop(f"{module}.{kind}") for kind in ("weight", "scales", "biases"))
        return dequantise(*parts, d_in)

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            d_in, prefix = parameter.shape[-1], name.partition("experts.")[0] + "switch_mlp"
            if name.endswith("experts.gate_up_proj"):
                halves = [matrix(f"{prefix}.{part}_proj", d_in) for part in ("gate", "up")]
                value = torch.cat(halves, dim=1)
            elif name.endswith("experts.down_proj"):
                value = matrix(f"{prefix}.down_proj", d_in)
            elif parameter.ndim > 1:
                value = matrix(name.removesuffix(".weight"), d_in)
            else:
                value = stored.pop(name).float()
            parameter.copy_(value)
    if stored:
        raise ValueError(f"{folder}: tensors without a place in the model: {sorted(stored)}")
    return model


def golden(model: Qwen3MoeForCausalLM, tokenizer: Tokenizer, talk: Talk) -> dict[str, object]:
    """The greedy answer to a talk, the logits of its first token, its smallest margin."""
    text = "".join(part for part, _ in talk.segments()) + f"{START}assistant\n"
    ids = tokenizer.encode(text).ids
    written: list[int] = []
    margins: list[float] = []
    top = None
    while not written or written[-1] not in ENDS:
        logits = model(input_ids=torch.tensor([ids + written]), use_cache=False).logits[0, -1]
        top = top or logits.topk(5)
        best = logits.topk(2)
        margins.append(float(best.values[0] - best.values[1]))
        written.append(int(best.indices[0]))
    if min(margins) < MIN_MARGIN:
        raise SystemExit(f"a margin of {min(margins)}, expected {MIN_MARGIN} at least: {text}")
    return {
        "prompt": text,
        "prompt_ids": ids,
        "answer_ids": written,
        "answer": tokenizer.decode(written[:-1], skip_special_tokens=False),
        "smallest_margin": round(min(margins), 5),
        "top5_ids": top.indices.tolist(),
        "top5_logits": [round(v, 6) for v in top.values.tolist()],
    }


def expert_load(model: Qwen3MoeForCausalLM, tokenizer: Tokenizer, n_talks: int) -> None:
    """Prints, per layer, the busiest and the idlest expert's share over the mean."""
    chosen: list[list[np.ndarray]] = [[] for _ in model.model.layers]
    for layer, found in zip(model.model.layers, chosen, strict=True):
        layer.mlp.gate.register_forward_hook(
            lambda _m, _i, output, found=found: found.append(output[2].numpy().ravel())
        )
    for ids, _kinds in encode(tokenizer, list(islice(talks(5, held=True), n_talks))):
        model(input_ids=torch.from_numpy(ids.astype(np.int64))[None], use_cache=False)
    n_experts = model.config.num_experts
    for number, found in enumerate(chosen):
        load = np.bincount(np.concatenate(found), minlength=n_experts)
        print(f"layer {number}: {load.max() / load.mean():.2f} {load.min() / load.mean():.2f}")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of export_chat.py")
    parser.add_argument("--golden", type=Path, required=True)
    parser.add_argument("--load-talks", type=int, default=30)
    args = parser.parse_args()
    torch.set_num_threads(2)
    model = load_dequantised(args.model)
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    found = [golden(model, tokenizer, talk) for talk in cases()]
    args.golden.write_text(json.dumps(found, indent=1) + "\n")
    for case in found:
        print(case["smallest_margin"], case["answer"])
    expert_load(model, tokenizer, args.load_talks)


if __name__ == "__main__":
    main()
