"""What a model thinks before it answers, apart from the answer, while both are written."""

from __future__ import annotations

from .pieces import begun

TAGS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>"))


class Thinking:
    """Tells thoughts from the answer in a text that comes piece by piece.

    Args:
        prompt: the rendered chat: many templates open the thoughts themselves.
    """

    def __init__(self, prompt: str = "") -> None:
        end = prompt.rstrip()
        self._close = next((close for opened, close in TAGS if end.endswith(opened)), "")
        self._held = ""

    def push(self, text: str) -> list[tuple[bool, str]]:
        """The pieces of what can be told now, with whether each is thought; without the tags."""
        self._held += text
        out: list[tuple[bool, str]] = []
        while True:
            wanted = [self._close] if self._close else [opened for opened, _ in TAGS]
            found = [(at, tag) for tag in wanted if (at := self._held.find(tag)) >= 0]
            at, tag = min(found, default=(len(self._held) - begun(self._held, wanted), ""))
            if at:
                out.append((bool(self._close), self._held[:at]))
            self._held = self._held[at + len(tag) :]
            if not tag:
                return out
            self._close = "" if self._close else dict(TAGS)[tag]

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
