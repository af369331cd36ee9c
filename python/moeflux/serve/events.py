"""What happens in an answer, in words that every dialect is written from."""

from __future__ import annotations

from dataclasses import dataclass

from .engine import TokenLogprob, Usage


@dataclass(frozen=True)
class Started:
    """The job runs. Its usage has the prompt's tokens and those that were cached."""

    usage: Usage


@dataclass(frozen=True)
class Text:
    """Content, with the logprobs of the tokens that made it, where they were asked for."""

    choice: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Reasoning:
    """What the model thinks before it answers, of `tokens` tokens."""

    choice: int
    text: str
    tokens: int = 0


@dataclass(frozen=True)
class CallStart:
    """A call of a tool begins: of the choice's call number `index`."""

    choice: int
    index: int
    id: str
    name: str


@dataclass(frozen=True)
class CallArguments:
    """More of the JSON text of a call's arguments."""

    choice: int
    index: int
    text: str


@dataclass(frozen=True)
class Finish:
    """A choice has ended.

    Attributes:
        choice: its index.
        reason: "stop", "length" or "tool_calls".
        stop: the stop string that was met, or None.
        usage: of the choice.
        reasoning: tokens of it that were reasoning.
    """

    choice: int
    reason: str
    stop: str | None
    usage: Usage
    reasoning: int = 0


Event = Started | Text | Reasoning | CallStart | CallArguments | Finish
