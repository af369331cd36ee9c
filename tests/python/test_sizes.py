"""Files and functions stay small enough to be read at once."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_FILE, MAX_FUNCTION = 400, 50  # lines
SOURCES = {".py", ".pyi", ".h", ".cpp", ".inc", ".mm", ".metal", ".js", ".css", ".html"}
# Commands: options are parameters, most of them on a line of their own.
LONG = {
    "commands/bench.py: bench",
    "commands/generate.py: generate",
    "commands/plan.py: plan",
    "commands/serve.py: serve",
}


def functions(text):
    """Names and lines of all functions, from `def` to the end, docstrings left out."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0]
            documented = ast.get_docstring(node) is not None
            doc = first.end_lineno - first.lineno + 1 if documented else 0
            yield node.name, node.end_lineno - node.lineno + 1 - doc


def test_lines_are_counted_without_the_docstring():
    text = 'class A:\n    def f(self,\n          x):\n        """1.\n\n        2.\n        """\n'
    assert list(functions(text)) == [("f", 2)]
    assert list(functions("async def g():\n    pass\n\n\ndef h(): pass\n")) == [("g", 2), ("h", 1)]


def test_few_functions_of_python_are_long():
    package = ROOT / "python/moeflux"
    long = {
        f"{path.relative_to(package)}: {name}"
        for path in package.rglob("*.py")
        for name, lines in functions(path.read_text())
        if lines > MAX_FUNCTION
    }
    assert long == LONG and len(LONG) <= 5


@pytest.mark.parametrize("folder", ["csrc", "python", "shaders"])
def test_no_file_is_long(folder):
    paths = [path for path in (ROOT / folder).rglob("*") if path.suffix in SOURCES]
    long = {str(path): n for path in paths if (n := len(path.read_text().splitlines())) > MAX_FILE}
    assert paths and not long
