"""From logits to a token: penalties, bias, mask, temperature, filters, one seeded draw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core
from .arguments import (
    Rule,
    check,
    instance,
    integer,
    is_integer,
    is_number,
    number,
    optional,
    show,
    token_ids,
)
from .errors import SessionError

FINITE = number("of a finite size", lambda value: -np.inf < value < np.inf)
MOST = 2**32 - 1  # what the core counts up to


def _is_bias(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        is_integer(token) and token >= 0 and is_number(bias) and bias < np.inf
        for token, bias in value.items()
    )


RULES = {
    "temperature": number("of 0 or more and below infinity", lambda value: 0 <= value < np.inf),
    "top_k": integer(0),
    "top_p": number("above 0 and at most 1", lambda value: 0 < value <= 1),
    "min_p": number("in 0..1", lambda value: 0 <= value <= 1),
    "repetition_penalty": number("above 0 and below infinity", lambda value: 0 < value < np.inf),
    "logit_bias": Rule("a mapping of token ids to finite numbers or -inf", _is_bias),
    "seed": optional(integer(0)),
    "presence_penalty": FINITE,
    "frequency_penalty": FINITE,
}


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen. temperature 0 is greedy.

    Attributes:
        temperature: divides the logits; 0 takes the most probable token.
        top_k: keep the k most probable tokens; 0 keeps all.
        top_p: of what top_k keeps, the smallest set of tokens whose share of it reaches p.
        min_p: of what is left, tokens of at least this share of the best one's probability.
        repetition_penalty: divides positive and multiplies negative logits of tokens seen
            (Keskar et al. 2019, as in transformers); 1 does nothing.
        logit_bias: added to the logits, by token id; -inf forbids one.
        seed: of the draw; the same seed and logits give the same tokens.
        presence_penalty: subtracted from the logits of tokens that were chosen.
        frequency_penalty: subtracted once for each time that the token was chosen.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    def __post_init__(self) -> None:
        check("sampling", SessionError, RULES, vars(self))


SAMPLER_RULES = {
    "params": optional(instance("SamplingParams", SamplingParams)),
    "min_tokens": integer(0),
    "top_logprobs": optional(integer(0)),
}


@dataclass(frozen=True)
class Choice:
    """A token that was chosen.

    Attributes:
        token: its id.
        logprob: natural log of its probability by the logits as they are, before bias, penalties,
            temperature and filters; 0 where `top_logprobs` is None.
        top: the `top_logprobs` most probable (id, logprob), best first; of equals the lower id.
    """

    token: int
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Chooses the tokens of one sequence; owns what it has seen and the random state.

    The uniform numbers of its draws are those of numpy's PCG64 of the seed, one a token. Give it to
    `Model.step_batch`, or logits to `choose`. One call at a time may use it.

    Args:
        params: how tokens are chosen.
        seen: token ids that come before what it chooses, for the repetition penalty.
        ends: token ids that it does not choose before `min_tokens` others, unless nothing else is
            left.
        min_tokens: see `ends`.
        top_logprobs: also tell how probable the token was, and so many others; None does not.

    Attributes:
        params: as given.
        mask: of the next choices: uint32 (ceil(vocab / 32),), bit i of word w allows token
            32 * w + i. None, as at first, allows all.

    Raises:
        SessionError: an argument is out of its range.

    Example:
        >>> model = load(memory="24MiB", context=512)
        >>> session, ids = model.session(), model.tokenizer.encode("import os")
        >>> sampler = Sampler(SamplingParams(temperature=0.8, top_p=0.9, seed=1), seen=ids)
        >>> [choice] = model.step_batch([(session, ids)], sample=[sampler])
        >>> 0 <= choice.token < model.vocab_size
        True
    """

    def __init__(
        self,
        params: SamplingParams | None = None,
        *,
        seen: Iterable[int] = (),
        ends: Iterable[int] = (),
        min_tokens: int = 0,
        top_logprobs: int | None = None,
    ) -> None:
        check("sampling", SessionError, SAMPLER_RULES, locals())
        p = self.params = SamplingParams() if params is None else params
        self.mask: NDArray[np.uint32] | None = None
        self._native = _core.NativeSampler(
            temperature=float(p.temperature),
            top_k=min(int(p.top_k), MOST),
            top_p=float(p.top_p),
            min_p=float(p.min_p),
            repetition_penalty=float(p.repetition_penalty),
            presence_penalty=float(p.presence_penalty),
            frequency_penalty=float(p.frequency_penalty),
            bias=[(min(int(token), MOST), float(bias)) for token, bias in p.logit_bias.items()],
            ends=token_ids(ends, "ends", "sampling"),
            min_tokens=min(int(min_tokens), MOST),
            top_logprobs=None if top_logprobs is None else min(int(top_logprobs), MOST),
            seen=token_ids(seen, "seen", "sampling"),
        )
        self._random = np.random.Generator(np.random.PCG64(p.seed))
        self._uniform: float | None = None  # of a draw that is not done

    def choose(self, logits: ArrayLike) -> Choice:
        """The next token, which it has seen from then on.

        Args:
            logits: float32 (vocab,), finite or -inf.

        Raises:
            SessionError: the logits or the mask are none, an id of the bias or of `seen` is not
                below their number, or no token is left. Nothing has changed.
        """
        try:
            row = np.asarray(logits)
        except ValueError:  # lists of different lengths
            row = np.empty(())
        if row.ndim != 1 or not row.size or row.dtype.kind not in "fiu":
            raise SessionError(f"[sampling] logits: expected those of one position, found "
                               f"{row.dtype} {row.shape}")  # fmt: skip
        return self._chosen(_core.choose(row, self._sample()))

    def take(self, token: int) -> None:
        """Goes on after a token that was chosen elsewhere, as if it had been chosen here."""
        check("sampling", SessionError, {"token": integer(0, MOST)}, {"token": token})
        self._native.take(token)
        self._sample()
        self._uniform = None

    def _sample(self) -> tuple[Any, float, Any]:
        """What the core takes. A draw is kept for the next call when this one fails."""
        if self._uniform is None:
            self._uniform = self._random.random() if self.params.temperature else 0.0
        mask = self.mask
        fits = isinstance(mask, np.ndarray) and mask.dtype == np.uint32 and mask.ndim == 1
        if mask is not None and not fits:
            raise SessionError(f"[sampling] mask: expected uint32 words, found {show(mask)}")
        return self._native, self._uniform, mask

    def _chosen(self, found: dict[str, Any]) -> Choice:
        self._uniform = None
        return Choice(found["token"], found["logprob"], found["top"])
