"""Samplers in float64 numpy, by the plain formulas and sorts of everything: what the native one is
compared with. Knows nothing of it; the uniform numbers of both are numpy's PCG64.
"""

from collections import Counter

import numpy as np


class Sampler:
    """Chooses as `moeflux.sampling.Sampler` says that it does."""

    def __init__(self, params, *, seen=(), ends=(), min_tokens=0):
        self.params, self.ends, self.min_tokens = params, sorted(ends), min_tokens
        self.seen, self.said, self.mask = set(map(int, seen)), Counter(), None
        self.random = np.random.Generator(np.random.PCG64(params.seed))

    def adjust(self, logits):
        """Logits (vocab,) float64 after penalties, bias, mask and ends."""
        p, row = self.params, np.asarray(logits, dtype=np.float64).copy()
        ids = np.array(sorted(self.seen), dtype=np.int64)
        value = row[ids]
        row[ids] = np.where(value > 0, value / p.repetition_penalty, value * p.repetition_penalty)
        for token, bias in p.logit_bias.items():
            row[token] += bias
        for token, count in self.said.items():
            row[token] -= p.presence_penalty + p.frequency_penalty * count
        if self.mask is not None:
            allowed = np.unpackbits(self.mask.view(np.uint8), bitorder="little")[: row.size]
            row[allowed == 0] = -np.inf
        if sum(self.said.values()) < self.min_tokens:
            kept = row.copy()
            row[self.ends] = -np.inf
            row = row if np.isfinite(row.max()) else kept
        return row

    def probabilities(self, logits):
        """What is drawn from, (vocab,)."""
        row = self.adjust(logits)
        tempered = (row - row.max()) / self.params.temperature
        return keep(softmax(tempered), self.params)

    def choose(self, logits):
        """The next token, which it has seen from then on."""
        if self.params.temperature == 0:
            token = int(np.argmax(self.adjust(logits)))
        else:
            probability = self.probabilities(logits)
            drawn = np.searchsorted(np.cumsum(probability), self.random.random(), side="right")
            token = int(min(drawn, np.flatnonzero(probability)[-1]))
        self.seen.add(token)
        self.said[token] += 1
        return token


def softmax(logits):
    """Float64, of one row."""
    e = np.exp(np.asarray(logits, dtype=np.float64) - np.max(logits))
    return e / e.sum()


def log_softmax(logits):
    """Natural log of the softmax, float64, of one row."""
    shifted = np.asarray(logits, dtype=np.float64) - np.max(logits)
    return shifted - np.log(np.exp(shifted).sum())


def keep(probability, params):
    """What the filters keep, summing to one, said with a sort of everything."""
    order = np.argsort(-probability, kind="stable")
    ranked = probability[order]
    rank = np.arange(ranked.size)
    kept = (rank < (params.top_k or ranked.size)) & (ranked >= params.min_p * ranked[0])
    if params.top_p < 1:
        total = ranked[: params.top_k].sum() if params.top_k else 1.0
        kept &= np.cumsum(ranked) - ranked < params.top_p * total
    kept[0] = True
    out = np.zeros_like(probability)
    out[order[kept]] = ranked[kept]
    return out / out.sum()


def warped(logits, top_k, top_p, min_p):
    """transformers' warpers one after the other, as its documentation tells them: -inf is out."""
    scores = np.array(logits, dtype=np.float64)
    if top_k:  # TopKLogitsWarper: what is below the k-th highest
        scores[scores < np.sort(scores)[-min(top_k, scores.size)]] = -np.inf
    if (
        top_p < 1
    ):  # TopPLogitsWarper: the least likely that sum to at most 1 - top_p; never the best
        order = np.argsort(scores, kind="stable")
        cumulative = np.cumsum(softmax(scores)[order])
        scores[order[:-1][cumulative[:-1] <= 1 - top_p]] = -np.inf
    if min_p:  # MinPLogitsWarper: what is below this share of the best one's probability
        probability = softmax(scores)
        scores[probability < min_p * probability.max()] = -np.inf
    return scores
