"""What tools do, as data: names, parameters, how people ask, what comes back, how it is told.

A line of `ask` names parameters in braces. `{a}` is the value as people say it. A result's keys
may be named in `tell`, too. Parameters that no line of `ask` needs are optional.
"""

from dataclasses import dataclass, field

from data import read


@dataclass(frozen=True)
class Parameter:
    """Names that the schema may use, the kind of value, descriptions."""

    names: tuple[str, ...]
    kind: str
    about: tuple[str, ...]


@dataclass(frozen=True)
class Tool:
    """One thing that a tool can do."""

    names: tuple[str, ...]
    about: tuple[str, ...]
    parameters: dict[str, Parameter]
    ask: tuple[str, ...]
    result: dict[str, str] = field(default_factory=dict)
    tell: str = ""


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split("|"))


def parse(text: str) -> list[Tool]:
    """Tools from paragraphs, whose lines tools.txt shows."""
    tools = []
    for block in text.strip().split("\n\n"):
        names, about, *lines = block.splitlines()
        parameters, ask, result, tell = {}, [], {}, ""
        for line in lines:
            if line.startswith("? "):
                ask += _split(line[2:])
            elif line.startswith("= "):
                for item in line[2:].split(", "):
                    key, _, kind = item.partition(" ")
                    result[key] = kind
            elif line.startswith("> "):
                tell = line[2:]
            else:
                key, _, rest = line.partition(": ")
                also, kind, words = rest.split("; ")
                parameters[key] = Parameter(_split(also), kind.replace("/", "|"), _split(words))
        tools.append(
            Tool(tuple(names.split()), _split(about), parameters, tuple(ask), result, tell)
        )
    return tools


TRAINED = parse(read("tools.txt"))
HELD = parse(read("tools_held.txt"))  # of talks that nothing is learnt from
