"""Train the demo model on one GPU. See README.md for the commands.

Reads train.npy and heldout.npy from --data; writes weights_<i>.safetensors (bf16, parts of at most
15 MB) and results.json into --out. The schedule follows the steps, or the clock where --seconds
runs out first, so a run always ends with a decayed learning rate.
"""

import argparse
import json
import math
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import transformers
from delta_rule import chunk_gated_delta_rule
from fake_quant import fake_quant_, restore_
from model_config import demo_config
from muon import Muon
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import Qwen3NextForCausalLM
from transformers.models.qwen3_next import modeling_qwen3_next

N_TOKENS = 512
BALANCE_WEIGHT = 0.01
WEIGHT_DECAY = 0.3
WARMUP = 0.02
PART_BYTES = 15_000_000


def windows(ids: Tensor, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches (batch, 513); each epoch starts at a new offset, in a new order."""
    while True:
        offset = int(torch.randint(N_TOKENS, (1,), generator=generator))
        n_windows = (len(ids) - offset - 1) // N_TOKENS
        starts = offset + N_TOKENS * torch.randperm(n_windows, generator=generator)
        for chosen in starts.split(batch):
            if len(chosen) == batch:
                index = chosen[:, None] + torch.arange(N_TOKENS + 1)
                yield ids[index.to(ids.device)].long()


class RouterWatch:
    """Keeps the router logits (n_tokens, n_experts) of the last forward pass, layer by layer."""

    def __init__(self, model: Qwen3NextForCausalLM) -> None:
        self.logits: list[Tensor] = []
        model.register_forward_pre_hook(lambda *_: self.logits.clear())
        for layer in model.model.layers:
            layer.mlp.gate.register_forward_hook(self._keep)

    def _keep(self, gate: torch.nn.Module, inputs: tuple[Tensor], _output: object) -> None:
        hidden = inputs[0].reshape(-1, gate.weight.shape[-1])
        self.logits.append(F.linear(hidden.float(), gate.weight.float()))

    def balance_loss(self, top_k: int) -> Tensor:
        """Load-balancing loss of Switch Transformers, per layer; 1 when perfectly balanced."""
        losses = []
        for logits in self.logits:
            n_experts = logits.shape[-1]
            chosen = logits.topk(top_k, dim=-1).indices
            load = F.one_hot(chosen, n_experts).float().mean((0, 1))
            losses.append(n_experts * (load * logits.softmax(-1).mean(0)).sum())
        return torch.stack(losses).mean()


def token_loss(model: Qwen3NextForCausalLM, window: Tensor) -> Tensor:
    """Mean next-token cross-entropy, in nats, of (batch, 513) ids."""
    with torch.autocast(window.device.type, torch.bfloat16):
        logits = model(input_ids=window[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.float().flatten(0, 1), window[:, 1:].flatten())


@torch.no_grad()
def heldout_loss(model: Qwen3NextForCausalLM, ids: Tensor, n_windows: int, batch: int) -> float:
    """Mean loss over the first n_windows windows of the held-out ids."""
    n_windows = min(n_windows, (len(ids) - 1) // N_TOKENS)
    index = N_TOKENS * torch.arange(n_windows)[:, None] + torch.arange(N_TOKENS + 1)
    total = 0.0
    for chosen in index.split(batch):
        total += token_loss(model, ids[chosen.to(ids.device)].long()).item() * len(chosen)
    return total / n_windows


def quantised_loss(model: Qwen3NextForCausalLM, ids: Tensor, n_windows: int, batch: int) -> float:
    """`heldout_loss` with the weights rounded as the exported file rounds them."""
    masters = fake_quant_(model)
    try:
        return heldout_loss(model, ids, n_windows, batch)
    finally:
        restore_(model, masters)


def build_optimizers(
    model: Qwen3NextForCausalLM, lr: float, use_muon: bool
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for everything else."""
    matrices, decayed, plain = [], [], []
    small = ("embed_tokens", "conv1d", "gate.weight", "shared_expert_gate", "in_proj_ba")
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or "conv1d" in name:
            plain.append(parameter)
        elif use_muon and not any(part in name for part in small):
            matrices.append(parameter)
        else:
            decayed.append(parameter)
    groups = [
        {"params": decayed, "weight_decay": WEIGHT_DECAY},
        {"params": plain, "weight_decay": 0.0},
    ]
    fused = decayed[0].is_cuda
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=fused)
    ]
    if matrices:
        optimizers.append(Muon(matrices, lr=lr, weight_decay=WEIGHT_DECAY))
    return optimizers


def rate_at(progress: float) -> float:
    """Warm-up, then a cosine down to zero; progress in 0..1."""
    if progress < WARMUP:
        return progress / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP)))


