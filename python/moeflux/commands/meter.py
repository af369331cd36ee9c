"""What a person sees of a generation beside its text: that it is alive, and how fast it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from ..terminal import escape_controls
from ..thinking import Thinking

if TYPE_CHECKING:
    from ..generation import Part


@contextmanager
def waiting(what: str) -> Iterator[Any]:
    """Shows on a terminal, on standard error, that something takes its time."""
    from rich.console import Console

    console = Console(stderr=True)
    with console.status(what, spinner="line") if console.is_terminal else ExitStack() as status:
        yield status


class Meter:
    """The times of one generation.

    Attributes:
        n_prompt: tokens of the prompt that were computed.
        n_tokens: that were written.
        first_seconds: from the begin to the first token, or to the end without any.
        decode_seconds: from the first token to the last.
    """

    def __init__(self) -> None:
        self.n_prompt = self.n_tokens = 0
        self.first_seconds = self.decode_seconds = 0.0
        self._status: Any = None

    def progress(self, done: int, total: int) -> None:
        """For `stream_generate`."""
        self.n_prompt = done
        if hasattr(self._status, "update"):
            self._status.update(f"reading the prompt: {done} of {total} tokens")

    def follow(self, parts: Iterator[Part]) -> Iterator[Part]:
        """The parts, on the clock; until the first one a terminal shows that it lives."""
        begin = time.perf_counter()
        with ExitStack() as shown:
            self._status = shown.enter_context(waiting("reading the prompt"))
            for part in parts:
                shown.close()
                now = time.perf_counter() - begin
                if not self.n_tokens:
                    self.first_seconds = now
                self.n_tokens += part.token is not None
                if part.token is not None:
                    self.decode_seconds = now - self.first_seconds
                yield part

    @property
    def prompt_rate(self) -> float:
        """Tokens of the prompt a second."""
        return self.n_prompt / self.first_seconds if self.first_seconds else 0.0

    @property
    def decode_rate(self) -> float:
        """Tokens a second after the first."""
        return (self.n_tokens - 1) / self.decode_seconds if self.decode_seconds else 0.0

    def line(self) -> str:
        """All of it, so short that a line of 80 has room for a word more."""
        return (
            f"{self.n_prompt} tokens in, {self.prompt_rate:.1f}/s; first after "
            f"{self.first_seconds:.1f} s; {self.n_tokens} out, {self.decode_rate:.1f} tok/s"
        )

    def numbers(self) -> dict[str, Any]:
        """For --json."""
        return {"prompt_tokens": self.n_prompt, "first_token_seconds": self.first_seconds,
                "prompt_tokens_per_second": self.prompt_rate,
                "tokens_per_second": self.decode_rate}  # fmt: skip


class Shown:
    """Writes a text as it comes; on a terminal its thoughts are dim, elsewhere nothing is changed.

    Args:
        prompt_end: tells how the prompt ends, once there is text; None where nobody thinks.
    """

    def __init__(self, prompt_end: Callable[[], str] | None) -> None:
        from rich.console import Console

        console = Console()
        is_plain = not console.is_terminal or console.is_dumb_terminal
        self._prompt_end = None if is_plain else prompt_end
        self._thinking: Thinking | None = None

    def write(self, text: str) -> None:
        """Shows the next piece, as far as it can be told what it is."""
        if self._prompt_end is None:
            print(escape_controls(text), end="", flush=True)
            return
        if self._thinking is None:
            self._thinking = Thinking(self._prompt_end())
        self._put(self._thinking.push(text))

    def end(self) -> None:
        """Shows the rest, and ends the line."""
        if self._thinking is not None:
            self._put(self._thinking.finish())
        print()

    def _put(self, pieces: list[tuple[bool, str]]) -> None:
        for is_thought, text in pieces:
            shown = escape_controls(text)
            print(f"\x1b[2m{shown}\x1b[0m" if is_thought else shown, end="", flush=True)
