"""Random damage to a checkpoint folder, as data: a mutation can be stored and replayed.

    {"file": "config.json", "at": [3, 1], "do": "replace", "value": -1}      a JSON value
    {"file": "config.json", "at": [120], "do": "bytes", "value": "00ff"}     raw bytes
    {"file": "config.json", "at": [0], "do": "become", "value": "pipe"}      no file any more
    {"file": "config.json", "at": [0], "do": "lock", "value": 0}             its permissions

`at` picks a place by indices taken modulo what is there, so that every list of numbers is a valid
place in every file. The header of a safetensors file is damaged with its length kept right (else
only the length check would ever be tested); raw bytes hit the file as it is.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from oracle.corrupt import join_file, split_file
from support import odd_files

Mutation = dict[str, Any]

HOSTILE_VALUES = (
    None, True, False, 0, 1, -1, 2, 3, 7, 63, 255, 2**15, 2**24, 2**31 - 1, 2**31, 2**32 - 1,
    2**32, 2**53, 2**63 - 1, 2**63, 2**64, 2**200, 10**400, 0.5, -0.0, 1e-320, 1e308,
    float("nan"), float("inf"), "\ud800", "a" * 300 + ".safetensors",
    "", "a", "qwen3_moe", "qwen3_next", "../x", "/etc/passwd", "a/b", "\x00", "\x1b[2J", "é" * 300,
    "{{ 1 }}", [], [0], [[]], [2**40, 2**40], {}, {"": 0}, "BF16", "F32", "U32", "Q7",
)  # fmt: skip

TEMPLATES = (
    "{% for i in range(10**9) %}x{% endfor %}",
    "{{ 'a' * 10**10 }}",
    "{{ ''.__class__.__mro__ }}",
    "{% for m in messages %}{% set _ = messages.append(m) %}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ messages.clear() }}",
    "{% include '/etc/passwd' %}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ '%s' % 10**100000 }}",
    "{{ [0] * 10**9 }}",
    "{{ messages[0].content.nothing.at.all }}",
    "{% if %}",
    "{{ raise_exception('no') }}",
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path in a JSON value, the root first."""
    found = [path]
    entries = (
        value.items() if isinstance(value, dict)
        else enumerate(value) if isinstance(value, list)
        else ()
    )  # fmt: skip
    for key, inner in list(entries)[:200]:
        found += places(inner, (*path, key))
    return found


def _edit(content: Any, mutation: Mutation) -> Any:
    paths = places(content)
    path = paths[mutation["at"][0] % len(paths)]
    if not path:
        return mutation["value"] if mutation["do"] == "replace" else {}
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    old = parent[path[-1]]
    if mutation["do"] == "replace":
        parent[path[-1]] = mutation["value"]
    elif mutation["do"] == "delete":
        del parent[path[-1]]
    elif mutation["do"] == "rename" and isinstance(parent, dict):
        parent[str(mutation["value"])] = parent.pop(path[-1])
    elif mutation["do"] == "copy":  # the value of another place
        other = paths[mutation["at"][-1] % len(paths)]
        source = content
        for key in other:
            source = source[key]
        parent[path[-1]] = json.loads(json.dumps(source))
    elif mutation["do"] == "nudge" and isinstance(old, (int, float)):
        parent[path[-1]] = old + mutation["at"][-1] - 3
    return content


def apply(folder: Path, mutation: Mutation) -> None:
    """Damages one file of the folder (links are replaced by files of the folder's own)."""
    path = folder / mutation["file"]
    if mutation["do"] == "lock":  # by who runs it, after all other damage
        return
    data = odd_files.data(path)
    odd_files.remove(path)
    if mutation["do"] == "become":
        odd_files.put(path, mutation["value"])
    elif mutation["do"] == "text":
        path.write_text(mutation["value"], encoding="utf-8")
    elif mutation["do"] == "bytes":
        at = mutation["at"][0] % (len(data) + 1)
        new = bytes.fromhex(mutation["value"])
        path.write_bytes(data[:at] + new + data[at + (len(new) if mutation["at"][-1] % 2 else 0) :])
    elif mutation["do"] == "cut":
        path.write_bytes(data[: mutation["at"][0] % (len(data) + 1)])
    else:
        path.write_bytes(data)
        with contextlib.suppress(ValueError):  # damaged beyond JSON already
            if path.suffix == ".safetensors":
                header, body = split_file(path)
                join_file(path, json.dumps(_edit(header, mutation)).encode(), body)
            else:
                path.write_text(json.dumps(_edit(json.loads(data), mutation)))


def mutations(files: list[str]) -> st.SearchStrategy[Mutation]:
    """One random mutation of one of `files`."""
    at = st.lists(st.integers(0, 2**20), min_size=2, max_size=2)
    structured = st.fixed_dictionaries(
        {
            "file": st.sampled_from(files),
            "at": at,
            "do": st.sampled_from(["replace", "delete", "rename", "copy", "nudge"]),
            "value": st.sampled_from(HOSTILE_VALUES),
        }
    )
    raw = st.fixed_dictionaries(
        {
            "file": st.sampled_from(files),
            "at": at,
            "do": st.sampled_from(["bytes", "cut"]),
            "value": st.binary(max_size=8).map(bytes.hex),
        }
    )
    odd = st.fixed_dictionaries(
        {
            "file": st.sampled_from(files),
            "at": at,
            "do": st.just("become"),
            "value": st.sampled_from(list(odd_files.KINDS)),
        }
    )
    locked = st.fixed_dictionaries(
        {
            "file": st.sampled_from(files),
            "at": at,
            "do": st.just("lock"),
            "value": st.sampled_from([0o000, 0o600, 0o444]),
        }
    )
    return st.one_of(structured, structured, structured, raw, st.one_of(odd, odd, locked))


def templates() -> st.SearchStrategy[Mutation]:
    """A chat template: a hostile one, or random pieces of template syntax."""
    pieces = st.lists(
        st.sampled_from(
            ["{{", "}}", "{%", "%}", " for m in messages ", " endfor ", " if ", " endif ", "m",
             "messages", "[0]", ".role", "|", "tojson", "(", ")", "'", "{#", "#}", "\n", "é",
             " set x = ", "range(99999999)", "loop", " break ", "**", "9" * 9]
        ),
        max_size=12,
    ).map("".join)  # fmt: skip
    return st.one_of(st.sampled_from(TEMPLATES), pieces).map(
        lambda text: {"file": "chat_template.jinja", "at": [0], "do": "text", "value": text}
    )
