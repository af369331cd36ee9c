"""Words for made-up tools and values: those of CPython's documentation (PSF licence)."""

import argparse
import ast
import re
import sysconfig
from collections import Counter
from pathlib import Path
from pydoc_data.topics import topics

LEAST = 3  # times that a word must occur


def collect(library: Path) -> list[str]:
    """Plain lower-case words of the topics and of the docstrings in `library`/*.py and below."""
    texts = list(topics.values())
    for path in sorted(library.glob("*.py")) + sorted(library.glob("[a-z]*/*.py")):
        if "site-packages" in path.parts or "test" in path.parts:
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        kinds = (ast.Module, ast.FunctionDef, ast.ClassDef)
        texts += [
            ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)
        ]
    counts = Counter(
        word for text in texts for word in re.findall(r"(?<![\w.])[a-z]{3,12}(?![\w(.])", text)
    )
    return sorted(word for word, count in counts.items() if count >= LEAST)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="words.txt to write")
    found = collect(Path(sysconfig.get_paths()["stdlib"]))
    parser.parse_args().out.write_text("\n".join(found) + "\n")
    print(f"{len(found)} words")
