"""What Python's names do, by the first sentences of CPython's docstrings (PSF licence)."""

import argparse
import ast
import builtins
import importlib.util
import inspect
import json
import re
import sys
from pathlib import Path

from data import LISTS, read, table

TYPES = (str, list, dict, set, tuple, bytes, int, float)
MODULES = LISTS["python_modules"]
MEMBERS = table(read("members.txt"))


def first_sentence(text: str | None) -> str:
    """One line of at most 150 characters; "" for what is no sentence."""
    paragraph = " ".join((text or "").strip().split("\n\n")[0].split())
    paragraph = re.sub(r"^[\w.]+\([^)]*\)\s*(-+>\s*[\w.]+( or \w+)?)?\s*(--?|:)?\s*", "", paragraph)
    paragraph = re.sub(r"^[\w.]+ -+ ", "", paragraph)
    sentence = re.split(r"(?<=[a-z)\]'\"`])[.;](?=\s|$)", paragraph)[0].strip()
    good = 12 <= len(sentence) <= 150 and sentence.isascii() and " " in sentence
    good = good and not re.search(r"==|--|^\w+\(", sentence)
    return sentence[0].upper() + sentence[1:].rstrip(".") + "." if good else ""


def module_sentence(name: str) -> str:
    """Of a module's source, without importing it."""
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin and spec.origin.endswith(".py"):
            return first_sentence(ast.get_docstring(ast.parse(Path(spec.origin).read_text())))
        return first_sentence(importlib.import_module(name).__doc__)
    except (ImportError, OSError, ValueError):
        return ""


def collect() -> dict[str, str]:
    """{name: sentence}, sorted."""
    found = {}
    for name, value in vars(builtins).items():
        if not name.startswith("_") and callable(value):
            found[name] = first_sentence(inspect.getdoc(value))
    for kind in TYPES:
        for name in vars(kind):
            if not name.startswith("_"):
                found[f"{kind.__name__}.{name}"] = first_sentence(getattr(kind, name).__doc__)
    for name in MODULES:
        found[name] = module_sentence(name)
    for module, names in MEMBERS.items():
        for name in names.split():
            member = getattr(importlib.import_module(module), name)
            found[f"{module}.{name}"] = first_sentence(inspect.getdoc(member))
    return {name: text for name, text in sorted(found.items()) if text}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="docstrings.json to write")
    facts = collect()
    parser.parse_args().out.write_text(json.dumps(facts, indent=0) + "\n")
    print(f"{len(facts)} names of CPython {sys.version.split()[0]}")
