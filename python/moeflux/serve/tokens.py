"""Single tokens as APIs show them: their text and their bytes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from .engine import TokenLogprob

LEAST = -9999.0  # JSON has no -inf; OpenAI's API says this


class TokenTexts:
    """Texts and bytes of a tokenizer's tokens."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.of = lru_cache(maxsize=1 << 16)(self._of)

    def _of(self, token: int) -> tuple[str, tuple[int, ...]]:
        raw = self._tokenizer.token_bytes(token)
        return raw.decode("utf-8", "replace"), tuple(raw)

    def entry(self, scored: TokenLogprob) -> dict[str, Any]:
        """As chat completions have it."""
        top = [self._one(token, logprob) for token, logprob in scored.top]
        return {**self._one(scored.token, scored.logprob), "top_logprobs": top}

    def entries(self, scored: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
        """Of several tokens."""
        return [self.entry(item) for item in scored]

    def _one(self, token: int, logprob: float) -> dict[str, Any]:
        text, raw = self.of(token)
        return {"token": text, "logprob": finite(logprob), "bytes": list(raw)}

    def name(self, token: int) -> str:
        """As completions have it: bytes that are no text have a name of their own."""
        text, raw = self.of(token)
        if "\N{REPLACEMENT CHARACTER}" not in text:
            return text
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def finite(logprob: float) -> float:
    """A logprob that JSON can say."""
    return max(logprob, LEAST)
