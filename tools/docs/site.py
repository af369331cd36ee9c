#!/usr/bin/env python3
"""Lays out the pages of the documentation site for mkdocs, in build/site_docs.

python tools/docs/site.py && mkdocs build --strict   # or: make site

Pages keep their places, so that links between them hold; README.md is the index. A picture is
copied. What a page links to and is no page (a results file, a folder, source) becomes a link to the
repository that MOEFLUX_REPOSITORY names; without one its path stands there.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "build" / "site_docs"
PICTURES = (".png", ".svg")
LINK = re.compile(r"\[([^\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def pages() -> list[Path]:
    """What mkdocs.yml has in its nav, as paths in the repository."""
    named = re.findall(r": ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    return [Path("README.md" if name == "index.md" else name) for name in named]


def target(page: Path) -> Path:
    """Where a page lies on the site."""
    return Path("index.md") if page == Path("README.md") else page


def moved(text: str, page: Path, known: set[Path], repository: str) -> tuple[str, set[Path]]:
    """A page's text with links as the site needs them, and the pictures that it shows."""
    pictures: set[Path] = set()

    def link(match: re.Match[str]) -> str:
        words, name, anchor = match[1], match[2], match[3] or ""
        place = Path(os.path.normpath(page.parent / name))
        if place in known:
            there = os.path.relpath(target(place), target(page).parent)
            return f"[{words}]({there}{anchor})"
        if place.suffix in PICTURES:
            pictures.add(place)
            return match[0]
        if not repository:
            return f"{words} (`{place.as_posix()}`)"
        kind = "tree" if (ROOT / place).is_dir() else "blob"
        return f"[{words}]({repository}/{kind}/main/{place.as_posix()}{anchor})"

    parts = re.split(r"(^```.*?^```)", text, flags=re.S | re.M)
    return "".join(part if part.startswith("```") else LINK.sub(link, part)
                   for part in parts), pictures  # fmt: skip


def main() -> None:
    """Writes build/site_docs anew."""
    shutil.rmtree(OUT, ignore_errors=True)
    known, repository = set(pages()), os.environ.get("MOEFLUX_REPOSITORY", "")
    pictures: set[Path] = set()
    for page in known:
        text, shown = moved((ROOT / page).read_text(), page, known, repository)
        pictures |= shown
        (OUT / target(page)).parent.mkdir(parents=True, exist_ok=True)
        (OUT / target(page)).write_text(text)
    for picture in pictures:
        (OUT / picture).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / picture, OUT / picture)


if __name__ == "__main__":
    main()
