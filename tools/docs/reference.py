#!/usr/bin/env python3
"""Writes docs/api.md from docstrings, docs/cli.md from help, the kernels' table in docs/kernels.md.

python tools/docs/reference.py            # tests/python/test_docs.py fails when they are stale
"""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path
from types import FunctionType
from typing import is_typeddict

import typer.main
from typer.cli import get_docs_for_click

import moeflux
from moeflux import cli, tokenizer, trace

A_ROW = 6  # kernels, in the table of them
ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
# Public, in modules of their own.
ELSEWHERE = {
    "tokenizer.Tokenizer": tokenizer.Tokenizer,
    "trace.Trace": trace.Trace,
    "trace.TraceWriter": trace.TraceWriter,
    "trace.read_trace": trace.read_trace,
}
HEAD = "<!-- Written by tools/docs/reference.py: edit the docstrings instead. -->\n"


def _signature(name: str, item: object) -> str:
    if is_typeddict(item):
        fields = inspect.get_annotations(item).items()
        return f"{name}({', '.join(f'{key}: {kind.__forward_arg__}' for key, kind in fields)})"
    text = str(inspect.signature(item)) if callable(item) else ""
    text = re.sub(r"(?<=[:>] )'([^']*)'", r"\1", text)  # annotations are strings
    return re.sub(r"\((self|cls)(, )?", "(", f"{name}{text}", count=1)


def _entry(title: str, name: str, item: object) -> str:
    """A heading, the signature and the docstring as it stands."""
    doc = inspect.getdoc(item.fget if isinstance(item, property) else item) or ""
    shown = "" if isinstance(item, property) else f"`{_signature(name, item)}`\n\n"
    shown = re.sub(r"(.{100,120}) ", r"\1\n", shown)
    body = re.sub(r"(?m)^(Args|Returns|Raises|Yields|Attributes|Example):$", r"**\1**\n", doc)
    body = re.sub(r"(?m)^    (\S)", r"    \1", body)
    return f"{title}\n\n{shown}{body}\n"


def _members(cls: type) -> list[tuple[str, object]]:
    kinds = (FunctionType, classmethod, property)
    return [
        (name, item.__func__ if isinstance(item, classmethod) else item)
        for name, item in vars(cls).items()
        if not name.startswith("_") and isinstance(item, kinds)
    ]


def api() -> str:
    """docs/api.md."""
    public = {name: getattr(moeflux, name) for name in moeflux.__all__ if name[0] != "_"}
    public |= ELSEWHERE
    functions = {n: o for n, o in public.items() if inspect.isfunction(o)}
    errors = {n: o for n, o in public.items() if inspect.isclass(o) and issubclass(o, Exception)}
    classes = {n: o for n, o in public.items() if inspect.isclass(o) and n not in errors}
    out = [HEAD, "# Python reference\n"]
    out.append(
        "Names of `moeflux`, and of its modules where a heading says so. Others are not public.\n"
    )
    for name, item in sorted(functions.items()):
        out.append(_entry(f"## {name}", name, item))
    for name, item in sorted(classes.items()):
        out.append(_entry(f"## {name}", name, item))
        out += [_entry(f"### {name}.{member}", member, value) for member, value in _members(item)]
    out.append("## Errors\n")
    for name, item in sorted(errors.items()):
        bases = ", ".join(base.__name__ for base in item.__bases__)
        text = f"- `{name}` ({bases}): {' '.join((inspect.getdoc(item) or '').split())}"
        out.append(textwrap.fill(text, 120, subsequent_indent="  "))
    out.append("")
    return "\n".join(out)


def commands() -> str:
    """docs/cli.md."""
    command = typer.main.get_command(cli.app)
    context = command.make_context("moeflux", [], resilient_parsing=True)
    text = get_docs_for_click(obj=command, ctx=context, name="moeflux", title="Command line")
    text = re.sub(r"```console\n\$ (.*?)\n```", r"    \1", text, flags=re.S)
    return HEAD + "\n" + text.strip() + "\n"


def kernels() -> str:
    """docs/kernels.md: the kernels of each file of shaders/, those of the contract apart."""
    text = (DOCS / "kernels.md").read_text(encoding="utf-8")
    begin, mark, rest = text.partition("<!-- kernels: tools/docs/reference.py -->\n")
    _, end, rest = rest.partition("<!-- /kernels -->")
    rows = ["| file | of the contract | others |", "|---|---|---|"]
    for file in sorted((ROOT / "shaders").rglob("*.metal")):
        names: dict[bool, list[str]] = {True: [], False: []}
        for info in moeflux._core.kernel_table():
            if info.file == file.name:
                names[info.contract].append(f"`{info.name}`")
        place = f"`{file.relative_to(ROOT / 'shaders').with_suffix('')}`"
        for first in range(0, max(len(names[True]), len(names[False]), 1), A_ROW):
            cells = [", ".join(names[kind][first : first + A_ROW]) for kind in (True, False)]
            rows.append(f"| {place if first == 0 else ''} | {cells[0]} | {cells[1]} |")
    return begin + mark + "\n".join(rows) + "\n" + end + rest


def main() -> None:
    """Writes the pages."""
    (DOCS / "api.md").write_text(api(), encoding="utf-8")
    (DOCS / "cli.md").write_text(commands(), encoding="utf-8")
    (DOCS / "kernels.md").write_text(kernels(), encoding="utf-8")


if __name__ == "__main__":
    main()
