"""The exceptions of moeflux. The native core raises the classes of the same names."""


class MoefluxError(Exception):
    """Base of every error that moeflux raises by itself."""


class FormatError(MoefluxError, ValueError):
    """A checkpoint, config or request does not say what it must."""


class IoError(MoefluxError, OSError):
    """A file could not be read."""


class MemoryBudgetError(MoefluxError, MemoryError):
    """The budget has no room; the message names the number of bytes it would take."""


class SessionError(MoefluxError, ValueError):
    """A request that a session cannot serve (no tokens, past the context, no such token)."""


class TemplateError(MoefluxError, ValueError):
    """A chat template that is missing, fails or does more than it may."""


class DownloadError(MoefluxError, OSError):
    """A model could not be fetched from the hub."""
