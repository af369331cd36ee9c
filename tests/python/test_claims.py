"""Every number with a unit in README.md and docs/ has a claim, and is what its source says.

benchmarks/claims.toml is the file of claims; its head says what is in it.
"""

import json
import re
from functools import cache
from pathlib import Path

import pytest

from moeflux.planning.hit_rate import hit_rate

tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")

ROOT = Path(__file__).parents[2]
FILE = ROOT / "benchmarks/claims.toml"
WRITTEN = {"docs/api.md", "docs/cli.md"}  # by a tool, from docstrings and help
PAGES = [name for name in ("README.md", *sorted(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")))
         if name not in WRITTEN]  # fmt: skip
NUMBER = r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?"
UNIT = r"(?:%|times\b|tokens/s\b|tok/s\b|[KMGT]B/s\b)"
MEASURED = re.compile(rf"{NUMBER}(?:(?: to |, | and | instead of ){NUMBER})* ?{UNIT}")
COLUMN = re.compile(r"tokens/s|tok/s|[KMGT]B/s|\bratio\b|%")  # of a table: all its numbers
RESULTS = ("benchmarks/results/", "tools/", "python/moeflux/known.json")
KINDS = ("bar", "count")  # what need not be a result: a bar, a number that says what was measured


@cache
def claims():
    said = tomllib.loads(FILE.read_text())
    return said["source"], said["claim"]


def prose(text):
    """A page without its blocks of code, at the same offsets."""
    return re.sub(r"^```.*?^```", lambda m: re.sub(r"[^\n]", " ", m[0]), text, flags=re.S | re.M)


def cells(text):
    """(begin, end) of cells that hold numbers, in columns whose head has a unit."""
    heads, at = [], 0
    for line in text.splitlines(keepends=True):
        if not line.startswith("|"):
            heads = []
        parts = line.rstrip("\n").split("|") if line.startswith("|") else []
        begin = at
        if parts and not heads:
            heads = [bool(COLUMN.search(part)) for part in parts]
        else:
            for part, counts in zip(parts, heads, strict=False):
                if counts and re.search(NUMBER, part):
                    yield begin, begin + len(part)
                begin += len(part) + 1
        at += len(line)


def found(text):
    """(begin, end) of every number on a page that needs a claim."""
    text = prose(text)
    spans = [match.span() for match in MEASURED.finditer(text)]
    return sorted({*spans, *cells(text)})


def unclaimed(page, text):
    """The lines of numbers without a claim."""
    mine = [claim["text"] for claim in claims()[1].values() if claim["page"] == page]
    covered = [(m.start(), m.end()) for said in mine for m in re.finditer(re.escape(said), text)]
    return [
        text[text.rfind("\n", 0, begin) + 1 : text.find("\n", end)]
        for begin, end in found(text)
        if not any(low <= begin and end <= high for low, high in covered)
        and not in_written_table(text, begin)
    ]


def in_written_table(text, at):
    """Tables that a tool writes from results or shapes have a test of their own."""
    begin = text.rfind("<!-- ", 0, at)
    mark = re.match(r"<!-- (\w+): (\S+) -->", text[begin:]) if begin >= 0 else None
    return mark is not None and f"<!-- /{mark[1]} -->" in text[at:] and (ROOT / mark[2]).is_file()


@pytest.mark.parametrize("page", PAGES)
def test_a_number_has_a_claim(page):
    assert unclaimed(page, (ROOT / page).read_text()) == []


@pytest.mark.parametrize(
    "text",
    ["It is 7.5 times as fast.", "5 to 9 % less", "at 12 GB/s", "| a | tokens/s |\n|--|--|\n|x|3|",
     "33.5 and 7 % of it", "1.5 TB/s"],
)  # fmt: skip
def test_a_number_without_one_is_seen(text):
    assert unclaimed("docs/faq.md", text)


@pytest.mark.parametrize("text", ["5 threads", "`--top-k 3`", "```text\n5 GB/s\n```\n", "in 3 s"])
def test_numbers_without_a_unit_of_speed_or_share_need_none(text):
    assert not unclaimed("docs/faq.md", text)


def source(name, sources):
    """What a source's file says; a setting's is its text. Fails where it is not as claimed."""
    said = sources[name]
    path = ROOT / said["file"]
    assert path.is_file(), f"{name}: expected the file {said['file']}"
    if "word" in said:
        assert said["word"] in path.read_text(), f"{name}: {said['file']} has no {said['word']}"
        return None
    assert said["file"].startswith(RESULTS) and said["command"] and said["machine"], name
    if said["commit"]:
        assert f'"{said["commit"]}"' in path.read_text(), f"{name}: another commit than the file's"
    return json.loads(path.read_text())


def is_shown(shown, value):
    """Whether a value, rounded to the digits that are shown, is that."""
    number = float(shown.replace(",", ""))
    digits, _, power = shown.replace(",", "").partition("e")
    step = 10.0 ** (int(power or 0) - len(digits.partition(".")[2]))
    return abs(number - value) <= step * 0.5 + 1e-9 * abs(value)


def wrong(claim, sources):
    """What of a claim does not hold; empty when it does."""
    data = source(claim["source"], sources)
    numbers = re.findall(NUMBER, claim["text"])
    values = claim.get("value", [])
    if data is None and not values:
        return []
    if len(values) != len(numbers):
        return [f"{len(numbers)} numbers in the text, {len(values)} values"]
    names = {"d": data, "max": max, "min": min, "sum": sum, "sorted": sorted,
             "hit_rate": hit_rate}  # fmt: skip
    return [
        f"{shown}: {value} is {eval(value, names)}"
        for shown, value in zip(numbers, values, strict=True)
        if value not in KINDS and not is_shown(shown, eval(value, names))
    ]


@pytest.mark.parametrize("name", claims()[1])
def test_a_claim_is_on_its_page_and_what_its_source_says(name):
    sources, every = claims()
    claim = every[name]
    assert claim["text"] in (ROOT / claim["page"]).read_text(), "the page says it no longer"
    assert wrong(claim, sources) == []


def test_every_source_is_used():
    sources, every = claims()
    assert {claim["source"] for claim in every.values()} == set(sources)


def test_a_claim_that_does_not_hold_is_seen():
    sources, every = claims()
    claim = next(claim for claim in every.values() if "d[" in str(claim.get("value")))
    changed = re.sub(NUMBER, lambda m: m[0] + "9", claim["text"])
    assert wrong(claim | {"text": changed}, sources)
    assert wrong(claim | {"value": claim["value"][1:]}, sources)
    gone = sources[claim["source"]] | {"file": "benchmarks/results/no_such.json"}
    with pytest.raises(AssertionError, match="expected the file"):
        wrong(claim, sources | {claim["source"]: gone})
    other = sources[claim["source"]] | {"commit": "0000000"}
    with pytest.raises(AssertionError, match="another commit"):
        wrong(claim, sources | {claim["source"]: other})
