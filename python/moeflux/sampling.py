"""From logits to a token: penalties, temperature, top-k, top-p, min-p, one seeded draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arguments import Rule, check, integer, is_integer, is_number, number, optional
from .errors import SessionError

FIRST_RANKED = 4096  # of a vocabulary: top-p and min-p rarely keep more
BLOCK_GROWTH = 8  # times as many are ranked where they do


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
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None

    def __post_init__(self) -> None:
        check("sampling", SessionError, RULES, vars(self))


class Sampler:
    """Draws tokens by SamplingParams; owns the random state."""

    def __init__(self, params: SamplingParams) -> None:
        self.params = params
        self._random = np.random.Generator(np.random.PCG64(params.seed))

    def adjust(self, logits: Any, seen: Sequence[int] | NDArray[np.int64]) -> Any:
        """Logits (vocab,) float64 after penalty and bias; `seen` are prompt and output so far."""
        p = self.params
        adjusted = np.asarray(logits, dtype=np.float64).copy()
        if p.repetition_penalty != 1.0 and len(seen):
            ids = np.asarray(seen, dtype=np.int64)  # one that comes again is set alike again
            value = adjusted[ids]
            adjusted[ids] = np.where(
                value > 0, value / p.repetition_penalty, value * p.repetition_penalty
            )
        for token, bias in p.logit_bias.items():
            if not 0 <= token < adjusted.size:
                raise SessionError(f"[sampling] logit_bias: expected ids below {adjusted.size}, "
                                   f"found {token}")  # fmt: skip
            if not bias < np.inf:
                raise SessionError(f"[sampling] logit_bias: expected a finite number or -inf, "
                                   f"found {bias}")  # fmt: skip
            adjusted[token] += bias
        if not np.isfinite(adjusted.max()):
            raise SessionError("[sampling] logit_bias: expected a token that is left, found all "
                               "at -inf")  # fmt: skip
        return adjusted

    def choose(self, adjusted: Any) -> int:
        """The next token, from adjusted logits."""
        p = self.params
        if p.temperature == 0:
            return int(np.argmax(adjusted))
        probability = keep(np.exp(log_softmax((adjusted - adjusted.max()) / p.temperature)), p)
        drawn = np.searchsorted(np.cumsum(probability), self._random.random(), side="right")
        if drawn == probability.size:  # rounding: the sum may end below a draw just below 1
            drawn = np.flatnonzero(probability)[-1]
        return int(drawn)

    def skip(self) -> None:
        """Draws as `choose` does, for a token that was chosen elsewhere."""
        if self.params.temperature != 0:
            self._random.random()


def log_softmax(logits: Any) -> Any:
    """Natural log of the softmax, float64."""
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def largest(values: Any, n: int) -> Any:
    """Ids of the n largest values, best first, and of all others that equal the last of them.

    Ties go to the lower id. To sort a whole vocabulary takes longer than many a model's step.
    """
    ids = np.arange(values.size)
    if n < values.size:
        ids = np.flatnonzero(values >= np.partition(values, values.size - n)[values.size - n])
    return ids[np.argsort(-values[ids], kind="stable")]


def keep(probability: Any, params: SamplingParams) -> Any:
    """Probabilities with everything outside top-k, top-p and min-p removed, summing to one.

    top-p is a share of what top-k keeps, as in transformers, vLLM and llama.cpp. Ties at a boundary
    go to the lower token id.
    """
    if not params.top_k and params.top_p == 1 and params.min_p == 0:
        return probability / probability.sum()
    size = probability.size
    top_k = int(params.top_k)  # an np.int8 cannot be compared with a size
    n = min(top_k or FIRST_RANKED, size)
    while True:
        ranked = _descending(probability, n)
        kept = ranked >= params.min_p * ranked[0]
        if params.top_p < 1:
            total = ranked.sum() if top_k else 1.0
            kept &= np.cumsum(ranked) - ranked < params.top_p * total
        count = n if kept.all() else max(int(np.argmin(kept)), 1)
        if count < n or n in (top_k, size):
            break  # what is ranked below is not kept either
        n = min(n * BLOCK_GROWTH, size)
    least = ranked[count - 1]
    above = probability > least
    out = np.where(above, probability, 0.0)
    equal = np.flatnonzero(probability == least)
    out[equal[: count - np.count_nonzero(above)]] = least
    return out / out.sum()


def _descending(values: Any, n: int) -> Any:
    """The n largest values. Without their ids: numbers are sorted ten times as fast as indices."""
    last = values if n == values.size else np.partition(values, values.size - n)[-n:]
    return np.sort(last)[::-1]
