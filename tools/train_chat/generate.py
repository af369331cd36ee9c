"""Endless talks from a seed, and token ids of them with what is learnt of each."""

import argparse
import random
from collections.abc import Iterator

import numpy as np
from dialogue import END_OF_TEXT, Talk
from small_talk import plain_talk
from talk_tools import tool_talk
from tokenizers import Tokenizer

TOOL_SHARE = 0.65
WINDOW = 1024  # tokens
KINDS = ("", "call", "unseen", "read", "chat")  # of a token; as in Talk.turns


def talks(seed: int, held: bool = False) -> Iterator[Talk]:
    """The talks of a seed."""
    rng = random.Random(f"{seed} {held}")
    while True:
        make = tool_talk if rng.random() < TOOL_SHARE else plain_talk
        talk = make(rng, held)
        if talk.turns:
            yield talk


def encode(tokenizer: Tokenizer, batch: list[Talk]) -> list[tuple[np.ndarray, np.ndarray]]:
    """(ids, kinds) of each talk. Pieces are encoded apart, as special tokens part them anyway."""
    pieces = [talk.segments() for talk in batch]
    flat = tokenizer.encode_batch_fast([text for parts in pieces for text, _ in parts])
    found, at = [], 0
    for parts in pieces:
        ids = [flat[at + i].ids for i in range(len(parts))]
        kinds = [[KINDS.index(kind)] * len(ids[i]) for i, (_, kind) in enumerate(parts)]
        at += len(parts)
        found.append(
            (np.concatenate(ids).astype(np.uint16), np.concatenate(kinds).astype(np.uint8))
        )
    return found


def windows(
    tokenizer: Tokenizer, seed: int, held: bool = False, at_once: int = 256
) -> Iterator[np.ndarray]:
    """uint16 (3, WINDOW + 1): ids, kinds, and the number of the talk; talks are whole.

    Talks that do not fit are put into the first of eight open windows that has room.
    """
    end = tokenizer.token_to_id(END_OF_TEXT)
    source = talks(seed, held)
    rows: list[np.ndarray] = []
    fill: list[tuple[int, int]] = []  # tokens, talks
    while True:
        for ids, kinds in encode(tokenizer, [next(source) for _ in range(at_once)]):
            count = len(ids)
            if count > WINDOW + 1:
                continue
            slot = next((i for i, (used, _) in enumerate(fill) if used + count <= WINDOW + 1), None)
            if slot is None and len(rows) == 8:
                fullest = max(range(8), key=lambda i: fill[i][0])
                fill.pop(fullest)
                yield rows.pop(fullest)
            if slot is None:
                row = np.zeros((3, WINDOW + 1), np.uint16)
                row[0] = end
                rows.append(row)
                fill.append((0, 0))
                slot = len(rows) - 1
            used, number = fill[slot]
            rows[slot][:, used : used + count] = ids, kinds, np.full(count, number + 1)
            fill[slot] = used + count, number + 1


def main() -> None:
    parser = argparse.ArgumentParser(description="Show talks.")
    parser.add_argument("--count", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held", action="store_true")
    args = parser.parse_args()
    source = talks(args.seed, args.held)
    for _ in range(args.count):
        print("".join(text for text, _ in next(source).segments()), "-" * 60, sep="")


if __name__ == "__main__":
    main()
