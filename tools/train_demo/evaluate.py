"""Check an exported checkpoint and write what the project keeps of it.

- the held-out loss of the dequantised weights in float32, against the loss train.py reported
- its logits against mlx-lm with float32 activations, where mlx-lm is installed
- goldens: greedy continuations of three prompts (transformers, float32, dequantised weights)
- a router trace of held-out text and the expert load per layer
- the picture of the loss curves
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from checkpoint import load_dequantised
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F
from transformers import Qwen3NextForCausalLM

N_TOKENS = 512
N_GREEDY = 48
N_LOSS_WINDOWS = 32
N_TRACE_WINDOWS = 20
MIN_MARGIN = 0.02  # logits; float32 engines differ by about 1e-4
PROMPTS = (
    "def main(",
    "class Stack:\n    def __init__(self",
    "import os\nimport sys\n\ndef ",
    "The following example shows how to use",
    "import argparse\n\ndef main():\n    parser = ",
    "def read_file(path):\n    with open(",
    "    def test_",
    "This module provides",
    "def __repr__(self):\n        return ",
)


class RouterTrace:
    """Records the experts chosen by every layer, in the order the model calls them."""

    def __init__(self, model: Qwen3NextForCausalLM) -> None:
        self.layers: list[list[np.ndarray]] = []
        for layer in model.model.layers:
            chosen: list[np.ndarray] = []
            self.layers.append(chosen)
            layer.mlp.gate.register_forward_hook(
                lambda _m, _i, output, chosen=chosen: chosen.append(output[2].numpy())
            )

    def experts(self) -> np.ndarray:
        """uint8 (n_tokens, n_layers, top_k)."""
        return np.stack([np.concatenate(c) for c in self.layers], axis=1).astype(np.uint8)


def windows(ids: np.ndarray, n_windows: int) -> Tensor:
    """The first windows (n_windows, 513) of the ids, as train.py evaluates them."""
    n_windows = min(n_windows, (len(ids) - 1) // N_TOKENS)
    index = N_TOKENS * np.arange(n_windows)[:, None] + np.arange(N_TOKENS + 1)
    return torch.from_numpy(ids[index].astype(np.int64))


def losses(model: Qwen3NextForCausalLM, batch: Tensor) -> float:
    """Mean next-token loss in nats, window by window to keep memory small."""
    total = 0.0
    for window in batch:
        logits = model(input_ids=window[None, :-1], use_cache=False).logits[0]
        total += F.cross_entropy(logits, window[1:]).item()
    return total / len(batch)


def greedy(model: Qwen3NextForCausalLM, prompt_ids: list[int]) -> tuple[list[int], list[float]]:
    """Greedy continuation and, per token, the margin between the best two logits."""
    ids, margins = list(prompt_ids), []
    for _ in range(N_GREEDY):
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        best = logits.topk(2)
        margins.append(float(best.values[0] - best.values[1]))
        ids.append(int(best.indices[0]))
    return ids[len(prompt_ids) :], margins


def goldens(model: Qwen3NextForCausalLM, tokenizer: Tokenizer) -> list[dict[str, object]]:
    """The first three prompts whose continuation no float32 engine can get differently."""
    cases: list[dict[str, object]] = []
    for prompt in PROMPTS:
        ids = tokenizer.encode(prompt).ids
        continuation, margins = greedy(model, ids)
        print(f"--- smallest margin {min(margins):.4f}\n{prompt}{tokenizer.decode(continuation)}")
        if min(margins) < MIN_MARGIN or len(cases) == 3:
            continue
        top = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].topk(5)
        cases.append(
            {
                "prompt": prompt,
                "prompt_ids": ids,
                "continuation_ids": continuation,
                "continuation": tokenizer.decode(continuation),
                "smallest_margin": round(min(margins), 5),
                "top5_ids": top.indices.tolist(),
                "top5_logits": [round(v, 6) for v in top.values.tolist()],
            }
        )
    return cases


def compare_with_mlx(model: Qwen3NextForCausalLM, folder: Path, ids: Tensor) -> float | None:
    """Largest logit difference to mlx-lm with float32 activations; None without mlx-lm."""
    try:
        import mlx.core as mx
        from mlx_lm import load
    except ImportError:
        return None
    reference, _tokenizer = load(str(folder))
    reference.set_dtype(mx.float32)
    theirs = np.array(reference(mx.array(ids[None].numpy())))[0]
    ours = model(input_ids=ids[None], use_cache=False).logits[0].numpy()
    return float(np.abs(theirs - ours).max())


def draw_losses(results: dict[str, object], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.5), dpi=90)
    for key, label in (("train_curve", "training"), ("heldout_curve", "held out")):
        steps, values = zip(*results[key], strict=True)
        axes.plot(steps, values, label=label, linewidth=1)
    axes.axvline(
        results["before_quantisation_aware_training"]["step"],
        color="grey",
        linestyle=":",
        label="4-bit rounding starts",
    )
    axes.set(xlabel="step", ylabel="loss (nats per token)", ylim=(None, 5))
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder written by export.py")
    parser.add_argument("--data", type=Path, required=True, help="folder of prepare_data.py")
    parser.add_argument("--training", type=Path, required=True, help="results.json of train.py")
    parser.add_argument("--results", type=Path, required=True, help="results.json to write")
    parser.add_argument("--golden", type=Path, required=True)
    parser.add_argument("--trace", type=Path, required=True)
    parser.add_argument("--picture", type=Path, required=True)
    args = parser.parse_args()

    model = load_dequantised(args.model)
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    heldout = np.load(args.data / "heldout.npy")
    results = json.loads(args.training.read_text())

    difference = compare_with_mlx(model, args.model, windows(heldout, 1)[0, :200])
    print("largest logit difference to mlx-lm:", difference, flush=True)
    cases = goldens(model, tokenizer)
    if len(cases) < 3:
        raise SystemExit(f"only {len(cases)} prompts keep a margin of {MIN_MARGIN}")
    args.golden.write_text(json.dumps(cases, indent=1) + "\n")

    trace = RouterTrace(model)
    checked = losses(model, windows(heldout, N_LOSS_WINDOWS))
    experts = trace.experts()
    n_experts = model.config.num_experts
    load = np.stack(
        [np.bincount(experts[:, i].ravel(), minlength=n_experts) for i in range(experts.shape[1])]
    )
    share = load / load.sum(1, keepdims=True)
    kept = experts[: N_TRACE_WINDOWS * N_TOKENS]
    np.savez_compressed(args.trace, experts=kept, n_experts=np.uint8(n_experts))
    repeats = (kept[1:, :, :, None] == kept[:-1, :, None, :]).any(-1).mean((0, 2))

    results |= {
        "checkpoint_bytes": sum(p.stat().st_size for p in args.model.iterdir()),
        "float32_check": {"heldout_windows": N_LOSS_WINDOWS, "heldout_loss_4bit": checked},
        "mlx_lm_largest_logit_difference": difference,
        "expert_load_per_layer": np.round(share, 4).tolist(),
        "expert_load_max_over_mean": np.round(share.max(1) * n_experts, 2).tolist(),
        "expert_load_min_over_mean": np.round(share.min(1) * n_experts, 2).tolist(),
        "expert_repeated_from_previous_token": np.round(repeats, 3).tolist(),
    }
    args.results.write_text(json.dumps(results) + "\n")
    draw_losses(results, args.picture)
    print({k: v for k, v in results.items() if "curve" not in k and k != "expert_load_per_layer"})


if __name__ == "__main__":
    main()
