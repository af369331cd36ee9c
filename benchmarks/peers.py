"""One engine in a process of its own, told by lines of JSON what to run: compare.py's other half.

    python peers.py ENGINE '{"model": ..., ...}'

Reads {"prefill": [ids]}, {"decode": [ids], "limit": s} (one token a step, for at most so many
seconds), {"reset": true}, {"stats": true} or {"experts": [ids]} (which experts each token used: of
moeflux only); answers each with {"seconds": s, "device_bytes": n, ...}, and on the first line with
the seconds of loading. Needs nothing of moeflux but where ENGINE is moeflux, so that each engine
runs in its own environment.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol


class Engine(Protocol):
    """A model and one sequence of it."""

    def step(self, ids: Sequence[int]) -> None:
        """Feeds tokens and waits for the last one's logits."""

    def reset(self) -> None:
        """Forgets the sequence."""

    def stats(self) -> dict[str, Any]:
        """What the engine counts itself."""


class Moeflux:
    """Options: model, memory, context, precision, threads."""

    def __init__(self, model: str, **options: Any) -> None:
        import moeflux

        self._model = moeflux.load(model, **options)
        self._session = self._model.session()

    def step(self, ids: Sequence[int]) -> None:
        """Feeds tokens and waits for the last one's logits."""
        self._session.step(ids)

    def experts(self, token: int) -> list[list[int]]:
        """Feeds a token; the experts that it used, by layer."""
        layers = self._session.step([token], capture={"experts"})["experts"][0]
        return [[int(expert) for expert in layer] for layer in layers]

    def reset(self) -> None:
        """Forgets the sequence."""
        self._session.reset()

    def stats(self) -> dict[str, Any]:
        """What the engine counts itself."""
        return dict(self._model.stats)


class LlamaCpp:
    """Options: model (GGUF), context, threads, repack, mmap."""

    def __init__(
        self, model: str, context: int, threads: int, repack: bool = True, mmap: bool = True
    ) -> None:
        import llama_cpp

        self._lib = llama_cpp
        self._quiet = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.load_mode = llama_cpp.LLAMA_LOAD_MODE_MMAP if mmap else 0
        params.use_extra_bufts = repack
        self._model = llama_cpp.llama_model_load_from_file(model.encode(), params)
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = context
        settings.n_batch = settings.n_ubatch = 512
        settings.n_threads = settings.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, settings)
        if not self._context:
            raise SystemExit("llama.cpp made no context")

    def step(self, ids: Sequence[int]) -> None:
        """Feeds tokens and waits for the last one's logits."""
        array = (ctypes.c_int32 * len(ids))(*ids)
        batch = self._lib.llama_batch_get_one(array, len(ids))
        if self._lib.llama_decode(self._context, batch) != 0:
            raise SystemExit("llama_decode failed")
        self._lib.llama_get_logits_ith(self._context, -1)  # waits

    def reset(self) -> None:
        """Forgets the sequence."""
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)

    def stats(self) -> dict[str, Any]:
        """What the engine counts itself."""
        return {"system": self._lib.llama_print_system_info().decode()}


class MlxLm:
    """Options: model. On the CPU: what MLX runs here at all."""

    def __init__(self, model: str, **_: Any) -> None:
        import mlx.core as mx
        from mlx_lm.utils import load_model

        mx.set_default_device(mx.cpu)
        self._mx = mx
        self._model, _ = load_model(Path(model))
        self._make = self._model.make_cache if hasattr(self._model, "make_cache") else None
        self.reset()

    def step(self, ids: Sequence[int]) -> None:
        """Feeds tokens and waits for the last one's logits."""
        self._mx.eval(self._model(self._mx.array([list(ids)]), cache=self._cache)[:, -1])

    def reset(self) -> None:
        """Forgets the sequence."""
        from mlx_lm.models.cache import make_prompt_cache

        self._cache = make_prompt_cache(self._model)

    def stats(self) -> dict[str, Any]:
        """What the engine counts itself."""
        return {}


ENGINES = {"moeflux": Moeflux, "llama.cpp": LlamaCpp, "mlx-lm": MlxLm}


def device_bytes() -> int:
    """Bytes that this process has caused to be read from a device."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("read_bytes:"):
            return int(line.split()[1])
    return 0


def main() -> None:
    """Answers until the input ends."""
    begin = time.perf_counter()
    engine: Engine = ENGINES[sys.argv[1]](**json.loads(sys.argv[2]))
    answer: dict[str, Any] = {"seconds": time.perf_counter() - begin,
                              "device_bytes": device_bytes()}  # fmt: skip
    print(json.dumps(answer), flush=True)
    for line in sys.stdin:
        order, before = json.loads(line), device_bytes()
        begin = time.perf_counter()
        if "prefill" in order:
            engine.step(order["prefill"])
        done = 0
        for token in order.get("decode", ()):
            engine.step([token])
            done += 1
            if time.perf_counter() - begin > order.get("limit", 1e9):
                break
        if "reset" in order:
            engine.reset()
        answer = {"seconds": time.perf_counter() - begin, "device_bytes": device_bytes() - before}
        if "decode" in order:
            answer["tokens"] = done
        if "experts" in order and isinstance(engine, Moeflux):
            answer["experts"] = [engine.experts(token) for token in order["experts"]]
        if "stats" in order:
            answer["stats"] = engine.stats()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
