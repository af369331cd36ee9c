"""`Generation`: what is said and why it ends, from logits alone. Knows no model and no session."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .arguments import TEXT, check, integer, listed, token_ids
from .errors import SessionError
from .pieces import begun
from .sampling import Sampler, SamplingParams
from .tokenizer import Tokenizer

RULES = {"max_tokens": integer(0), "top_logprobs": integer(0)}


@dataclass(frozen=True)
class Part:
    """One step of a generation.

    Attributes:
        text: what can be shown now; empty while a character is incomplete.
        token: the id, or None for the closing part.
        logprob: natural log of the token's probability by the model's logits, before bias,
            penalties, temperature and filters.
        top: the `top_logprobs` most probable (id, logprob), best first.
        finish_reason: None, "eos", "stop", "length" or "cancelled"; set on the last part only.
        captured: with `capture`, what the step saw that chose this part's token, as `Session.step`
            returns it: over the prompt's tokens in the first part, then over the token of the part
            before. A closing "eos" part has the step that chose the end.
    """

    text: str
    token: int | None = None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    finish_reason: str | None = None
    captured: dict[str, Any] | None = None


class StopStrings:
    """Holds back text that may be the beginning of a stop string.

    Attributes:
        met: the stop string that was found; None before.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.met: str | None = None

    def push(self, text: str) -> tuple[str, bool]:
        """(text to show, whether a stop string has been met)."""
        if not self._stops:
            return text, False
        self._held += text
        found = [(at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            at, self.met = min(found)
            out, self._held = self._held[:at], ""
            return out, True
        cut = len(self._held) - begun(self._held, self._stops)
        out, self._held = self._held[:cut], self._held[cut:]
        return out, False

    def finish(self) -> str:
        """What is held back."""
        return self._held


class Generation:
    """One generation, fed with logits: it chooses tokens, makes text of them and sees the end.

    Whoever drives it computes the logits, of one sequence or of many together: after the prompt
    first, then after each token that it chose.

    Args:
        tokenizer: of the model.
        params: how tokens are chosen.
        max_tokens: end after this many.
        stop: a string or strings that end the text; they are not part of it.
        seen: tokens that the logits come after, for the repetition penalty.
        top_logprobs: how many alternatives to report a token.

    Attributes:
        closing: the last part, which has the reason of the end; None while logits are wanted.

    Raises:
        SessionError: an argument is out of its range.

    Example:
        >>> model = load(memory="24MiB", context=512)
        >>> session, generation = model.session(), Generation(model.tokenizer, max_tokens=8)
        >>> tokens, said = model.tokenizer.encode("import os"), ""
        >>> while generation.closing is None:
        ...     if part := generation.take(session.step(tokens)):
        ...         tokens, said = [part.token], said + part.text
        >>> said += generation.closing.text
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        params: SamplingParams | None = None,
        *,
        max_tokens: int = 256,
        stop: str | Iterable[str] | None = None,
        seen: Sequence[int] = (),
        top_logprobs: int = 0,
    ) -> None:
        check("generate", SessionError, RULES, locals())
        self._left = max_tokens
        self._stops = StopStrings(stop_strings(stop))
        self._stream = tokenizer.stream(tokenizer.shown)
        self._eos = tokenizer.eos_ids
        ids = token_ids(seen, "seen", "generate")
        self._highest = int(ids.max(initial=0))
        self._sampler = Sampler(params, seen=ids, top_logprobs=top_logprobs)
        self.closing: Part | None = None
        if not max_tokens:
            self._close("length")

    @property
    def left(self) -> int:
        """Tokens that it may still choose."""
        return self._left

    def take(self, logits: ArrayLike, captured: dict[str, Any] | None = None) -> Part | None:
        """Chooses the next token.

        Args:
            logits: (vocab,), after all tokens so far.
            captured: for `Part.captured` of the part that this choice makes.

        Returns:
            The token's part, or None when the choice was to end.

        Raises:
            SessionError: it is over, the logits are not those of one position, or `logit_bias`
                leaves no token. Nothing has changed.
        """
        if self.closing is not None:
            raise SessionError("[generate] expected a generation that goes on, found one that "
                               "has ended")  # fmt: skip
        logits = np.asarray(logits)
        if logits.ndim != 1 or self._highest >= logits.size:
            raise SessionError(f"[generate] expected logits of one position, for ids up to "
                               f"{self._highest}, found {logits.dtype} {logits.shape}")  # fmt: skip
        choice = self._sampler.choose(logits)
        if choice.token in self._eos:
            self._close("eos", captured)
            return None
        text, stopped = self._stops.push(self._stream.push(choice.token))
        self._highest = max(self._highest, choice.token)
        self._left -= 1
        if stopped:
            self.closing = Part("", finish_reason="stop")
        elif not self._left:
            self._close("length")
        return Part(text, choice.token, choice.logprob, choice.top, captured=captured)

    def cancel(self) -> Part:
        """Ends it where it is, unless it has ended. Returns the last part."""
        return self.closing or self._close("cancelled")

    def _close(self, reason: str, captured: dict[str, Any] | None = None) -> Part:
        """Ends with what was held back, which may hold a stop string."""
        tail, stopped = self._stops.push(self._stream.finish())
        text = tail if stopped else tail + self._stops.finish()
        self.closing = Part(text, finish_reason="stop" if stopped else reason, captured=captured)
        return self.closing


def stop_strings(stop: str | Iterable[str] | None) -> list[str]:
    """Stop strings as a list; None is none of them. Raises SessionError for what is no text."""
    if stop is None:
        return []
    stops: list[Any] = [stop]
    if not isinstance(stop, str):
        stops = listed("generate", SessionError, "stop", "None, a string or strings", stop)
    for text in stops:
        check("generate", SessionError, {"stop": TEXT}, {"stop": text})
    return stops
