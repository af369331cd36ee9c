#!/usr/bin/env python3
"""Write tests/golden/<case>.{npz,json} from transformers and mlx-lm (see README.md here).

Per case: build the checkpoint with the numpy writer, run transformers in f32 on its exactly
dequantised weights (hf forms: straight from the files, every equal form bit for bit), search a
prompt with no near ties, and for mlx forms demand that mlx-lm loads the very files and agrees.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from oracle import Reference, goldens, safetensors_file, values, writer
from oracle.checkpoint import Checkpoint
from oracle.families import FAMILIES
from oracle.layout import (
    CONVOLUTIONS,
    fuse_experts,
    interleave_experts,
    later_layers,
)

PROMPT_LEN, NEW_TOKENS = 70, 16  # crosses the 64-token chunk of the delta net's prefill
ROUTER_MARGIN, GREEDY_MARGIN = 2e-4, 1e-2
HIDDEN_POSITIONS = [0, 1, 3, 31, 62, 63, 64, 65, 69, 84]


def as_text_checkpoint(case: goldens.Case, source: Path, folder: Path) -> Path:
    """A hub-form f32 copy of `source` (any form) holding exactly its dequantised values."""
    files = Checkpoint(source)
    spec = FAMILIES[case.family]
    out: dict[str, np.ndarray] = {}
    later = tuple(later_layers(files.text))
    for name in files.stored:
        if re.search(r"^mtp\.|visual|\.(scales|biases)$", name) or name.startswith(later):
            continue
        value = files.full(name).astype(np.float32)
        name = name.replace("language_model.", "")
        known = ("model.", "lm_head", spec.hub_prefix)
        name = name if name.startswith(known) else f"model.{name}"
        if files.is_mlx and name.endswith(CONVOLUTIONS):
            value = np.moveaxis(value, 2, 1)
        for own, mlx in zip(spec.dense_names, spec.matrices, strict=True):
            name = name.replace(f".{spec.dense}.{mlx}.weight", f".{spec.dense}.{own}.weight")
        zero_centred = name.endswith("norm.weight") and ".linear_attn." not in name
        if files.is_mlx and spec.zero_centred_norms and zero_centred:
            value = value - np.float32(1)
        stacks = f".{spec.mlx_experts}."
        if files.is_mlx and stacks in name and name.endswith(".weight"):
            base, kind = name.removesuffix(".weight").split(stacks)
            kind = spec.experts[spec.stacked.index(kind)]
            out |= {f"{base}.experts.{e}.{kind}.weight": matrix for e, matrix in enumerate(value)}
        else:
            out[name] = value
    if files.is_mlx and spec.interleaved_experts:
        out = interleave_experts(case.family, out)
    elif files.is_mlx and spec.fused_experts:
        out = fuse_experts(case.family, out)
    stored = {name: safetensors_file.encode(value, "F32") for name, value in out.items()}
    config = dict(files.text)
    for key in ("quantization", "quantization_config"):
        config.pop(key, None)
    config["dtype"] = "float32"
    return writer.write_checkpoint(folder, config, stored, "hf", 1)


def load(case: goldens.Case, folder: Path) -> torch.nn.Module:
    """from_pretrained in f32, nothing missing and nothing unexpected but MTP."""
    kind = getattr(transformers, FAMILIES[case.family].transformers)
    model, info = kind.from_pretrained(
        str(folder), dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    skipped = ("mtp.", *later_layers(model.config.to_dict()))
    odd = [key for key in info["unexpected_keys"] if not key.startswith(skipped)]
    missing = [key for key in info["missing_keys"] if "inv_freq" not in key]
    assert not odd and not missing and not info["mismatched_keys"], (odd, missing, info)
    return model.eval()


def router_margin(reference: Reference, arrays: dict[str, Any]) -> float:
    """The least distance of what is chosen from what is not, in float64; experts must be the same.

    Of sigmoid scores with a bias it is between their sums, within the groups that are open.
    """
    trace = reference.forward([int(token) for token in arrays["tokens"]])
    top_k, margins = reference.text[reference.family.top_k], []
    for layer, ranks in reference.ranks.items():
        if not np.array_equal(trace.expert_ids[layer], arrays[f"expert_ids.{layer}"]):
            return 0.0
        ranked = -np.sort(-ranks, axis=1)
        margins.append(float((ranked[:, top_k - 1] - ranked[:, top_k]).min()))
    return min(margins)


def run(
    model: torch.nn.Module, reference: Reference, prompt: list[int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Greedy continuation with a cache, then the full forward whose tensors are the golden."""
    hidden, routers, hooks = {}, {}, []
    for i, layer in enumerate(model.model.layers):
        hooks.append(
            layer.register_forward_hook(
                lambda m, a, o, i=i: hidden.__setitem__(i, (o[0] if isinstance(o, tuple) else o))
            )
        )
        for router in (child for child in layer.modules() if "Router" in type(child).__name__):
            hooks.append(
                router.register_forward_hook(lambda m, a, o, i=i: routers.__setitem__(i, o))
            )
    with torch.no_grad():
        tokens, fed, cache = list(prompt), list(prompt), None
        for _ in range(NEW_TOKENS):
            out = model(torch.tensor([fed]), past_key_values=cache, use_cache=True)
            cache, fed = out.past_key_values, [int(out.logits[0, -1].argmax())]
            tokens += fed
        logits = model(torch.tensor([tokens]), use_cache=False).logits[0]
    for hook in hooks:
        hook.remove()
    length = len(tokens)
    arrays: dict[str, Any] = {
        "tokens": np.array(tokens, np.int32),
        "logits": logits.numpy(),
        "hidden_positions": np.array(HIDDEN_POSITIONS, np.int32),
        "hidden": np.stack(
            [h.reshape(length, -1)[HIDDEN_POSITIONS].numpy() for _, h in sorted(hidden.items())]
        ),
    }
    for i, (_, weights, ids) in sorted(routers.items()):
        order = ids.sort(-1).indices
        arrays[f"expert_ids.{i}"] = ids.gather(1, order).int().numpy()
        arrays[f"expert_weights.{i}"] = weights.gather(1, order).float().numpy()
    top = logits.topk(2).values[len(prompt) - 1 : -1]
    info = {
        "prompt_len": len(prompt),
        "router_margin": router_margin(reference, arrays),
        "greedy_margin": float((top[:, 0] - top[:, 1]).min()),
        "logits_abs_max": float(logits.abs().max()),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return arrays, info


def search(
    name: str, model: torch.nn.Module, reference: Reference
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first prompt without near ties in routing or greedy choice, of at most 100."""
    for attempt in range(100):
        raw = values.words(0, f"prompt/{name}/{attempt}", PROMPT_LEN)
        prompt = (raw % np.uint64(model.config.vocab_size - 1)).astype(int).tolist()
        arrays, info = run(model, reference, prompt)
        if info["router_margin"] >= ROUTER_MARGIN and info["greedy_margin"] >= GREEDY_MARGIN:
            return arrays, info | {"attempt": attempt}
    raise RuntimeError(f"{name}: no prompt is free of near ties")


def run_mlx(folder: Path, tokens: list[int]) -> tuple[np.ndarray, list[np.ndarray]]:
    """mlx-lm's logits with float32 activations, and the experts of each MoE layer (ascending)."""
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_lm.models import switch_layers
    from mlx_lm.utils import load_model

    model, _ = load_model(folder)
    model.update(
        tree_map(
            lambda t: t.astype(mx.float32) if mx.issubdtype(t.dtype, mx.floating) else t,
            model.parameters(),
        )
    )
    chosen: list[np.ndarray] = []
    kinds = (switch_layers.SwitchGLU, switch_layers.SwitchMLP)
    originals = [kind.__call__ for kind in kinds]

    def spy_on(original: Any) -> Any:
        def spy(self: Any, x: Any, ids: Any) -> Any:
            chosen.append(np.sort(np.array(ids).reshape(len(tokens), -1), axis=-1))
            return original(self, x, ids)

        return spy

    try:
        for kind, original in zip(kinds, originals, strict=True):
            kind.__call__ = spy_on(original)
        logits = np.array(model(mx.array([tokens]))[0].astype(mx.float32))
    finally:
        for kind, original in zip(kinds, originals, strict=True):
            kind.__call__ = original
    return logits, chosen


def check_equal_forms(case: goldens.Case, model: torch.nn.Module, work: Path) -> None:
    """Transformers reads every equal form, and the hub layout, as the same function."""
    probe = torch.arange(100)[None] * 3 % 256
    for form in (case.form, *case.same_as):
        if FAMILIES[case.family].wrapper:
            continue  # its hub files hold a vision tower stub that the text class does not know
        other = load(case, case.build(work / form, form))
        with torch.no_grad():
            equal = torch.equal(model(probe).logits, other(probe).logits)
        assert equal, f"{form} differs from its f32 copy"


def make(name: str) -> dict[str, Any]:
    """Write golden `name`; returns its info."""
    case = goldens.CASES[name]
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        source = case.build(work / "source")
        model = load(case, as_text_checkpoint(case, source, work / "text"))
        if case.form.startswith("hf"):
            check_equal_forms(case, model, work)
        arrays, info = search(name, model, Reference(source))
        if case.form.startswith("mlx") and case.mlx and FAMILIES[case.family].mlx:
            logits, chosen = run_mlx(source, arrays["tokens"].tolist())
            expected = [v for k, v in arrays.items() if k.startswith("expert_ids")]
            assert len(chosen) == len(expected)
            assert all(map(np.array_equal, chosen, expected)), "mlx-lm chose other experts"
            worst = float(np.abs(logits - arrays["logits"]).max())
            assert worst <= FAMILIES[case.family].tolerance[0], f"mlx-lm is {worst} away"
            info["mlx_max_abs_difference"] = worst
    goldens.FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(goldens.FOLDER / f"{name}.npz", **arrays)
    info |= {"case": name, "family": case.family, "form": case.form, "options": case.options}
    (goldens.FOLDER / f"{name}.json").write_text(json.dumps(info, indent=1) + "\n")
    return info


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(goldens.CASES), metavar="case")
    for name in parser.parse_args().cases or list(goldens.CASES):
        info = make(name)
        shown = {k: v for k, v in info.items() if k.endswith(("margin", "difference", "attempt"))}
        print(name, shown, flush=True)


if __name__ == "__main__":
    main()
