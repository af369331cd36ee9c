"""Declarations, as every side tells them.

Types are written as in Objective-C's type encodings: `Q` an unsigned 64-bit integer, `B` a BOOL,
`@` any object, `{MTLSize}` a structure, `@?<v@?^vQ>` a block with what it takes, `@?` any block.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Types:
    """What a method or function returns and takes (without self and selector)."""

    result: str
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return f"({self.result}) <- ({', '.join(self.arguments)})"


@dataclass
class Declarations:
    """One side's view; a key that is absent is unknown to it."""

    methods: dict[tuple[str, str], set[Types]] = field(default_factory=dict)  # (owner, selector)
    functions: dict[str, Types] = field(default_factory=dict)
    structures: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)  # (name, type)
    enumerators: dict[str, int] = field(default_factory=dict)
    constants: set[str] = field(default_factory=set)  # external variables


@dataclass(frozen=True)
class Difference:
    """A declaration of ours that a witness contradicts, or that no witness knows."""

    name: str
    ours: str
    witness: str
    theirs: str

    def __str__(self) -> str:
        return f"{self.name}: ours {self.ours}, {self.witness} {self.theirs}"
