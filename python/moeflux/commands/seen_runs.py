"""Short runs of one model at several budgets, each of them remembered for `moeflux plan`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..bench import Setting
    from ..checkpoint import Checkpoint
    from ..planning.knee import Knee
    from ..planning.plan import Sizes


def remember(weights: str, sizes: Sizes, run: dict[str, Any], tuned: bool = False) -> None:
    """Notes a run of `bench.measure` whose tokens were of a text, one sequence."""
    from ..planning import seen

    setting, decode = run["setting"], run["decode"]
    if setting["sequences"] != 1:
        return
    share = min(run["slots"] / sizes.n_experts, 1.0) if sizes.n_experts else 1.0
    rate = 1.0 if decode["hit_rate"] is None else float(decode["hit_rate"])
    seen.note(
        seen.Run(
            weights=weights, machine=seen.here(), device=setting["device"],
            precision=setting["precision"], kv=setting["kv"] or "", threads=setting["threads"],
            read_ahead=setting["read_ahead"], share=share, hit_rate=rate,
            tokens_per_second=float(decode["tokens_per_second"]), tuned=tuned,
        )
    )  # fmt: skip


@dataclass
class Runs:
    """Runs of a checkpoint that differ in nothing but the budget.

    Attributes:
        checkpoint: of a model on this disk.
        setting: of the run at the largest budget.
        device: that computes; None is the CPU.
    """

    checkpoint: Checkpoint
    setting: Setting
    device: Any

    @cached_property
    def spec(self) -> Any:
        """Of the checkpoint's family."""
        from ..families import build_spec

        return build_spec(self.checkpoint)

    @cached_property
    def sizes(self) -> Sizes:
        """What a run takes."""
        from ..planning import plan

        of = self.setting
        return plan.measure(self.checkpoint, self.spec, of.context, of.threads, of.precision,
                            self.device, of.read_ahead, kv=of.kv)  # fmt: skip

    def written(self, opening: str, count: int) -> list[int]:
        """Tokens that the model writes behind an opening, drawn at temperature 1."""
        from ..model import load
        from ..stream import stream_generate

        of = self.setting
        model = load(self.checkpoint.path, memory=of.memory, context=2 * count + 64,
                     threads=of.threads, precision=of.precision, device=of.device,
                     read_ahead=of.read_ahead, kv=of.kv)  # fmt: skip
        parts = stream_generate(model, opening, max_tokens=count, temperature=1.0, seed=0)
        ids = model.tokenizer.encode(opening)
        return ids + [part.token for part in parts if part.token is not None]

    def knee(self, share: float, least: int, most: int, ids: Callable[[], list[int]]) -> Knee:
        """Searches between two numbers of slots; the setting's budget is that of the larger one."""
        from rich.console import Console

        from .. import bench
        from ..identity import of_weights
        from ..planning import knee, probe

        weights = of_weights(self.checkpoint, self.checkpoint.config)
        reports: dict[int, dict[str, Any]] = {}
        with Console(stderr=True).status("measuring the disk and the memory") as status:
            machine = probe.machine(self.spec, self.checkpoint.files, self.sizes.slot_bytes,
                                    self.setting.threads, device=self.device,
                                    precision=self.setting.precision)  # fmt: skip
            status.update("writing a text")
            fed = ids()

            def measure(slots: int) -> float:
                status.update(f"decoding with {slots} of {self.sizes.n_experts} experts in memory")
                setting = replace(self.setting, memory=str(budget(self.sizes, slots)))
                run = bench.measure(self.checkpoint.path, self.sizes, setting, machine, fed,
                                    lambda _: None)  # fmt: skip
                remember(weights, self.sizes, run)
                reports[slots] = run
                return float(run["decode"]["tokens_per_second"])

            found = knee.find(measure, least, most, share)
        remember(weights, self.sizes, reports[found.at], tuned=True)
        return found


def budget(sizes: Sizes, slots: int) -> int:
    """The smallest budget with so many slots beside a session that has filled its context."""
    from ..planning import plan

    return max(sizes.fixed_bytes + sizes.slots_bytes(slots), plan.minimum_bytes(sizes))
