"""The plan: what a model needs, what fits into a budget, how fast that would be. Pure functions.

Sizes come from the native planner (`measure` loads from holes: every booking of a real load, no
byte read), rates from the one-second probe (probe.py), hit rates from hit_rate.py, from curves.py
or the caller.

Time of a token: the engine runs one layer after the other and knows a layer's experts only when its
router has run, so nothing of a layer overlaps with another. With m of K experts missing, m
binomial at the hit rate:

    token = dense weights, KV cache, recurrent state, hand-overs, and for every layer the mean over
            m of layer(m)

where layer(m) is what the probe measured for a layer's experts with m of them read from this disk
(rates.LayerRate), a weight costs its bytes over the kernels' rate, and a hand-over what it takes to
hand a stage to the threads.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .. import _core
from ..checkpoint import Checkpoint
from ..device import READ_THREADS, compute
from ..spec import Moe, Spec, tree
from . import hit_rate
from .curves import Curve
from .rates import LayerRate, Machine

# Times that a token's stage is handed to threads (ops/cpu; what runs in the caller alone is not
# counted): the projections, what is between them, and the output's projection.
HAND_OVERS = {
    "attention": 3,  # q k v gate, the cache's spans, o
    "mla": 5,  # q_a kv_a, q_b, queries of latents, values of latents, o; a span stays here
    "delta_net": 4,  # qkv z b a, convolution, recurrence, out
    "gated_convolution": 5,  # inputs, gate, convolution, gate, out
    "mamba2": 4,  # inputs z steps, convolution, recurrence, out
    "nothing": 0,
    "moe": 1,  # router
    "shared": 2,  # gate and up, down
    "latent": 2,  # into it, out of it
    "dense": 2,
    "head": 1,
}
POSITION = 256  # tokens in the KV cache for which speed is predicted
SKEW = 0.5  # of the second hit rate: a mild preference for some experts (synth/router.py)


@dataclass(frozen=True)
class Sizes:
    """A model's bytes at a context and thread count.

    Attributes:
        resident_bytes: dense weights as they are kept in memory.
        scratch_bytes: activations, kernel scratch, read buffers, thread stacks.
        session_bytes: one session up to the whole context, however it is stepped: the most that it
            takes. A shorter one takes its extents, up to the next whole one.
        state_bytes: of that, recurrent state (two copies) and tables: what an empty session takes.
        extent: tokens by which a session's KV cache grows.
        caches: of layers that see equally far back: bytes of an extent, tokens that one sees (0:
            all) and extents at most (0: any number).
        classes: by size of slot, the largest first: bytes of a slot, experts, layers.
        slot_bytes: the largest slot.
        expert_bytes: one expert's weights.
        dense_token_bytes: resident weights that a token goes through.
        hand_overs: of a token's stages to threads, beside its experts'.
        n_experts: of all layers.
        n_layers: with experts.
        experts_per_layer: in each of them.
        top_k: experts that a token uses in a layer.
        context: tokens of a session.
        chunk: tokens of a session that go through attention together.
        rows: of the passes that scratch_bytes are for.
        wider: rows of passes that a load may choose instead, and what one takes in the place of
            slots while it runs.
    """

    resident_bytes: int
    scratch_bytes: int
    session_bytes: int
    state_bytes: int
    extent: int
    caches: tuple[tuple[int, int, int], ...]
    classes: tuple[tuple[int, int, int], ...]
    slot_bytes: int
    expert_bytes: int
    dense_token_bytes: int
    hand_overs: int
    n_experts: int
    n_layers: int
    experts_per_layer: int
    top_k: int
    context: int
    chunk: int = 512
    rows: int = 512
    wider: tuple[tuple[int, int], ...] = ()

    @property
    def fixed_bytes(self) -> int:
        """All but slots, with one session that has filled its context."""
        return self.resident_bytes + self.scratch_bytes + self.session_bytes

    def slots_bytes(self, n: int) -> int:
        """What n slots take when every class has them for the same part of its experts."""
        return sum(-(-n * n_experts // self.n_experts) * slot_bytes
                   for slot_bytes, n_experts, _ in self.classes)  # fmt: skip

    @property
    def cycle_slots(self) -> int:
        """Slots that one token's experts fill."""
        return self.n_layers * self.top_k

    @property
    def expert_token_bytes(self) -> int:
        """Bytes of experts that a token uses: what it reads when nothing is in memory."""
        return self.cycle_slots * self.expert_bytes

    def extents_bytes(self, n: int) -> int:
        """The KV cache of so many extents, of windows of no more than they ever have."""
        return sum(nbytes * (min(n, most) if most else n) for nbytes, _, most in self.caches)

    def kv_bytes(self, position: int) -> int:
        """What a token of the KV cache sees, itself among them at `position`."""
        return sum(
            nbytes * (min(position, window) if window else position) // self.extent
            for nbytes, window, _ in self.caches
        )


