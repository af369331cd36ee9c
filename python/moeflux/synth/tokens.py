"""A byte-level tokenizer for any vocabulary size: 256 bytes, <|im_end|>, then words " w257"...

No merges: text encodes to its bytes. The words are there so that whatever a random model writes
can be read, and because GGUF wants a string for every row of the output matrix.
"""

from __future__ import annotations

from typing import Any

from .shapes import EOS_ID

END = "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def byte_alphabet() -> list[str]:
    """The printable character that byte-level BPE uses for each byte (GPT-2's table)."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [byte for byte in range(256) if byte not in kept]
    return [chr(b) if b in kept else chr(256 + moved.index(b)) for b in range(256)]


def vocabulary(size: int) -> list[str]:
    """The string of every id, in the byte-level alphabet; id 256 is <|im_end|>."""
    alphabet = byte_alphabet()
    return [*alphabet, END, *(f"{alphabet[32]}w{index}" for index in range(EOS_ID + 1, size))]


def tokenizer_json(size: int) -> dict[str, Any]:
    """tokenizer.json of the `tokenizers` library."""
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
             "use_regex": True}  # fmt: skip
    end = {"id": EOS_ID, "content": END, "single_word": False, "lstrip": False, "rstrip": False,
           "normalized": False, "special": True}  # fmt: skip
    vocab = {text: index for index, text in enumerate(vocabulary(size))}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [end],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [],
        },
    }


def tokenizer_config(context: int) -> dict[str, Any]:
    """tokenizer_config.json: end of text, chat template."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
