"""Names that docs and comments give exist: files, functions, flags, make targets, variables.

A name in backticks is known when it is a word of the code (comments and docstrings left out) or a
part of a tracked path. A file is known anywhere, in backticks or not.
"""

import ast
import io
import re
import subprocess
import tokenize
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Words of other programs and libraries, and placeholders of our own docs.
FOREIGN = {
    "KIND.md", "NAME0", "NAME15", "_metadata.py", "build/mutants/results/KIND.md",
    "clear_page", "gated_delta", "gated_delta.py",
    "host_kernels.cpp", "install_completion", "library_source.cpp", "llama.cpp", "method_list_t",
    "perf", "protocol_t", "ret", "show_completion", "simdgroup_matrix",
    "test_pinned_expert_is_not_evicted",
}  # fmt: skip
DATA = (
    "benchmarks/results/",
    "benchmarks/data/",
    "tests/golden/",
    "python/moeflux/demo/",
    "python/moeflux/demo_chat/",
    "tools/train_chat/words.txt",
)
COMMENTS = {
    **dict.fromkeys((".h", ".cpp", ".mm", ".inc", ".metal"), re.compile(r"//[^\n]*")),
    **dict.fromkeys((".cmake", ".sh", ".toml", ".yml", ""), re.compile(r"#[^\n]*")),
}
NAME = re.compile(r"`(--)?([A-Za-z_][\w.:/*-]*)(?:\(\))?`")
TARGET = re.compile(r"`make ([\w-]+)")
FILE = re.compile(
    r"(?<![\w./<*-])((?:[\w-]+/)*\w[\w-]*\.(?:py|pyi|cpp|mm|inc|metal|cmake|md|sh))\b"
)


def python_parts(text):
    nodes = [
        n
        for n in ast.walk(ast.parse(text))
        if isinstance(n, (ast.Module, ast.ClassDef, ast.FunctionDef))
    ]
    docs = {n.body[0].lineno for n in nodes if n.body and ast.get_docstring(n)}
    code, comments = [], []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        prose = token.type == tokenize.COMMENT or (
            token.type == tokenize.STRING and token.start[0] in docs
        )
        (comments if prose else code).append(token.string)
    return " ".join(code), "\n".join(comments)


def parts(path):
    """Code and prose of a file."""
    text = path.read_text()
    if path.suffix == ".md":
        return "", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    if path.suffix in (".py", ".pyi"):
        return python_parts(text)
    comment = COMMENTS[path.suffix]
    return comment.sub(" ", text), "\n".join(comment.findall(text))


@cache
def tree():
    """The ends of tracked paths, the words of code and paths, and the prose of each file."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    words, prose = set(re.findall(r"\w+", " ".join(paths))), {}
    for name in paths:
        path = ROOT / name
        known_kind = path.suffix in (*COMMENTS, ".md", ".py", ".pyi")
        if known_kind and path != Path(__file__) and not name.startswith(DATA):
            code, prose[name] = parts(path)
            words.update(re.findall(r"\w+", code))
    ends = {"/".join(name.split("/")[i:]) for name in paths for i in range(name.count("/") + 1)}
    return ends, words, prose


def known(word, words):
    """`_suffix`, `prefix_`, and names of kernels with T for a type stand for several words."""
    if word in words or word in FOREIGN:
        return True
    word = word.replace("_T_", "_f32_")
    partial = word.startswith("_") or word.endswith("_")
    return word in words or (partial and any(word in other for other in words))


def unknown(text):
    """The names in `text` that are nowhere."""
    ends, words, _ = tree()
    makefile = (ROOT / "Makefile").read_text()
    found = [name for name in FILE.findall(text) if name not in FOREIGN | ends]
    for dashes, name in NAME.findall(text):
        if dashes:
            flag = name.replace("-", "_").removeprefix("no_")  # the other half of a switch
            found += [dashes + name] * (not known(flag, words))
        else:
            found += [name] * any(not known(word, words) for word in re.findall(r"\w+", name))
    return found + [
        f"make {name}"
        for name in TARGET.findall(text)
        if not re.search(rf"\b{name}\b.*:", makefile)
    ]


def test_every_name_in_docs_and_comments_exists():
    _, _, prose = tree()
    stale = {name: unknown(text) for name, text in prose.items()}
    assert {name: names for name, names in stale.items() if names} == {}


@pytest.mark.parametrize(
    "text",
    [
        "see `no_such_function()`", "`Engine::no_such_member`", "(docs/no_such_page.md)",
        "`tests/python/no_such_test.py`", "`--no-such-flag`", "run `make no-such-target`",
        "`MOEFLUX_NO_SUCH_VARIABLE`", "`test_engine.py::test_no_such_property`",
    ],
)  # fmt: skip
def test_a_stale_name_is_seen(text):
    assert unknown(text)
