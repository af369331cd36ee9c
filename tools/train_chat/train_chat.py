"""Train the chat model on one GPU, on talks that worker processes write meanwhile.

No text is seen twice. The schedule follows the clock, so that a run always ends with a decayed
learning rate. Writes weights_<i>.safetensors (bf16) and results.json into --out, every minute, too.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import torch
import transformers
from chat_config import chat_config
from generate import KINDS, WINDOW, windows
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import Qwen3MoeForCausalLM
from transformers.models.qwen3_moe import modeling_qwen3_moe

from train import RouterWatch, build_optimizers, rate_at, save_parts  # isort: skip; ../train_demo
from fake_quant import bits_of, restore_, round_affine  # isort: skip; ../train_demo

BALANCE_WEIGHT = 0.01
PROMPT_WEIGHT = 0.1  # in the loss, of a token that the model need not write
WEIGHT_DECAY = 0.05  # no talk is seen twice
SAVE_EVERY = 60  # seconds


class Talks(IterableDataset):
    """Windows (3, WINDOW + 1) of fresh talks, other ones in each worker."""

    def __init__(self, tokenizer: Path, seed: int) -> None:
        self.tokenizer, self.seed = tokenizer, seed

    def __iter__(self) -> Iterator[Tensor]:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        info = get_worker_info()
        seed = 1000 * (self.seed + 1) + (info.id if info else 0)
        for window in windows(Tokenizer.from_file(str(self.tokenizer)), seed):
            yield torch.from_numpy(window.astype(np.int16))


def dense_experts(self: torch.nn.Module, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """All experts of all tokens in three products, weighted by the router: fast for small ones."""
    n_experts, width = self.down_proj.shape[0], self.down_proj.shape[2]
    gate, up = self.gate_up_proj.chunk(2, dim=1)
    inner = F.silu(F.linear(hidden, gate.flatten(0, 1))) * F.linear(hidden, up.flatten(0, 1))
    share = torch.zeros(len(hidden), n_experts, dtype=inner.dtype, device=hidden.device)
    share = share.scatter(1, index, weights.to(inner.dtype))
    inner = inner.unflatten(1, (n_experts, width)) * share[..., None]
    return inner.flatten(1) @ self.down_proj.transpose(1, 2).flatten(0, 1).to(inner.dtype)


@torch.no_grad()
def fake_quant_(model: torch.nn.Module) -> dict[str, Tensor]:
    """Round all parameters as the exported file does; returns the masters for `restore_`."""
    masters = {}
    for name, parameter in model.named_parameters():
        masters[name] = parameter.data
        bits = bits_of(name, parameter)
        rounded = parameter.data.bfloat16().float()
        parameter.data = rounded if bits is None else round_affine(parameter.data, bits)
    return masters


def forward(model: Qwen3MoeForCausalLM, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(losses, right, kinds), each (batch, WINDOW), of int16 (batch, 3, WINDOW + 1).

    A token sees its own talk only. Kind -1: not in the loss.
    """
    ids, kinds, talk = batch.long().unbind(1)
    allowed = (talk[:, :-1, None] == talk[:, None, :-1]).tril()[:, None]
    with torch.autocast(batch.device.type, torch.bfloat16):
        logits = model(input_ids=ids[:, :-1], attention_mask=allowed, use_cache=False).logits
    target = ids[:, 1:]
    losses = F.cross_entropy(logits.flatten(0, 1).float(), target.flatten(), reduction="none")
    counted = (talk[:, 1:] == talk[:, :-1]) & (talk[:, 1:] > 0)
    right = logits.detach().argmax(-1) == target
    return losses.view_as(target), right, kinds[:, 1:].masked_fill(~counted, -1)


def loss_of(losses: Tensor, kinds: Tensor) -> Tensor:
    weights = torch.where(kinds > 0, 1.0, PROMPT_WEIGHT) * (kinds >= 0)
    return (losses * weights).sum() / weights.sum()


@torch.no_grad()
def measure(model: Qwen3MoeForCausalLM, held: Tensor, batch: int) -> dict[str, float]:
    """Loss of what is written, and the share of answers that greedy decoding gets right."""
    masters = fake_quant_(model)
    total, count = 0.0, 0
    answers: dict[str, list[bool]] = {kind: [] for kind in KINDS[1:]}
    for part in held.split(batch):
        losses, right, kinds = forward(model, part)
        total += float(losses[kinds > 0].sum())
        count += int((kinds > 0).sum())
        for line, kind in zip(right.cpu().numpy(), kinds.cpu().numpy(), strict=True):
            edges = np.flatnonzero(np.diff(kind, prepend=-1, append=-1))
            for low, high in pairwise(edges):
                if kind[low] > 0:
                    answers[KINDS[kind[low]]].append(bool(line[low:high].all()))
    restore_(model, masters)
    shares = {f"exact_{kind}": float(np.mean(found)) for kind, found in answers.items() if found}
    numbers = {f"n_{kind}": len(found) for kind, found in answers.items()}
    return {"loss": total / count, **shares, **numbers}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="clock limit for training")
    parser.add_argument("--start", type=Path, help="weights to go on from")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--quant-from", type=float, default=0.75, help="progress where it starts")
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--held-windows", type=int, default=512)
    parser.add_argument("--eval-every", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="a toy model, to try the recipe")
    return parser.parse_args()