@dataclass(frozen=True)
class Fit:
    """A budget and the slots it leaves room for."""

    memory_bytes: int
    slots: int
    share: float  # of all experts
    holds_cycle: bool
    rows: int  # of a pass, at most
    pass_bytes: int  # of slots, that one so wide takes while it runs


@dataclass(frozen=True)
class Speed:
    """A token's time at a hit rate."""

    hit_rate: float
    bytes_per_token: int  # read from disk
    seconds: float
    compute_seconds: float  # if nothing had to be read
    read_seconds: float  # if nothing had to be computed

    @property
    def tokens_per_second(self) -> float:
        """The inverse of a token's time."""
        return 1 / self.seconds


@dataclass(frozen=True)
class Row:
    """A budget: what fits and how fast it is, for each hit rate that was assumed."""

    fit: Fit
    speeds: tuple[Speed, ...]


def measure(
    checkpoint: Checkpoint,
    spec: Spec,
    context: int,
    n_threads: int,
    precision: str = "float32",
    device: _core.NativeDevice | None = None,
    read_ahead: bool = True,
    rows: int | None = None,
    kv: str | None = None,
) -> Sizes:
    """A model's sizes from its headers: no weights are read. `device` None is the CPU.

    The options are those of `load`: each of them changes what a model needs.

    Raises:
        FormatError: tensors that do not fit each other.
    """
    native = _core.measure_model(
        spec=tree(spec),
        file_bytes=checkpoint.file_bytes,
        compute=compute(n_threads, precision, device, kv),
        options=_core.Options(
            context=context, read_threads=READ_THREADS, read_ahead=read_ahead, rows=rows or 0
        ),
    )
    classes, wider, caches = (tuple(native.pop(name)) for name in ("classes", "wider", "caches"))
    n_experts, n_layers = (sum(k[i] for k in classes) for i in (1, 2))
    return Sizes(
        **native,
        classes=classes,
        wider=wider,
        caches=caches,
        slot_bytes=max((slot_bytes for slot_bytes, _, _ in classes), default=0),
        n_experts=n_experts,
        n_layers=n_layers,
        expert_bytes=max((moe.experts.nbytes for moe in spec.moes), default=0),
        experts_per_layer=n_experts // n_layers if n_layers else 0,
        dense_token_bytes=spec.token_bytes,
        hand_overs=_hand_overs(spec),
        context=context,
    )


def _hand_overs(spec: Spec) -> int:
    count = HAND_OVERS["head"]
    for layer in spec.layers:
        count += HAND_OVERS[layer.mixer.kind] + HAND_OVERS[layer.ffn.kind]
        if isinstance(layer.ffn, Moe) and layer.ffn.shared:
            count += HAND_OVERS["shared"]
        if isinstance(layer.ffn, Moe) and layer.ffn.latent_in:
            count += HAND_OVERS["latent"]
    return count


def minimum_bytes(sizes: Sizes) -> int:
    """The smallest budget that `load` accepts."""
    return int(_native(sizes, 2**62)["minimum_bytes"])


