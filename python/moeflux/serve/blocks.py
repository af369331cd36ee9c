"""An answer as blocks: reasoning, text and calls in the order in which they came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .engine import TokenLogprob
from .events import CallArguments, CallStart, Event, Finish, Started, Text


@dataclass
class Block:
    """A stretch of one kind: "reasoning", "text" or "call", whose text is its arguments."""

    kind: str
    text: str = ""
    id: str = ""
    name: str = ""
    index: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list)


class Blocks:
    """Puts the events of one choice together."""

    def __init__(self) -> None:
        self.all: list[Block] = []
        self.finish: Finish | None = None

    def add(self, event: Event) -> tuple[Block | None, bool, str]:
        """Takes an event. Returns (its block, whether the block is new, what the event adds)."""
        if isinstance(event, Finish):
            self.finish = event
        if isinstance(event, Finish | Started):
            return None, False, ""
        if isinstance(event, CallArguments):
            block = next(b for b in self.all if b.kind == "call" and b.index == event.index)
            block.text += event.text
            return block, False, event.text
        if isinstance(event, CallStart):
            self.all.append(Block("call", "", event.id, event.name, event.index))
            return self.all[-1], True, ""
        kind = "text" if isinstance(event, Text) else "reasoning"
        new = not self.all or self.all[-1].kind != kind
        if new:
            self.all.append(Block(kind))
        block = self.all[-1]
        block.text += event.text
        if isinstance(event, Text):
            block.logprobs += event.logprobs
        return block, new, event.text

    def text(self, kind: str) -> str:
        """All text of a kind."""
        return "".join(block.text for block in self.all if block.kind == kind)

    def calls(self) -> list[Block]:
        """The calls."""
        return [block for block in self.all if block.kind == "call"]


def by_choice(events: Sequence[Event], n: int) -> list[Blocks]:
    """The blocks of each of n choices."""
    found = [Blocks() for _ in range(n)]
    for event in events:
        if not isinstance(event, Started):
            found[event.choice].add(event)
    return found
