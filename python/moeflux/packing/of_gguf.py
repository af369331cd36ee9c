"""The small files of a folder, from the keys of a GGUF file."""

from __future__ import annotations

from pathlib import Path

from ..durable import write_json, write_text
from ..gguf import vocabulary


def write_small(source: Path, target: Path) -> None:
    """tokenizer.json, tokenizer_config.json with the chat templates, generation_config.json.

    Raises:
        FormatError: a vocabulary that cannot be built.
    """
    found = vocabulary.read(source)
    templates = [{"name": name, "template": text} for name, text in found.templates.items()]
    write_text(target / "tokenizer.json", found.tokenizer.to_str())
    write_json(
        target / "tokenizer_config.json",
        found.named | ({"chat_template": templates} if templates else {}),
    )
    write_json(
        target / "generation_config.json",
        {"eos_token_id": sorted(found.eos_ids)}
        | ({"do_sample": True, **found.sampling} if found.sampling else {}),
    )