def longest_context(sizes: Sizes, memory_bytes: int) -> int | None:
    """Tokens that a session can have in a budget, with the fewest experts beside it.

    None for a model whose state does not grow, or not beyond its windows.
    """
    free = memory_bytes - minimum_bytes(sizes) + sizes.session_bytes - sizes.state_bytes
    whole = max((most for _, _, most in sizes.caches), default=0)  # windows have all of theirs
    growing = sizes.extents_bytes(whole + 1) - sizes.extents_bytes(whole)
    if not growing and free >= sizes.extents_bytes(whole):
        return None
    some = range(1, whole + 1 + (max(free, 0) // growing if growing else 0))
    return bisect_right(some, free, key=sizes.extents_bytes) * sizes.extent


def fit(sizes: Sizes, memory_bytes: int) -> Fit:
    """What fits into a budget.

    Raises:
        MemoryBudgetError: it is below the minimum; the message says what it would take.
    """
    native = _native(sizes, memory_bytes)
    share = native["slots"] / sizes.n_experts if sizes.n_experts else 1.0
    return Fit(memory_bytes, native["slots"], share, native["holds_cycle"], native["rows"],
               native["pass_bytes"])  # fmt: skip


def _native(sizes: Sizes, memory_bytes: int) -> dict[str, Any]:
    return _core.make_plan(
        memory_bytes=memory_bytes,
        resident_bytes=sizes.resident_bytes,
        scratch_bytes=sizes.scratch_bytes,
        session_bytes=sizes.session_bytes,
        classes=sizes.classes,
        top_k=sizes.top_k,
        chunk=sizes.chunk,
        rows=sizes.rows,
        wider=sizes.wider,
    )


def prompt_bytes(sizes: Sizes, n_tokens: int) -> int:
    """What the first prompt after a load reads of experts, when its tokens route at random.

    It goes through the layers in one pass, and each expert that it needs is read once.
    """
    if not sizes.n_experts:
        return 0
    used = 1 - (1 - sizes.top_k / sizes.experts_per_layer) ** n_tokens
    return round(used * sizes.n_experts * sizes.expert_bytes)


def expected_hit_rate(sizes: Sizes, slots: int, skew: float) -> float:
    """Hit rate of so many slots for independent tokens: 0 below one token's experts."""
    if slots < sizes.cycle_slots:
        return 0.0
    share = slots / sizes.n_experts if sizes.n_experts else 1.0
    return hit_rate.hit_rate(share, max(sizes.experts_per_layer, 1), max(sizes.top_k, 1), skew)


def measured_hit_rate(sizes: Sizes, slots: int, curve: Curve) -> float:
    """Hit rate of so many slots by a measured curve: 0 below one token's experts."""
    if slots < sizes.cycle_slots:
        return 0.0
    return curve.hit_rate(slots / sizes.n_experts if sizes.n_experts else 1.0)


def speed(sizes: Sizes, machine: Machine, rate: float, position: int = POSITION) -> Speed:
    """A decode step's time when a share `rate` of its experts is in memory."""
    k, layers, kernels = sizes.top_k, sizes.n_layers, machine.kernels
    state = sizes.kv_bytes(min(position, sizes.context)) + sizes.state_bytes
    dense = sizes.dense_token_bytes / kernels.bytes_per_second + state / machine.memory_rate
    dense += sizes.hand_overs * kernels.stage_seconds
    layer = machine.layer or LayerRate({0: 0.0})
    routed = reads = 0.0
    for misses in range(k + 1):
        chance = math.comb(k, misses) * (1 - rate) ** misses * rate ** (k - misses)
        routed += chance * layer.seconds(misses)
        reads += chance * machine.disk.seconds(misses, sizes.slot_bytes)
    return Speed(
        hit_rate=rate,
        bytes_per_token=round((1 - rate) * sizes.expert_token_bytes),
        seconds=dense + layers * routed,
        compute_seconds=dense + layers * layer.seconds(0),
        read_seconds=layers * reads,
    )


def bound(sizes: Sizes, machine: Machine, rate: float) -> float:
    """Tokens/s that no engine passes: all bytes at the memory's rate, all misses at the disk's.

    The limit model of the field: perfect overlap, no dependency between layers.
    """
    weights = sizes.dense_token_bytes + sizes.expert_token_bytes
    missing = (1 - rate) * sizes.expert_token_bytes
    return 1 / max(weights / machine.memory_rate, missing / machine.disk.best)


def rows(
    sizes: Sizes,
    machine: Machine,
    budgets: Sequence[int],
    rate: float | None = None,
    position: int = POSITION,
    curve: Curve | None = None,
) -> list[Row]:
    """A row for each budget, at `rate`, or at the rates of uniform and of other routing.

    The other is what the `curve` says; without one it is skewed.

    Raises:
        MemoryBudgetError: a budget below the minimum.
    """
    out = []
    for memory_bytes in budgets:
        fits = fit(sizes, memory_bytes)
        rates = [rate] if rate is not None else _assumed(sizes, fits.slots, curve)
        out.append(Row(fits, tuple(speed(sizes, machine, r, position) for r in rates)))
    return out


def _assumed(sizes: Sizes, slots: int, curve: Curve | None) -> list[float]:
    """Hit rates of uniform routing and of the other that `rows` speaks of."""
    uniform = expected_hit_rate(sizes, slots, 0.0)
    if curve is None:
        return [uniform, expected_hit_rate(sizes, slots, SKEW)]
    return [uniform, measured_hit_rate(sizes, slots, curve)]


def usual_budgets(sizes: Sizes, most: int | None = None) -> list[int]:
    """Budgets at which something changes: minimum, a token's experts, quarters, everything.

    `most`, what a device advises, stands for all that pass it.
    """
    slots = [sizes.cycle_slots, *(math.ceil(sizes.n_experts * i / 4) for i in (1, 2, 3, 4))]
    least = minimum_bytes(sizes)
    wanted = {least} | {sizes.fixed_bytes + sizes.slots_bytes(n) for n in slots}
    wanted = {value for value in wanted if value >= least}
    return sorted(wanted if most is None else {min(value, most) for value in wanted})
