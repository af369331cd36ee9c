"""Writes out the instantiations of kernel templates: behind it, every kernel is a plain one.

    template <typename T>               or <uint N>, or several of them
    kernel void NAME(.. T ..) { .. }

    template [[host_name("KERNEL")]] kernel decltype(NAME<TYPE>) NAME<TYPE>;

is Metal's own way to say it. Each instantiation becomes the template's text with KERNEL for NAME
and TYPE for T, also in the comments above it, where sizeof(float) becomes 4 and (32 / 4) 8; `#line`
keeps the places.
"""

from __future__ import annotations

import re

from .errors import MslError
from .model import SCALARS

_LINE = re.compile(r'^#line (\d+) "([^"]*)"\n', re.M)
_TEMPLATE = re.compile(
    r"(?P<above>(?:^//.*\n)*)"
    r"^template <(?P<parameters>(?:typename|uint) \w+(?:, (?:typename|uint) \w+)*)>\n"
    r"kernel void (?P<name>\w+)(?P<first>\(.*\n)(?P<rest>(?:.*\n)*?^}\n)",
    re.M,
)
_SIZE = re.compile(rf"sizeof\(({'|'.join(SCALARS)})\)")
_QUOTIENT = re.compile(r"\((\d+) / (\d+)\)")
_INSTANCE = re.compile(
    r'^template\s+\[\[host_name\(\s*"(\w+)"\)\]\]\s+kernel\s+'
    r"decltype\((\w+)<(\w+(?:, \w+)*)>\)\s+\2<\3>;\n",
    re.M,
)


def instantiate(text: str) -> str:
    """The flattened `text` with plain kernels. Raises MslError for a template without instances."""
    templates = {match["name"]: match for match in _TEMPLATE.finditer(text)}
    for name in templates.keys() - {match[2] for match in _INSTANCE.finditer(text)}:
        raise MslError(*_place(text, templates[name].start("name")), f"{name} has no instantiation")

    def instance(match: re.Match[str]) -> str:
        if match[2] not in templates:
            raise MslError(*_place(text, match.start()), f"no kernel template {match[2]}")
        template = templates[match[2]]
        names = [parameter.split()[1] for parameter in template["parameters"].split(", ")]
        given = match[3].split(", ")
        if len(given) != len(names):
            raise MslError(
                *_place(text, match.start()), f"{match[2]} has parameters {', '.join(names)}"
            )
        values = dict(zip(names, given, strict=True))
        word = re.compile(rf"\b({'|'.join(names)})\b")
        above, first, rest = (
            word.sub(lambda name: values[name[1]], template[part])
            for part in ("above", "first", "rest")
        )
        above = _SIZE.sub(lambda s: str(SCALARS[s[1]][1]), above)
        above = _QUOTIENT.sub(lambda q: str(int(q[1]) // int(q[2])), above)
        return (  # the kernel begins where the template does: right below its annotations
            f"{_line(text, template.start())}{above}kernel void {match[1]}{first}"
            f"{_line(text, template.start('rest'))}{rest}{_line(text, match.end())}"
        )

    plain = _INSTANCE.sub(instance, text)
    return _TEMPLATE.sub(lambda match: _line(plain, match.end()), plain)


def _place(text: str, at: int) -> tuple[str, int]:
    *_, line = _LINE.finditer(text, 0, at)
    return line[2], int(line[1]) + text.count("\n", line.end(), at)


def _line(text: str, at: int) -> str:
    file, number = _place(text, at)
    return f'#line {number} "{file}"\n'
