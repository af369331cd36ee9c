"""A machine that is not here, by what its data sheet says of it."""

from __future__ import annotations

from dataclasses import dataclass

from .. import _core
from ..arguments import check, number, optional
from ..device import device_budget
from ..errors import FormatError
from ..memory import HEAD_ROOM, parse_bytes
from .plan import Sizes
from .probe import BATCHES, STAGES_OF_EXPERTS
from .rates import DiskRate, KernelRate, LayerRate, Machine

OTHERS_BYTES = 4 << 30  # that a system and its programs take; half of a small machine's memory
# What no data sheet tells: the share of the memory's rate that weights go through the kernels at
# (docs/performance.md has 64 % and more), and what a stage costs beside.
KERNELS_SHARE, STAGE_SECONDS = 0.64, 5e-6


def machine(sizes: Sizes, disk_rate: float, memory_rate: float, threads: int) -> Machine:
    """Rates of a machine whose disk and memory move so many bytes/s.

    A layer's reads and products are taken one after the other: a run overlaps a part of them.
    """
    kernels = KernelRate(KERNELS_SHARE * memory_rate, STAGE_SECONDS)
    disk = DiskRate(dict.fromkeys(BATCHES, disk_rate), "given")
    computing = sizes.top_k * sizes.expert_bytes / kernels.bytes_per_second
    computing += STAGES_OF_EXPERTS * STAGE_SECONDS
    layer = LayerRate({
        misses: computing + disk.seconds(misses, sizes.slot_bytes)
        for misses in sorted({0, sizes.top_k})
    })  # fmt: skip
    return Machine(disk, memory_rate, kernels, threads, layer if sizes.n_layers else None)


def budget(ram: int) -> int:
    """What `auto` would take on a machine of so much memory on which nothing else is big."""
    return int(HEAD_ROOM * (ram - min(OTHERS_BYTES, ram // 2)))


@dataclass(frozen=True)
class Given:
    """A machine that is not this one; None: as this one has it. Bytes, bytes/s."""

    ram: int | None
    disk_rate: float | None
    memory_rate: float | None

    @classmethod
    def read(cls, ram: str | None, disk: float | None, memory: float | None) -> Given:
        """Raises FormatError for numbers that no machine has, or one rate without the other."""
        rate = optional(number("in 0.001..100000", lambda value: 1e-3 <= value <= 1e5))
        rates = {"--disk-gb-s": disk, "--mem-gb-s": memory}
        check("plan", FormatError, dict.fromkeys(rates, rate), rates)
        if (disk is None) != (memory is None):
            raise FormatError("[plan] expected --disk-gb-s and --mem-gb-s, found one of them")
        return cls(None if ram is None else parse_bytes(ram), disk and disk * 1e9,
                   memory and memory * 1e9)  # fmt: skip

    def budget(self, device: _core.NativeDevice | None) -> int:
        """What `auto` comes to."""
        return device_budget("auto", device) if self.ram is None else budget(self.ram)
