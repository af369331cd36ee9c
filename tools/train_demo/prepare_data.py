"""Collect the text, train the tokenizer and write token ids.

Source: the Python 3.11 standard library and the reST sources of its documentation (PSF licence).
Every file belongs to one split, chosen by the SHA-256 of its name, so the held-out files are the
same on every machine. The tokenizer sees the training split only.

Writes into --out: tokenizer.json, train.npy and heldout.npy (uint16 ids), heldout.txt, and
data_manifest.txt (one line per file: split, bytes, SHA-256, name).
"""

import argparse
import hashlib
import random
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB_SIZE = 4096
END_OF_TEXT = "<|endoftext|>"
MAX_TEST_BYTES = 128_000  # larger test files are mostly tables of expected values
MAX_FILE_BYTES = 300_000
HELDOUT_TEXT_BYTES = 190_000
SKIPPED_PARTS = ("site-packages", "pydoc_data", "__pycache__", "whatsnew/changelog")


def is_teaching_text(name: str, text: str) -> bool:
    """False for generated tables, blobs and files that are mostly not ASCII."""
    if any(part in name for part in SKIPPED_PARTS) or not 200 <= len(text) <= MAX_FILE_BYTES:
        return False
    if "/test" in name and len(text) > MAX_TEST_BYTES:
        return False
    if "decoding_table" in text or "/tests/data/" in name:
        return False
    ascii_share = sum(map(str.isascii, text)) / len(text)
    escape_share = (text.count("\\x") + text.count("\\u")) * 4 / len(text)
    return ascii_share > 0.98 and escape_share < 0.1


def collect(stdlib: Path, docs: Path) -> dict[str, str]:
    """Return {name: text} of all accepted files, sorted by name."""
    found = {}
    for prefix, root, pattern in (("lib", stdlib, "*.py"), ("doc", docs, "*.rst.txt")):
        for path in root.rglob(pattern):
            name = f"{prefix}/{path.relative_to(root).as_posix()}"
            try:
                text = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
            if is_teaching_text(name, text):
                found[name] = text
    return dict(sorted(found.items()))


def is_heldout(name: str) -> bool:
    """One file in forty."""
    return hashlib.sha256(name.encode()).digest()[0] < 256 / 40


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """A byte-level BPE: any text encodes, no unknown token; id 0 ends a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    """All texts in one uint16 array, each followed by the end-of-text id."""
    encodings = tokenizer.encode_batch(texts)
    return np.concatenate([np.array([*e.ids, 0], np.uint16) for e in encodings])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stdlib", type=Path, required=True, help="the folder lib/python3.11")
    parser.add_argument("--docs", type=Path, required=True, help="the docs' folder html/_sources")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    files = collect(args.stdlib, args.docs)
    lines = []
    for name, text in files.items():
        split, data = "heldout" if is_heldout(name) else "train", text.encode()
        lines.append(f"{split} {len(data)} {hashlib.sha256(data).hexdigest()} {name}\n")
    (args.out / "data_manifest.txt").write_text("".join(lines))

    train = [text for name, text in files.items() if not is_heldout(name)]
    heldout = [text for name, text in files.items() if is_heldout(name)]
    random.Random(0).shuffle(train)
    random.Random(0).shuffle(heldout)
    tokenizer = train_tokenizer(train)
    tokenizer.save(str(args.out / "tokenizer.json"))
    for split, texts in (("train", train), ("heldout", heldout)):
        ids = encode(tokenizer, texts)
        np.save(args.out / f"{split}.npy", ids)
        size = sum(len(text.encode()) for text in texts)
        print(f"{split}: {len(texts)} files, {size:,} bytes, {len(ids):,} tokens")
    sample = "".join(heldout).encode()[:HELDOUT_TEXT_BYTES].decode(errors="ignore")
    (args.out / "heldout.txt").write_text(sample, encoding="utf-8")


if __name__ == "__main__":
    main()