def save_parts(model: Qwen3NextForCausalLM, folder: Path) -> None:
    """bf16 weights in parts of at most PART_BYTES, tied lm_head left out."""
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, parameter in model.named_parameters():
        tensor = parameter.detach().bfloat16().cpu().contiguous()
        if size + tensor.nbytes > PART_BYTES:
            parts.append({})
            size = 0
        parts[-1][name] = tensor
        size += tensor.nbytes
    for i, part in enumerate(parts):
        save_file(part, folder / f"weights_{i}.safetensors")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=math.inf, help="clock limit for training")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--optimizer", choices=("muon", "adamw"), default="muon")
    parser.add_argument("--experts", default="grouped_mm", help="transformers' experts kernel")
    parser.add_argument("--quant-from", type=float, default=0.8, help="progress where it starts")
    parser.add_argument("--eval-windows", type=int, default=256)
    parser.add_argument("--eval-every", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="a toy model, to try the recipe")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(args.seed)
    torch.backends.cuda.matmul.allow_tf32 = True
    modeling_qwen3_next.torch_chunk_gated_delta_rule = chunk_gated_delta_rule
    config = demo_config(tiny=args.tiny)
    model = Qwen3NextForCausalLM(config).to(device).float()
    model.set_experts_implementation(args.experts)
    for module in model.modules():  # transformers before 5.20 binds the function at construction
        if hasattr(module, "chunk_gated_delta_rule"):
            module.chunk_gated_delta_rule = chunk_gated_delta_rule
    watch = RouterWatch(model)
    optimizers = build_optimizers(model, args.lr, args.optimizer == "muon")
    n_parameters = sum(p.numel() for p in model.parameters())
    train_ids, heldout_ids = (
        torch.from_numpy(np.load(args.data / f"{split}.npy").astype(np.int32)).to(device)
        for split in ("train", "heldout")
    )
    batches = windows(train_ids, args.batch, torch.Generator().manual_seed(args.seed))
    print(f"{n_parameters:,} parameters, {len(train_ids):,} tokens, {device}", flush=True)

    curve, heldout_curve = [], []
    before_aware: dict[str, float] | None = None
    started, running, step, progress = time.monotonic(), [], 0, 0.0
    while progress < 1:
        aware = progress >= args.quant_from
        if aware and before_aware is None:
            before_aware = {
                "step": step,
                "heldout_loss": heldout_loss(model, heldout_ids, args.eval_windows, args.batch),
                "heldout_loss_4bit": quantised_loss(
                    model, heldout_ids, args.eval_windows, args.batch
                ),
            }
            print(before_aware, flush=True)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = args.lr * rate_at(progress)
        masters = fake_quant_(model) if aware else None
        loss = token_loss(model, next(batches))
        (loss + BALANCE_WEIGHT * watch.balance_loss(config.num_experts_per_tok)).backward()
        if masters is not None:
            restore_(model, masters)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        running.append(loss.detach())
        if step % 10 == 0:
            curve.append([step, torch.stack(running).mean().item()])
            running.clear()
        elapsed = time.monotonic() - started
        progress = max(step / args.steps, elapsed / args.seconds)
        if step % args.eval_every == 0:
            value = heldout_loss(model, heldout_ids, args.eval_windows, args.batch)
            heldout_curve.append([step, value])
            rate = step * args.batch * N_TOKENS / elapsed
            print(
                f"{step} {elapsed:.0f}s {curve[-1][1]:.3f} held out {value:.3f} {rate:,.0f}/s",
                flush=True,
            )

    seconds = time.monotonic() - started
    everything = len(heldout_ids)
    results = {
        "seed": args.seed,
        "weight_decay": WEIGHT_DECAY,
        "settings": {k: str(v) for k, v in vars(args).items() if k not in ("data", "out")},
        "machine": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "parameters": n_parameters,
        "train_tokens": len(train_ids),
        "heldout_tokens": everything,
        "steps": step,
        "tokens_seen": step * args.batch * N_TOKENS,
        "epochs": step * args.batch * N_TOKENS / len(train_ids),
        "train_seconds": seconds,
        "tokens_per_second": step * args.batch * N_TOKENS / seconds,
        "before_quantisation_aware_training": before_aware,
        "heldout_loss": heldout_loss(model, heldout_ids, everything, args.batch),
        "heldout_loss_4bit": quantised_loss(model, heldout_ids, everything, args.batch),
        "train_curve": [[s, round(v, 4)] for s, v in curve],
        "heldout_curve": [[s, round(v, 4)] for s, v in heldout_curve],
    }
    save_parts(model, args.out)
    (args.out / "results.json").write_text(json.dumps(results))
    print({k: v for k, v in results.items() if not k.endswith("curve")}, flush=True)


if __name__ == "__main__":
    main()
