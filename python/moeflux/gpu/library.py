"""`Library`: kernels of one's own source. Knows nothing of their arguments."""

from __future__ import annotations

from ..arguments import TEXT, check, show
from ..errors import FormatError, KernelNotFoundError
from .device import Device, Pipeline

MOST_BYTES = 1 << 24  # of a source


class Library:
    """Kernels compiled from source by `Backend.compile`; `library["name"]` is one of them.

    Example:
        >>> library = backend.compile(source)  # doctest: +SKIP
        >>> backend.dispatch(library["scale"], [x, np.float32(2)], 8, 8)  # doctest: +SKIP
    """

    def __init__(self, backend: Device, source: str) -> None:
        check("backend::compile", FormatError, {"source": TEXT}, {"source": source})
        if len(source) > MOST_BYTES:
            raise FormatError(f"[backend::compile] source: expected at most {MOST_BYTES} "
                              f"characters, found {len(source)}")  # fmt: skip
        self.backend = backend
        self._native = backend._native.compile(source)

    def __getitem__(self, name: str) -> Pipeline:
        """A kernel, compiled on first request.

        Raises:
            KernelNotFoundError: the source has no kernel of that name.
            PipelineError: it makes no pipeline.
        """
        if not isinstance(name, str):
            raise KernelNotFoundError(f"[backend::compile] the source has no kernel {show(name)}")
        native = self._native.pipeline(name)
        return Pipeline(name, {}, native.max_threads, native, checked=False)
