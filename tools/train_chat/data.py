"""Reads the text files of this folder."""

from pathlib import Path

HERE = Path(__file__).parent


def read(name: str) -> str:
    """The text of a file beside this one."""
    return (HERE / name).read_text(encoding="utf-8")


def sections(name: str) -> dict[str, str]:
    """{section: text} of a file with `[section]` lines."""
    parts = ("\n" + read(name)).split("\n[")[1:]
    return dict(part.split("]\n", 1) for part in parts)


def table(text: str) -> dict[str, str]:
    """`key: value` lines."""
    return dict(line.split(": ", 1) for line in text.strip().splitlines())


def pairs(text: str) -> dict[str, str]:
    """`key=value` words; an underscore is a space."""
    return dict(item.replace("_", " ").split("=") for item in text.split())


LISTS = {name: text.split() for name, text in sections("lexicon.txt").items()}
