"""No function grows past 50 lines, but for a few whose body is one table or one inner loop."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MOST_LINES = 50
MOST_EXCEPTIONS = 5
STATEMENT = re.compile(r"(namespace|struct|class|enum|union|extern|if|for|while|switch|do|else)\b")

# Two lines of one signature, or of a constructor's members.
CONTINUED = re.compile(r"^(?! *//).*[,(]\n|\n +: ")


def cpp_functions(text):
    """(first line, lines) of each function of a file that clang-format has laid out.

    A function is what begins at an indent and ends with a brace at the same; a lambda or a block
    within it is a part of it.
    """
    lines = text.splitlines()
    end = 0  # of the function before
    for at, line in enumerate(lines):
        if at < end or not re.search(r"\{( *//.*)?$", line):
            continue
        first = at
        while first > end and CONTINUED.search(lines[first - 1] + "\n" + lines[first]):
            first -= 1
        begin = lines[first].lstrip()
        indent = len(lines[first]) - len(begin)
        if STATEMENT.match(begin) or "(" not in "".join(lines[first : at + 1]):
            continue
        close = " " * indent + "}"
        end = next((i for i in range(at + 1, len(lines)) if lines[i].startswith(close)), at) + 1
        yield first + 1, end - first


def test_the_count_sees_a_function_whole():
    long = "int f(int a,\n      int b) {\n" + "  g();\n" * 50 + "}\n"
    method = "struct S {\n  S()\n      : a(1),\n        b(2) {\n    g();\n  }\n};\n"
    assert list(cpp_functions(long)) == [(1, 53)]
    assert list(cpp_functions(method + long)) == [(2, 5), (8, 53)]


def test_at_most_five_cpp_functions_pass_fifty_lines():
    files = [p for end in ("h", "cpp", "inc", "mm") for p in (ROOT / "csrc").rglob(f"*.{end}")]
    assert len(files) > 100
    past = [
        f"{path.relative_to(ROOT)}:{line}: {n} lines"
        for path in sorted(files)
        for line, n in cpp_functions(path.read_text())
        if n > MOST_LINES
    ]
    assert len(past) <= MOST_EXCEPTIONS, past
