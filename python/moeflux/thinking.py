"""What a model thinks before it answers, apart from the answer, while both are written."""

from __future__ import annotations

from .pieces import begun

TAGS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|channel>thought", "<channel|>"),  # Gemma 4
)
# gpt-oss writes every part of an answer to a channel. What of this stands around the answer is no
# part of it.
CHANNEL = "<|channel|>"
ANALYSIS = (f"{CHANNEL}analysis<|message|>", "<|end|>")
TURN = "<|start|>assistant"
AROUND = (TURN, f"{CHANNEL}final<|message|>", f"{CHANNEL}commentary<|message|>", "<|end|>",
          "<|return|>")  # fmt: skip
CHANNEL_TOKENS = frozenset((CHANNEL, "<|message|>", "<|start|>", "<|end|>", "<|return|>"))
# Tokens around thoughts that some vocabularies call special, so that decoders leave them out.
_SPECIAL = ("[THINK]", "[/THINK]", "<|channel>", "<channel|>")


def shown_tokens(template: str) -> frozenset[str]:
    """Special tokens that tell thoughts from answers, for a model with this chat template."""
    if CHANNEL in template:
        return CHANNEL_TOKENS
    return frozenset(token for token in _SPECIAL if token in template)


class Thinking:
    """Tells thoughts from the answer in a text that comes piece by piece.

    Args:
        prompt: the rendered chat: many templates open the thoughts themselves, and one shows here
            that channels follow.
    """

    def __init__(self, prompt: str = "") -> None:
        end = prompt.rstrip()
        has_channels = end.endswith((TURN, ANALYSIS[0]))
        self._tags = dict((ANALYSIS,) if has_channels else TAGS)
        self._dropped = AROUND if has_channels else ()
        self._close = next((close for tag, close in self._tags.items() if end.endswith(tag)), "")
        self._held = ""

    def push(self, text: str) -> list[tuple[bool, str]]:
        """The pieces of what can be told now, with whether each is thought; without the tags."""
        self._held += text
        out: list[tuple[bool, str]] = []
        while True:
            wanted = [self._close] if self._close else [*self._tags, *self._dropped]
            found = [(at, tag) for tag in wanted if (at := self._held.find(tag)) >= 0]
            at, tag = min(found, default=(len(self._held) - begun(self._held, wanted), ""))
            if at:
                out.append((bool(self._close), self._held[:at]))
            self._held = self._held[at + len(tag) :]
            if not tag:
                return out
            self._close = "" if self._close else self._tags.get(tag, "")

    def finish(self) -> list[tuple[bool, str]]:
        """What was held back as the beginning of a tag."""
        held, self._held = self._held, ""
        return [(bool(self._close), held)] if held else []


def parted(text: str, prompt: str = "") -> tuple[str, str]:
    """The thoughts and the answer of a whole text."""
    thinking = Thinking(prompt)
    pieces = thinking.push(text) + thinking.finish()
    thoughts, answer = ("".join(t for kind, t in pieces if kind is of) for of in (True, False))
    return thoughts.strip(), answer.strip()
