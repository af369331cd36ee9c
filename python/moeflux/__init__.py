"""moeflux runs Mixture-of-Experts language models that are larger than memory.

The dense part stays resident; the experts a token needs are read from disk into a bounded pool.
"""

from ._version import __version__
from .conversation import Conversation
from .errors import (
    DownloadError,
    FormatError,
    GpuError,
    Interrupted,
    IoError,
    KernelNotFoundError,
    LibraryCompileError,
    MemoryBudgetError,
    MoefluxError,
    NoDeviceError,
    PipelineError,
    SessionError,
    TemplateError,
)
from .generation import Generation, Part
from .gpu.backend import ALL_KERNELS, Backend
from .gpu.buffer import Buffer
from .gpu.command import Command
from .gpu.library import Library
from .model import Model, load
from .routing import Routing
from .sampling import Choice, Sampler, SamplingParams
from .session import Session
from .snapshot import Snapshot
from .stream import generate, stream_generate
from .templates import ChatOptions

__all__ = [
    "ALL_KERNELS",
    "Backend",
    "Buffer",
    "ChatOptions",
    "Choice",
    "Command",
    "Conversation",
    "DownloadError",
    "FormatError",
    "Generation",
    "GpuError",
    "Interrupted",
    "IoError",
    "KernelNotFoundError",
    "Library",
    "LibraryCompileError",
    "MemoryBudgetError",
    "Model",
    "MoefluxError",
    "NoDeviceError",
    "Part",
    "PipelineError",
    "Routing",
    "Sampler",
    "SamplingParams",
    "Session",
    "SessionError",
    "Snapshot",
    "TemplateError",
    "__version__",
    "generate",
    "load",
    "stream_generate",
]
