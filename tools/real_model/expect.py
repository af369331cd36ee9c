"""Write tests/golden/real_model.json: what transformers (float32) makes of each form's weights.

`python -m real_model.expect FOLDER [--form NAME ..]`, where FOLDER is what `python -m real_model`
made. The forms `float32` and `gguf` are held to the dense model as transformers itself reads it
from the downloaded file; the others to Qwen2MoeForCausalLM of the form's own weights, decoded.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from oracle import affine, safetensors_file

from . import parts
from .forms import BITS

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden" / "real_model.json"
MARGIN = 2e-3  # between the best logit and the next, at every step
MOE = ("bf16", "q4")
_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "The city's name."}},
            "required": ["city"],
        },
    },
}
CASES: list[dict[str, Any]] = [
    {"name": "text", "prompt": "def fibonacci(n):\n", "n": 40},
    {
        "name": "chat",
        "messages": [{"role": "user", "content": "Reverse a string in Python, in one line."}],
        "n": 40,
    },
    {
        "name": "tool",
        "messages": [
            {"role": "user", "content": "What is the weather in Paris? Answer with a <tool_call>."}
        ],
        "tools": [_WEATHER],
        "n": 40,
    },
]


def dense(folder: Path) -> Any:
    """The downloaded file's model, by transformers' own reader."""
    return transformers.AutoModelForCausalLM.from_pretrained(
        str(folder), gguf_file=parts.NAME, dtype=torch.float32
    )


def of_experts(folder: Path) -> Any:
    """The model of a form's files, every number decoded to float32."""
    tensors: dict[str, Any] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= _decoded(safetensors_file.read(file))
    stacks: dict[str, list[Any]] = {}
    for name in sorted(tensors, key=_numbers):
        if found := re.fullmatch(r"(.*\.experts)\.\d+\.(\w+_proj)\.weight", name):
            stacks.setdefault(f"{found[1]}.{found[2]}", []).append(tensors.pop(name))
        elif ".switch_mlp." in name:
            value = tensors.pop(name)
            stacks[name.replace("switch_mlp", "experts").removesuffix(".weight")] = list(value)
    for name in [name for name in stacks if name.endswith("down_proj")]:
        gate, up = (np.stack(stacks[name.replace("down", part)]) for part in ("gate", "up"))
        tensors[name.replace("down", "gate_up")] = np.concatenate([gate, up], axis=1)
        tensors[name] = np.stack(stacks[name])
    config = transformers.AutoConfig.from_pretrained(str(folder))
    config.dtype = torch.float32
    with torch.device("meta"):
        model = transformers.Qwen2MoeForCausalLM(config)
    state = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in tensors.items()}
    model.load_state_dict(state, assign=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model


def _numbers(name: str) -> list[Any]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _decoded(stored: dict[str, Any]) -> dict[str, Any]:
    out = {}
    for name, tensor in stored.items():
        module = name.removesuffix(".weight")
        if name.endswith((".scales", ".biases")):
            continue
        if f"{module}.scales" not in stored:
            out[name] = safetensors_file.decode(tensor)
            continue
        scales, biases = (safetensors_file.decode(stored[f"{module}.{part}"])
                          for part in ("scales", "biases"))  # fmt: skip
        whole = np.empty((*scales.shape[:-1], tensor.data.shape[-1] * 32 // BITS), np.float32)
        rows = [part.reshape(-1, part.shape[-1]) for part in (tensor.data, scales, biases, whole)]
        for i in range(0, len(rows[0]), 4096):
            words, scale, bias, values = (part[i : i + 4096] for part in rows)
            values[:] = affine.dequantize(words, scale, bias, BITS)
        out[name] = whole
    return out


def run(model: Any, tokenizer: Any, case: dict[str, Any]) -> dict[str, Any]:
    """A case with what the model writes, greedily, and what it thinks of the first token."""
    n = case["n"]
    asked = {key: value for key, value in case.items() if key != "n"}
    if "prompt" in case:
        ids = tokenizer(case["prompt"])["input_ids"]
    else:
        ids = tokenizer.apply_chat_template(
            case["messages"], tools=case.get("tools"), add_generation_prompt=True,
            return_dict=False,
        )  # fmt: skip
    fed, cache, written, margins, first = ids, None, [], [], None
    ends = {tokenizer.eos_token_id, tokenizer.pad_token_id}
    with torch.no_grad():
        while len(written) < n and not ends & set(written):
            out = model(torch.tensor([fed]), past_key_values=cache, use_cache=True)
            top, cache = out.logits[0, -1].topk(5), out.past_key_values
            first = first or (top.indices.tolist(), [round(x, 5) for x in top.values.tolist()])
            margins.append(float(top.values[0] - top.values[1]))
            fed = [int(top.indices[0])]
            written += fed
    text = tokenizer.decode([i for i in written if i not in ends], skip_special_tokens=False)
    if min(margins) < MARGIN:
        raise ValueError(f"{case['name']}: expected a margin of {MARGIN}, found {min(margins)}")
    return asked | {"prompt_ids": ids, "ids": written, "text": text, "margin": min(margins),
                    "top_ids": first[0], "top_logits": first[1]}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m real_model.expect", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--form", action="append", choices=("float32", *MOE))
    arguments = parser.parse_args()
    folder = arguments.folder
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.is_file() else {}
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), gguf_file=parts.NAME)
    for form in arguments.form or ("float32", *MOE):
        model = (of_experts(folder / form) if form in MOE else dense(folder)).eval()
        golden[form] = [run(model, tokenizer, case) for case in CASES]
        for case in golden[form]:
            print(form, case["name"], f"{case['margin']:.4f}", repr(case["text"]), flush=True)
        GOLDEN.write_text(_lists_on_lines(json.dumps(golden, indent=1)) + "\n")


def _lists_on_lines(text: str) -> str:
    """JSON whose lists of numbers take a line each."""
    return re.sub(r"\[([-\d.,\s]+)\]", lambda found: f"[{' '.join(found[1].split())}]", text)


if __name__ == "__main__":
    main()
