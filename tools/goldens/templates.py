#!/usr/bin/env python3
"""Write tests/golden/templates.json: what transformers renders of the chat templates below.

pip install transformers numpy     # no torch
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

ASK: list[dict[str, Any]] = [
    {"role": "system", "content": "Ünïcode <&> 'q'"},
    {"role": "user", "content": "  hi\n there "},
]
CALL = {"name": "find", "arguments": {"where": ["é", {"b": 1, "a": 2.5}], "deep": None}}
TALK: list[dict[str, Any]] = [
    *ASK,
    {"role": "assistant", "content": "<think>\nwell\n</think>\n\nyes", "tool_calls": [CALL]},
    {"role": "tool", "content": "42", "name": None},
    {"role": "assistant", "content": None, "reasoning": "as before"},
    {"role": "user", "content": [{"type": "text", "text": "and?"}]},
]
CHATML = """{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{% for message in messages %}
    {% if message.role == 'system' %}
        {% continue %}
    {% endif %}
    {% if message.content is string %}
<|im_start|>{{ message.role }}
{{ message.content | trim }}<|im_end|>
    {% else %}
<|im_start|>{{ message.role }} ({{ message.content | default('none', true) }})
    {% endif %}
    {%- if not loop.last %}--{% endif %}
{% endfor %}
  {% if add_generation_prompt %}
<|im_start|>assistant
  {% endif %}
"""
REASONING = """{% set ns = namespace(n=0) %}
{% for m in messages %}
  {% if m.reasoning_content is defined %}
    {% set ns.n = ns.n + 1 %}
<think>{{ m.reasoning_content }}|{{ m.thinking }}</think>
  {% elif m.content is string and '</think>' in m.content %}
{{ m.content.split('</think>')[-1].lstrip('\\n') }}
  {% endif %}
  {% if 'content' in m and m.content is none %}a None{% endif %}
  {% if m.name is defined %}a name{% endif %}
{% endfor %}
{{ ns.n }} {{ messages[::-1][0].role }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }}
"""
CALLS = "{% for m in messages if m.tool_calls %}{{ m.tool_calls | tojson(ARGUMENTS) }}{% endfor %}"
TOKENS = ["bos", "eos", "unk", "sep", "pad", "cls", "mask", "image"]
NAMED = {
    f"{name}_token": value
    for name, value in zip(TOKENS, ("<b>", "<|im_end|>", None, "<s>", "<p>", "<c>", "<m>", "<i>"),
                           strict=True)
}  # fmt: skip
SHOW_TOKENS = "".join(
    f"{name}: {{{{ {name}_token }}}} {{{{ {name}_token is defined }}}}\n" for name in TOKENS
)

# name: (template, messages, what tokenizer_config.json says beside the template)
CASES: dict[str, tuple[str, list[dict[str, Any]], dict[str, Any]]] = {
    "chatml": (CHATML, TALK, {}),
    "reasoning": (REASONING, TALK, {}),
    **{
        f"tojson({arguments})": (CALLS.replace("ARGUMENTS", arguments), TALK, {})
        for arguments in (
            "",
            "indent=2",
            "sort_keys=true",
            "separators=(',', ':')",
            "true",
            "ensure_ascii=true",
            "false, 1, (';', '='), true",
        )
    },
    "tojson of text": ("{{ messages[0].content | tojson }}", ASK, {}),
    "strftime_now": ("{{ strftime_now('%Y-%m-%d') | length }}{{ strftime_now('.') }}", ASK, {}),
    "generation": (
        "{% for m in messages %}\n{% if m.role == 'assistant' %}\n"
        "<a>{% generation %}\n  {{ m.content }} {{ loop.index }}<e>{% set x = 1 %}\n"
        "{%- endgeneration %} {{ x is defined }}\n"
        "{% else %}<u>{{ m.content }}{% endif %}\n{% endfor %}",
        [*ASK, {"role": "assistant", "content": "yes {{ x }}"}],
        {},
    ),
    "nothing given": (
        "{{ tools is none }} {{ documents is none }} {{ tools is defined }} "
        "{{ documents is defined }} {% if tools %}tools{% endif %} {{ enable_thinking is defined }}"
        " {{ add_generation_prompt }}",
        ASK,
        {},
    ),
    "tokens": (SHOW_TOKENS, ASK, NAMED),
    "added tokens": (
        SHOW_TOKENS,
        ASK,
        {
            "bos_token": {"content": "<b>", "lstrip": False, "__type": "AddedToken"},
            "add_bos_token": True,
            "mask_token": None,
            "extra_special_tokens": {"image_token": "<i>"},
        },
    ),
    "no tokens": (SHOW_TOKENS, ASK, {"eos_token": None}),
    "loop controls": (
        "{% for m in messages %}{{ loop.index0 }}{% break %}{% endfor %}{{ [1, 2, 3] | join('+') }}"
        "\n\n{# a comment #}\n   {# another #} x\n",
        ASK,
        {},
    ),
}


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
    found = {
        name: {
            "template": template,
            "messages": messages,
            "settings": settings,
            "text": rendered(template, messages, settings),
        }
        for name, (template, messages, settings) in CASES.items()
    }
    found = {"transformers": transformers.__version__, "cases": found}
    path = goldens.FOLDER / "templates.json"
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
