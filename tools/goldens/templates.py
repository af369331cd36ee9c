#!/usr/bin/env python3
"""Render the cases of tests/golden/templates.json with transformers, and write their texts there.

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

import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from oracle import goldens, tokenizer_file


def rendered(template: str, messages: list[dict[str, Any]], settings: dict[str, Any]) -> str:
    """The prompt as transformers makes it."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer_file.write_tokenizer(Path(folder))
        path = Path(folder) / "tokenizer_config.json"
        config = json.loads(path.read_text()) | settings | {"chat_template": template}
        path.write_text(json.dumps(config))
        tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return str(text)


def main() -> None:
    path = goldens.FOLDER / "templates.json"
    golden = json.loads(path.read_text(encoding="utf-8"))
    golden["transformers"] = transformers.__version__
    for case in golden["cases"].values():
        case["text"] = rendered(case["template"], case["messages"], case["settings"])
    path.write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
