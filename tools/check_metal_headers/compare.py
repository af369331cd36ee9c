"""Each declaration of ours against every witness that knows it.

A declaration is in order when at least one witness confirms it and none contradicts it. PyObjC's
metadata lists methods of protocols by selector alone: that confirms no method by itself, and where
the witnesses that know the owner confirm one, a different one there is of another protocol.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from . import pyobjc
from .model import Declarations, Difference, Types
from .witnesses import Witnesses

METAL_CPP, SDK_TABLES = "metal-cpp", "the SDK's protocol tables"
METADATA = "PyObjC's metadata"
UNKNOWN = ("no witness", "knows it")
Verdict = tuple[str, bool, Any]  # witness, whether it agrees, what it says


class Comparison:
    """The differences, and how many declarations each witness confirmed."""

    def __init__(self, ours: Declarations, witnesses: Witnesses) -> None:
        self.ours = ours
        self.witnesses = witnesses
        self.confirmed: Counter[str] = Counter()
        self.differences: list[Difference] = []
        for (owner, selector), declared in ours.methods.items():
            for types in declared:
                verdicts = self._method(owner, selector, types)
                self._judge(f"-[{owner} {selector}]", types, verdicts)
        for kind in ("functions", "structures", "enumerators"):
            for name, value in getattr(ours, kind).items():
                self._judge(name, value, self._value(kind, name, value))
        for name in sorted(ours.constants):
            self._judge(name, "an external variable", self._constant(name))

    def _judge(self, name: str, value: Any, verdicts: Iterator[Verdict]) -> None:
        told = list(verdicts)
        self.confirmed.update(witness for witness, agrees, _ in told if agrees)
        if not told:
            self.differences.append(Difference(name, str(value), *UNKNOWN))
        self.differences += [
            Difference(name, str(value), witness, str(theirs))
            for witness, agrees, theirs in told
            if not agrees
        ]

    def _method(self, owner: str, selector: str, types: Types) -> Iterator[Verdict]:
        told = [
            *self._by_owner(METAL_CPP, self.witnesses.metal_cpp, owner, selector, types),
            *self._by_owner(SDK_TABLES, self.witnesses.sdk_tables, owner, selector, types),
        ]
        yield from told
        for metadata in self.witnesses.metadata:
            if method := metadata.methods.get((owner, selector)):
                yield METADATA, self._fits(types, method), method
            elif told and (method := metadata.methods.get((pyobjc.ANY_PROTOCOL, selector))):
                agrees = self._fits(types, method)
                if agrees or not all(agreed for _, agreed, _ in told):
                    yield METADATA, agrees, method

    def _by_owner(
        self, witness: str, side: Declarations, owner: str, selector: str, types: Types
    ) -> Iterator[Verdict]:
        if theirs := side.methods.get((owner, selector)):
            agrees = any(self._same(types, each) for each in theirs)
            yield witness, agrees, " or ".join(map(str, theirs))

    def _fits(self, types: Types, method: pyobjc.Method) -> bool:
        return (method.result is None or self._same_type(types.result, method.result)) and all(
            index < len(types.arguments) and self._same_type(types.arguments[index], theirs)
            for index, theirs in method.arguments.items()
        )

    def _value(self, kind: str, name: str, value: Any) -> Iterator[Verdict]:
        sides = [(METAL_CPP, self.witnesses.metal_cpp)]
        sides += [(METADATA, data.declarations) for data in self.witnesses.metadata]
        for witness, side in sides:
            if (theirs := getattr(side, kind).get(name)) is not None:
                yield witness, theirs == value, theirs

    def _constant(self, name: str) -> Iterator[Verdict]:
        if name in self.witnesses.metal_cpp.constants:
            yield METAL_CPP, True, name
        for metadata in self.witnesses.metadata:
            if name in metadata.declarations.constants:
                yield METADATA, True, name

    def _same(self, ours: Types, theirs: Types) -> bool:
        return len(ours.arguments) == len(theirs.arguments) and all(
            self._same_type(a, b)
            for a, b in zip(
                (ours.result, *ours.arguments), (theirs.result, *theirs.arguments), strict=True
            )
        )

    def _same_type(self, ours: str, theirs: str) -> bool:
        """Whether the two can be one type; a side may not tell what a block takes, or a name."""
        if ours.startswith("@?") and theirs == "@?":
            return True
        if theirs.startswith("{?="):
            fields = self.ours.structures.get(ours.strip("{}"), ())
            return theirs == "{?=" + "".join(type_ for _, type_ in fields) + "}"
        return ours == theirs
