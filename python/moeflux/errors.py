"""The exceptions of moeflux. The native core raises the classes of the same names."""

from collections.abc import Sequence
from typing import Any


class MoefluxError(Exception):
    """Base of every error that moeflux raises by itself.

    Attributes:
        session: of a step, the one that the error is about: whose token, sampler or logits are
            wrong, or whose expert could not be read (the first of the batch that needed it). None
            where no session is to blame.
    """

    session: Any = None
    _request: int | None = None  # which of a step's, as the core tells

    def __str__(self) -> str:
        """The message as Unicode text: bytes of a path that are no UTF-8 are shown escaped."""
        return super().__str__().encode("utf-8", "backslashreplace").decode()

    def _blame(self, sessions: Sequence[Any]) -> None:
        """Of a step of these sessions."""
        if self._request is not None:
            self.session = sessions[self._request]


class FormatError(MoefluxError, ValueError):
    """A checkpoint, config or request does not say what it must."""


class IoError(MoefluxError, OSError):
    """A file could not be read."""


class MemoryBudgetError(MoefluxError, MemoryError):
    """No room: in the budget, with the number of bytes that would do, or in the system below it."""


class SessionError(MoefluxError, ValueError):
    """A request that a session cannot serve: no tokens, past the context, no such token; in a
    process that was forked from that of its model, or in a signal handler within a model's step.
    """  # noqa: D205


class Interrupted(MoefluxError):
    """`Model.abort` has ended the call; its sessions are as before it."""


class TemplateError(MoefluxError, ValueError):
    """A chat template that is missing, fails or does more than it may."""


class DownloadError(MoefluxError, OSError):
    """A model could not be fetched from the hub."""


class GpuError(MoefluxError, RuntimeError):
    """A device could not do what it was asked; a fault of the GPU arrives at the next wait."""


class NoDeviceError(GpuError):
    """This machine has no such device; the message says why."""


class LibraryCompileError(GpuError):
    """The shader library does not compile; the message holds the compiler's text."""


class KernelNotFoundError(GpuError):
    """The library has no kernel of that name."""


class PipelineError(GpuError):
    """A kernel that makes no pipeline (constants, resources)."""