def build(args: argparse.Namespace, device: str) -> Qwen3MoeForCausalLM:
    torch.manual_seed(args.seed)
    torch.backends.cuda.matmul.allow_tf32 = True
    modeling_qwen3_moe.Qwen3MoeExperts.forward = dense_experts
    model = Qwen3MoeForCausalLM(chat_config(args.tiny)).float()
    if args.start:
        weights: dict[str, Tensor] = {}
        for part in sorted(args.start.glob("weights_*.safetensors")):
            weights |= load_file(part)
        model.load_state_dict({name: w.float() for name, w in weights.items()}, strict=False)
    return model.to(device)


class Training:
    """The model, its optimizers and what is told of the run."""

    def __init__(self, args: argparse.Namespace, device: str) -> None:
        self.args, self.device = args, device
        self.model = build(args, device)
        self.watch = RouterWatch(self.model)
        self.optimizers = build_optimizers(self.model, args.lr, use_muon=True)
        for group in self._groups():
            group["weight_decay"] = min(group["weight_decay"], WEIGHT_DECAY)
        tokenizer = Tokenizer.from_file(str(args.tokenizer))
        self.held, self.fresh = (
            torch.from_numpy(np.stack(list(islice(source, args.held_windows))).astype(np.int16))
            for source in (windows(tokenizer, 0, held=True), windows(tokenizer, 10**9))
        )
        self.held, self.fresh = self.held.to(device), self.fresh.to(device)
        self.curve: list[tuple[int, float]] = []
        self.running: list[Tensor] = []
        self.started = time.monotonic()
        self.n_steps, self.waited = 0, 0.0

    def _groups(self) -> Iterator[dict[str, float]]:
        for optimizer in self.optimizers:
            yield from optimizer.param_groups

    def step(self, batch: Tensor, progress: float) -> None:
        """One step, at so much of the time; the last part computes with rounded weights."""
        for group in self._groups():
            group["lr"] = self.args.lr * rate_at(progress)
        masters = fake_quant_(self.model) if progress >= self.args.quant_from else None
        losses, _right, kinds = forward(self.model, batch)
        loss = loss_of(losses, kinds)
        balance = self.watch.balance_loss(self.model.config.num_experts_per_tok)
        (loss + BALANCE_WEIGHT * balance).backward()
        if masters is not None:
            restore_(self.model, masters)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.n_steps += 1
        self.running.append(loss.detach())
        if self.n_steps % 20 == 0 or self.args.tiny:
            mean = torch.stack(self.running).mean().item()
            self.curve.append((self.n_steps, round(mean, 4)))
            self.running.clear()

    def show(self) -> None:
        """A line on how it goes."""
        seconds = time.monotonic() - self.started
        rate = self.n_steps * self.args.batch * WINDOW / seconds
        found = measure(self.model, self.held[:64], self.args.batch)
        numbers = {name: round(value, 4) for name, value in found.items()}
        print(
            f"{self.n_steps} {seconds:.0f}s {self.curve[-1][1]} {rate:,.0f}/s {numbers}", flush=True
        )

    def save(self, final: bool) -> None:
        """Weights and results.json."""
        save_parts(self.model, self.args.out)
        args, cuda = self.args, self.device == "cuda"
        settings = {key: getattr(args, key) for key in ("lr", "batch", "seed", "quant_from")}
        results = {
            "machine": torch.cuda.get_device_name() if cuda else platform.machine(),
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "settings": settings,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "steps": self.n_steps,
            "seconds": time.monotonic() - self.started,
            "tokens": self.n_steps * args.batch * WINDOW,
            "seconds_waited_for_talks": self.waited,
            "held_out_4bit": measure(self.model, self.held[: None if final else 64], args.batch),
            "fresh_4bit": measure(self.model, self.fresh, args.batch) if final else None,
            "curve": self.curve,
        }
        (args.out / "results.json").write_text(json.dumps(results) + "\n")
        print({key: value for key, value in results.items() if key != "curve"}, flush=True)


def main() -> None:
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loader = DataLoader(
        Talks(args.tokenizer, args.seed),
        batch_size=args.batch,
        num_workers=args.workers,
        prefetch_factor=8 if args.workers else None,
        pin_memory=device == "cuda",
    )
    batches = iter(loader)  # the workers begin
    training = Training(args, device)
    saved, progress = training.started, 0.0
    while progress < 1:
        before = time.monotonic()
        batch = next(batches).to(device, non_blocking=True)
        training.waited += time.monotonic() - before
        training.step(batch, progress)
        now = time.monotonic()
        progress = (now - training.started) / args.seconds
        if training.n_steps in (20, 100) or training.n_steps % args.eval_every == 0:
            training.show()
        if now - saved > SAVE_EVERY and progress < 0.95:
            training.save(final=False)
            saved = time.monotonic()
    training.save(final=True)
    os._exit(0)  # the workers write for ever


if __name__ == "__main__":
    main()
