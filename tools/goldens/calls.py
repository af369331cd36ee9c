#!/usr/bin/env python3
"""Read the calls of tests/golden/calls.json with transformers.

Their names and arguments, as its parsers of Gemma 4's and LFM2's notations find them, or null where
they refuse a text, are written there.

pip install transformers==5.24.0     # no torch
python tools/goldens/calls.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import transformers
from transformers.cli.serving.utils import _RESPONSE_TEMPLATE_FALLBACKS as TEMPLATES
from transformers.utils.chat_parsing import parse_response
from transformers.utils.chat_parsing.content_parsers import parse_content

GEMMA = next(template for families, template in TEMPLATES.items() if "gemma4" in families)


def gemma(text: str) -> list[dict[str, Any]]:
    """The functions that are called."""
    return [call["function"] for call in parse_response(text, GEMMA, prefix="")["tool_calls"]]


def lfm(text: str) -> list[dict[str, Any]]:
    """The same between the tags that transformers leaves to a model's own settings."""
    inner = text.removeprefix("<|tool_call_start|>").removesuffix("<|tool_call_end|>")
    return parse_content(inner, "python-call-list", {})


def main() -> None:
    path = Path(__file__).resolve().parents[2] / "tests" / "golden" / "calls.json"
    golden = json.loads(path.read_text(encoding="utf-8"))
    for read in (gemma, lfm):
        for case in golden[read.__name__]:
            try:
                found = read(case["text"])
            except ValueError:
                case["calls"] = None
            else:
                case["calls"] = [[call["name"], call["arguments"]] for call in found]
    golden["transformers"] = transformers.__version__
    path.write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
