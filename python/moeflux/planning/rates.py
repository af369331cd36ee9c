"""What a probe found: rates of a disk, of kernels, of a layer, and between what was measured."""

from __future__ import annotations

from dataclasses import dataclass

from .steady import NOISE


@dataclass(frozen=True)
class DiskRate:
    """Read rates in bytes/s by number of experts asked for at once; `mode` direct or buffered.

    `spread`: how many times apart measurements were (steady.py); 1 where they agree.
    """

    by_batch: dict[int, float]
    mode: str
    spread: float = 1.0

    @property
    def best(self) -> float:
        """The highest of the rates."""
        return max(self.by_batch.values())

    def seconds(self, n_experts: float, expert_bytes: int) -> float:
        """Time to read so many experts that are asked for at once; linear between batches."""
        if n_experts <= 0:
            return 0.0
        known = sorted(self.by_batch)
        times = [batch * expert_bytes / self.by_batch[batch] for batch in known]
        if n_experts <= known[0]:
            return times[0] * n_experts / known[0]
        for low, high, t_low, t_high in zip(known, known[1:], times, times[1:], strict=False):
            if n_experts <= high:
                return t_low + (t_high - t_low) * (n_experts - low) / (high - low)
        return times[-1] * n_experts / known[-1]


@dataclass(frozen=True)
class KernelRate:
    """How fast weights go through the compute kernels, one token at a time.

    Attributes:
        bytes_per_second: packed weights, once a stage is under way.
        stage_seconds: what every stage costs beside its weights: handing work to threads.
        spread: how many times apart measurements were.
    """

    bytes_per_second: float
    stage_seconds: float
    spread: float = 1.0


@dataclass(frozen=True)
class LayerRate:
    """Seconds that a decoded layer's experts take, by how many of them must be read.

    Measured as a whole, since its parts do not add up: reading takes cores from computing, and
    threads that slept while a read was waited for must wake up. `spread`: how many times apart
    measurements were.
    """

    by_misses: dict[int, float]
    spread: float = 1.0

    def seconds(self, misses: int) -> float:
        """Linear between the measured numbers, and beyond the last of them."""
        known = sorted(self.by_misses)
        high = next((n for n in known if n >= misses), known[-1])
        low = max((n for n in known if n < high), default=high)
        if low == high:
            return self.by_misses[low]
        slope = (self.by_misses[high] - self.by_misses[low]) / (high - low)
        return self.by_misses[low] + slope * (misses - low)


@dataclass(frozen=True)
class Machine:
    """What a plan needs to know of a machine; `memory_rate` in bytes/s.

    `layer` is None for a model without experts.
    """

    disk: DiskRate
    memory_rate: float
    kernels: KernelRate
    threads: int
    layer: LayerRate | None = None

    def disturbed(self) -> dict[str, float]:
        """What was measured while the machine was busy, with how many times apart it was."""
        spreads = {"disk reads": self.disk.spread, "the compute kernels": self.kernels.spread}
        if self.layer is not None:
            spreads["a layer's experts"] = self.layer.spread
        return {name: spread for name, spread in spreads.items() if spread > NOISE}
