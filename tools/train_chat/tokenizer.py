"""Train the tokenizer: a byte-level BPE in which a word has the same tokens wherever it stands.

Spaces are tokens of their own, digits stand alone and names are cut at underscores and capitals, so
that the model can copy a value token by token from a question into a call.
"""

import argparse
import json
from itertools import chain, islice
from pathlib import Path
from pydoc_data.topics import topics

from dialogue import SPECIAL, TAGS
from generate import talks
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB_SIZE = 4096
N_TALKS = 60_000
WORDS = (r"\p{Lu}?\p{Ll}+|\p{Lu}+(?!\p{Ll})|\p{L}|\p{N}|\n+| +|"
         r"[^\p{L}\p{N}\s]+(?: [^\p{L}\p{N}\s]+)* ?|\s")  # fmt: skip


def empty_tokenizer() -> Tokenizer:
    """Cuts words, knows none."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="tokenizer.json to write")
    parser.add_argument("--talks", type=int, default=N_TALKS)
    args = parser.parse_args()
    tokenizer = empty_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[*SPECIAL, *TAGS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (text for talk in islice(talks(seed=1), args.talks) for text, _ in talk.segments())
    prose = [text for text in topics.values() for _ in range(2)]
    tokenizer.train_from_iterator(chain(texts, prose), trainer)
    stored = json.loads(tokenizer.to_str())
    for token in stored["added_tokens"]:  # the trainer makes all of them special
        token["special"] = token["content"] in SPECIAL
    args.out.write_text(json.dumps(stored, ensure_ascii=False))
    print(f"{tokenizer.get_vocab_size()} tokens, {args.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
