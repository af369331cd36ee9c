"""Special tokens that a text spells: text, while those that a chat template writes stay tokens.

Spellings in texts are broken by a mark before the template sees them. In what it renders the
unbroken ones are its own: they get names that no text can guess, the marks go, and a tokenizer
that knows the new names alone reads the rest as text.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any

from .errors import SessionError


class SpecialText:
    """The special tokens of a tokenizer under other names.

    Args:
        tokenizer: tokenizers.Tokenizer.
        templates: of chats. Tokens that the tokenizer does not call special are to be watched, too,
            where a template writes them.
    """

    def __init__(self, tokenizer: Any, templates: str) -> None:
        import tokenizers

        added = tokenizer.get_added_tokens_decoder()
        secret = secrets.token_hex(16)
        self._names = {token.content: f"{secret}.{i}." for i, token in added.items()
                       if not token.single_word}  # fmt: skip
        watched = {
            i: token.content
            for i, token in added.items()
            if (token.special or token.content in templates) and len(token.content.strip()) > 1
        }
        self._watched = _any_of(watched.values())
        self._all = _any_of(self._names)
        self._tokenizer = tokenizers.Tokenizer(tokenizer.model)
        for part in ("normalizer", "pre_tokenizer"):
            if getattr(tokenizer, part) is not None:
                setattr(self._tokenizer, part, getattr(tokenizer, part))
        own = set(tokenizer.get_vocab(with_added_tokens=False).values())
        holes = max(own, default=-1) + 1 - len(own)  # the ids of new tokens begin behind them
        self._tokenizer.add_tokens([f"{secret}-{i}." for i in range(holes)])
        self._tokenizer.add_tokens([
            tokenizers.AddedToken(
                self._names.get(token.content, token.content), single_word=token.single_word,
                lstrip=token.lstrip, rstrip=token.rstrip, normalized=False,
            )
            for token in added.values()
        ])  # fmt: skip
        self._ids = {self._tokenizer.token_to_id(self._names.get(token.content, token.content)): i
                     for i, token in added.items()}  # fmt: skip
        self._forbidden = own.intersection(watched)

    def broken(self, value: Any, mark: str) -> Any:
        """A JSON value whose texts spell no special token: the mark is within each; not in keys."""
        if isinstance(value, str):
            return self._watched.sub(lambda found: found[0][0] + mark + found[0][1:], value)
        if isinstance(value, Mapping):
            return {key: self.broken(item, mark) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.broken(item, mark) for item in value]
        return value

    def encode(self, rendered: str, mark: str) -> list[int]:
        """Token ids of what a template made of broken texts.

        Raises:
            SessionError: the tokenizer's model makes a special token of plain text.
        """
        text = self._all.sub(lambda found: self._names[found[0]], rendered).replace(mark, "")
        found = self._tokenizer.encode(text, add_special_tokens=False).ids
        if not self._forbidden.isdisjoint(found):
            raise SessionError("[tokenizer] special_as_text: this tokenizer has no other form of a "
                               "special token that a text spells")  # fmt: skip
        return [self._ids.get(i, i) for i in found]


def _any_of(texts: Any) -> re.Pattern[str]:
    """Any of the texts, the longest that fits; of none: nothing."""
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
