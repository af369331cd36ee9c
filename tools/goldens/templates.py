#!/usr/bin/env python3
"""Render tests/golden/templates.json and chat_templates.json with transformers.

The texts, errors and token ids that it makes of their cases are written there.

pip install transformers jinja2 numpy     # no torch
python tools/goldens/templates.py
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import jinja2
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from oracle import goldens, tokenizer_file


def tokenizer_with(
    template: str, settings: dict[str, Any], added: dict[str, bool]
) -> transformers.PreTrainedTokenizerFast:
    """The oracle's tokenizer with a template, entries of tokenizer_config.json and more tokens."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer_file.write_tokenizer(Path(folder), added)
        path = Path(folder) / "tokenizer_config.json"
        config = json.loads(path.read_text()) | settings | {"chat_template": template}
        path.write_text(json.dumps(config))
        return transformers.PreTrainedTokenizerFast.from_pretrained(folder)


def rendered(tokenizer: Any, messages: list[dict[str, Any]], options: dict[str, Any]) -> Any:
    """A prompt as transformers makes it: {"text"}, {"error"}, or {"ids"} with texts kept texts."""
    options = {**options, **options.pop("chat_template_kwargs", {})}
    as_text = options.pop("special_as_text", False)
    options.setdefault("add_generation_prompt", not options.get("continue_final_message", False))
    try:
        if as_text:
            found = tokenizer.apply_chat_template(messages, sanitize_control_tokens=True, **options)
            return {"ids": list(found["input_ids"])}
        return {"text": tokenizer.apply_chat_template(messages, tokenize=False, **options)}
    except (jinja2.TemplateError, TypeError) as error:
        return {"error": str(error)}


def write(path: Path, golden: dict[str, Any]) -> None:
    """As the files are."""
    golden["transformers"] = transformers.__version__
    path.write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    path = goldens.FOLDER / "templates.json"
    golden = json.loads(path.read_text(encoding="utf-8"))
    for case in golden["cases"].values():
        tokenizer = tokenizer_with(case["template"], case["settings"], {})
        case |= rendered(tokenizer, case["messages"], {})
    write(path, golden)
    path = goldens.FOLDER / "chat_templates.json"
    golden = json.loads(path.read_text(encoding="utf-8"))
    for case in golden["templates"].values():
        tokenizer = tokenizer_with("\n".join(case["lines"]), golden["settings"], golden["added"])
        for render in case["renders"]:
            for outcome in ("text", "error", "ids"):
                render.pop(outcome, None)
            render |= rendered(tokenizer, *goldens.chat(golden, render))
    write(path, golden)


if __name__ == "__main__":
    main()
