"""`load` and `Model`: the thin Python side of the native engine."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import _core, elastic, holes, hub, log
from .arguments import FLAG, PATH, TEXT, check, integer, optional
from .batch import run
from .checkpoint import open_checkpoint
from .device import (
    READ_THREADS,
    advised_bytes,
    check_kv,
    check_precision,
    compute,
    default_threads,
    device_budget,
    kind_of,
    open_device,
    suited,
)
from .device import RULES as DEVICE_RULES
from .errors import FormatError, SessionError
from .families import build_spec
from .identity import Identity
from .memory import SIZE, hold, promise
from .routing import Routing
from .sampling import Sampler
from .session import Closed, Session
from .spec import Spec, tree
from .stepping import RULES as SESSION_RULES
from .tokenizer import Tokenizer

MOST_ROWS = 4096  # of a pass, at most; kMostRows of the core
RULES = DEVICE_RULES | {
    "path": optional(PATH),
    "memory": SIZE,
    "context": integer(1, 1 << 24),
    "threads": optional(integer(1, 256)),
    "max_slots": optional(integer(1)),
    "rows": optional(integer(1, MOST_ROWS)),
    "read_ahead": FLAG,
    "direct_io": FLAG,
    "revision": optional(TEXT),
    "offline": FLAG,
}


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    memory: str | int = "auto",
    context: int = 8192,
    device: str = "auto",
    precision: str = "float32",
    kv: str | None = None,
    threads: int | None = None,
    max_slots: int | None = None,
    rows: int | None = None,
    read_ahead: bool = True,
    direct_io: bool = True,
    revision: str | None = None,
    offline: bool = False,
) -> Model:
    """Opens a checkpoint: dense weights are read into memory, experts stay on disk.

    Args:
        path: a folder, a GGUF file (any of a model's), a hub id "owner/name" or, of GGUF,
            "owner/name:Q4_K_M", "demo-chat" for the model in the package that talks, or None for
            the demo model.
        memory: bound on all that the model makes the process hold: "auto", "12GiB" or bytes, no
            more than the machine has. "auto" is 80 % of what is available and not promised to other
            models of this process. On a device it counts what the device holds, too, and "auto"
            stays below what it advises.
        context: tokens a session can hold. Its KV cache grows as it fills. `memory` must have room
            for one session of the whole context.
        device: "cpu"; "metal", the GPU of a Mac; "auto", metal where `moeflux doctor` has found it
            right on this machine, `precision` is float32 and there are kernels for the model, else
            cpu; or "host", the GPU's shaders run on the CPU, for checking: slow. Results of
            different devices agree within a tolerance.
        precision: of products with weights: "float32", "bfloat16" (16-bit activations) or "int8"
            (8-bit activations, one scale a group). Router, recurrent state, norms and logits are
            float32 always. A device other than "cpu" computes at float32 and has no other.
        kv: type of the KV cache, "float32", "bfloat16" or "int8". None is what the precision gives:
            bfloat16 for those of 16 and 8 bits. bfloat16 halves the cache, and what a token reads
            of it, and rounds keys and values. int8 halves it again: 8 bits, with a scale for each
            key and value of a head; the CPU alone has it.
        threads: compute threads of the CPU; None takes the machine's cores, and for a small model
            no more than have work. Changes no result, and
            nothing on another device.
        max_slots: at most this many experts in memory, no fewer than 3 and than a token takes in
            a layer, for each size of expert. Changes no result.
        rows: tokens of all sessions that a pass takes at most, from the model's chunk (64 to 512)
            to 4096: a pass reads each expert that it needs once. What it computes in takes the
            place of experts while it runs; `memory` must have room for it. None: a chunk where all
            experts fit, else as many as a quarter of their memory holds. Changes no result.
        read_ahead: also read the experts that the next layer is guessed to need, whenever the disk
            would be idle and as long as most guesses come true. Changes no result; a wrong guess is
            a read too many. False makes the counters of reads repeatable, but for prompts that need
            more experts of a layer than there are slots: what stays is then a matter of arrival.
        direct_io: read past the page cache where the file system allows it.
        revision: branch, tag or commit of a hub id; `Model.revision` tells what it came to.
        offline: use what the hub's cache holds; ask no hub.

    Returns:
        A Model.

    Raises:
        FormatError: the checkpoint or an argument is not what it must be.
        IoError: a file cannot be read.
        MemoryBudgetError: `memory` is too little, more than the machine has, or more than the
            device advises to keep resident; the message says what would do.
        NoDeviceError: this machine has no such device; the message says why.
        GpuError: the device has no room, a layer's cache is larger than its largest buffer, or it
            refuses a kernel: those that the model needs are compiled here.
        DownloadError: a hub id cannot be had.

    Example:
        >>> model = load(memory="24MiB", context=512)
        >>> model.session().step([1, 2, 3]).shape == (model.vocab_size,)
        True
    """
    check("load", FormatError, RULES, locals())
    begin = time.perf_counter()
    native_device = open_device(device, precision)
    check_precision(precision, kind_of(native_device))
    check_kv(kv, device)
    folder = hub.resolve(path, revision, offline)
    checkpoint = open_checkpoint(folder)
    threads = threads if threads is not None else default_threads(checkpoint.nbytes)
    holes.refuse(checkpoint)
    identity = Identity(checkpoint)  # of what the core is about to open
    spec = build_spec(checkpoint)
    check_rows(rows, spec)
    parts, sizes = tree(spec), checkpoint.file_bytes
    native_device = suited(device, native_device, parts, sizes, context, kv)
    with promise(lambda: device_budget(memory, native_device)) as memory_bytes:
        native = _core.load_model(
            spec=parts,
            files=[os.fsencode(file) for file in checkpoint.files],
            memory_bytes=memory_bytes,
            direct=direct_io,
            compute=compute(threads, precision, native_device, kv),
            options=_core.Options(context=context, read_threads=READ_THREADS, read_ahead=read_ahead,
                                  max_slots=min(max_slots or 0, 2**32 - 1), rows=rows or 0),
        )  # fmt: skip
        hold(native)
    elastic.follow(native, memory == "auto")
    model = Model(native, folder, checkpoint.config, spec, identity)
    model._advised = advised_bytes(native_device)
    log.loaded(model, memory, direct_io, time.perf_counter() - begin)
    log.context(model, context)
    return model


def check_rows(rows: int | None, spec: Spec) -> None:
    """Raises FormatError for passes of fewer rows than the model's chunk."""
    if rows is not None and rows < spec.chunk:
        raise FormatError(f"[load] rows: expected at least {spec.chunk}, a chunk of this model, "
                          f"found {rows}")  # fmt: skip


class Model:
    """An open model; make sessions from it. Safe to share between threads (calls take turns).

    As a context manager it is closed at the end of the block.
    """

    def __init__(
        self,
        native: _core.NativeModel,
        folder: Path,
        config: dict[str, Any],
        spec: Spec,
        identity: Identity,
    ) -> None:
        self._native = native
        self._vocab_size: int = spec.vocab
        self._positions: int = spec.positions  # until a text was longer; see log.py
        self.path = folder
        self.config = config
        self._identity = identity
        self._chunk: int = spec.chunk
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._tokenizer: Tokenizer | None = None
        self._advised: int | None = None  # bytes that its device advises to keep resident
        self._best_read_rate = 0.0  # bytes a second over a generation; see log.py

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer, read on first use."""
        if self._tokenizer is None:
            self._tokenizer = Tokenizer(self.path, self.config)
        return self._tokenizer

    @property
    def revision(self) -> str | None:
        """The hub commit that was loaded; None for a folder of one's own."""
        return hub.commit_of(self.path)

    @property
    def vocab_size(self) -> int:
        """Width of the logits."""
        return self._vocab_size

    @property
    def chunk(self) -> int:
        """Tokens of a session that go through attention together: up to positions that it divides.

        A prompt that is cut there is computed as it would be anyway, whatever its passes have of
        other tokens.
        """
        return self._chunk

    @property
    def rows(self) -> int:
        """Tokens of all sessions that a pass takes at most; a step of more is several passes.

        A pass reads each expert once. While sessions hold the memory that so many tokens would be
        computed in, passes have fewer, a chunk at least.

        Example:
            >>> model = load(memory="24MiB", context=512)
            >>> before = model.stats["passes"]
            >>> _ = model.session().step([1] * model.rows)
            >>> model.stats["passes"] - before
            1
        """
        return int(self._native.rows)

    @property
    def stats(self) -> dict[str, Any]:
        """Counters since load.

        tokens, steps, passes (forward passes: a step of many tokens or sessions takes several),
        hits, misses, evictions, bytes_read (of experts), wait_seconds (asleep for reads, with
            nothing to compute meanwhile), compute_seconds (the rest of the time in steps),
        reading_seconds (with a read under way), ahead_reads and ahead_used (experts read on a
            guess, and those that were asked for afterwards: these are among the misses, too),
        commits and waits (times that work was handed over, and that a device had nothing left to
            do until the engine had its result: in decode at most two a MoE layer and one a token,
            and one of each; a device whose experts are in memory waits once a token),
        dispatches (kernel launches on a device; on the CPU times that threads got work) and
            kernels (a device's, by kernel's name),
        slots, max_slots, slot_bytes, holds_cycle (whether one token's experts fit: below it hits
        are rare), live_bytes, peak_bytes, memory_bytes, read_mode ("direct" or "buffered"), simd,
        precision, kv, device ("cpu", "host" or "metal") and device_name;
        overridden_tokens (computed under a `Routing`) and routing ("native" while that is 0, else
        "override: " and the name of the last one).
        """
        return self._native.stats()

    @property
    def free_bytes(self) -> int:
        """Bytes of the budget that sessions and snapshots can still take.

        Free ones, and those of slots beyond the minimum: experts go when a session needs their
        memory. While a step runs, some of these are in use.

        Example:
            >>> model = load(memory="24MiB", context=512)
            >>> session, before = model.session(), model.free_bytes
            >>> _ = session.step([1, 2, 3])
            >>> before - model.free_bytes == session.bytes(3) - session.bytes(0)
            True
        """
        return self._native.free_bytes()

    @property
    def memory(self) -> int:
        """The budget in bytes. It may be set while the model is open, as `load` takes it.

        A smaller one takes experts from memory at once; a larger one fills as they are needed. No
        result depends on it. With "auto" it follows what the machine has (on Linux, which tells):
        before a step, and at rest, it gives memory back where that runs short, and takes it again
        after two quiet minutes.

        Raises:
            FormatError: it is no size.
            MemoryBudgetError: it is less than dense weights, sessions and the fewest slots take,
                or more than the machine has, or its device advises.

        Example:
            >>> model = load(memory="24MiB", context=512)
            >>> model.memory = "32MiB"
            >>> model.memory
            33554432
        """
        return int(self._native.stats()["memory_bytes"])

    @memory.setter
    def memory(self, memory: str | int) -> None:
        check("model", FormatError, RULES, {"memory": memory})
        elastic.resize(self._native, memory, self._advised)

    def session(self, *, routing: Routing | None = None) -> Session:
        """A new, empty sequence.

        Args:
            routing: compute it under an override of the router's choice; see `Routing`.

        Raises:
            MemoryBudgetError: its recurrent state and tables find no room.
            SessionError: the model cannot follow the override.
        """
        check("session", SessionError, SESSION_RULES, {"routing": routing})
        return Session(self._native, self._identity, routing, self._sessions)

    def close(self) -> None:
        """Gives all memory and files back; the model and its sessions refuse whatever comes later.

        Snapshots that somebody holds, and calls in progress, keep it alive until they end. Closing
        twice does nothing.
        """
        closed: Any = Closed()
        for session in list(self._sessions):
            session._native = closed
        self._native, self._tokenizer = closed, None

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if isinstance(self._native, Closed):
            return f"<Model {self.path}, closed>"
        stats = self.stats
        return (f"<Model {self.path} ({self.config.get('model_type')}), {stats['precision']} on "
                f"{stats['device']}, {stats['live_bytes'] / 1e6:.1f} of "
                f"{stats['memory_bytes'] / 1e6:.1f} MB>")  # fmt: skip

    def abort(self) -> None:
        """Ends what is in progress, whichever thread has begun it: within a tenth of a second the
        calls of `step`, `step_batch` and `score` that run or wait for their turn raise
        `Interrupted`, and so do generations that have begun, at their next step. Their sessions
        are as before the call. What begins later is not touched, and without anything in progress
        nothing happens. Any thread may call it; it does not wait. A device first ends what it has
        been given.
        """  # noqa: D205
        self._native.abort()

    def step_batch(
        self,
        batch: Iterable[tuple[Session, Iterable[int]]],
        *,
        all_logits: bool = False,
        capture: Iterable[str] | None = None,
        sample: Iterable[Sampler | None] | None = None,
    ) -> list[Any]:
        """Steps several sessions at once: each needed expert is read once for all of them.

        Tokens of all sessions go through the layers together, in passes of a fixed number of rows:
        short requests (a token of decode each) go whole in the first pass and long ones share the
        rest of it equally, so a prompt delays nobody's token by more than its share. The call
        returns when all are done; feed long prompts in pieces to answer the others sooner.

        It happens whole or not at all: when anything fails (a bad token of one session, a read, an
        interrupt, a cache without room), every session of the batch is as before, and the same
        call, or one without the session to blame, gives the undisturbed result. Logits are those of
        single steps.

        Args:
            batch: (session, token ids) pairs; each session once, all of this model.
            all_logits: as in `Session.step`, for every session.
            capture: as in `Session.step`, for every session.
            sample: for each session a Sampler that chooses its next token, or None where nothing
                is wanted; without `all_logits` and `capture`. Rows are sampled in parallel, as the
                step computes them, and no logits are kept: `generate` cannot go on from such a
                session with an empty prompt.

        Returns:
            What `Session.step` would return, in the order of the batch; with `sample` a `Choice`
            each, or None.

        Raises:
            SessionError: a session twice or of another model, what `Session.step` refuses, or what
                `Sampler.choose` does.
            MemoryBudgetError: the KV caches find no room to grow.
            IoError: an expert could not be read.
            Interrupted: `abort` was called.

            `MoefluxError.session` is the session that an error is about.

        Example:
            >>> model = load(memory="24MiB", context=512)
            >>> one, other = model.session(), model.session()
            >>> [logits.shape for logits in model.step_batch([(one, [1, 2]), (other, [3])])]
            [(4096,), (4096,)]
        """
        return run(self._native, batch, all_logits, capture, sample)
