"""A config, as config.json would have it, from GGUF's keys."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ..arguments import TEXT, is_number, show
from .archs import ABSENT, ARCHS, ONE_WAY, REQUIRED, Arch
from .keys import Keys
from .together import Read

# What YaRN's settings are called in a config.
_YARN = {"factor": "factor", "original_context_length": "original_max_position_embeddings",
         "yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow"}  # fmt: skip


def arch_of(keys: Keys) -> Arch:
    """The table's row of a file's architecture. Raises FormatError: it has none."""
    found = ARCHS.get(keys.name) if isinstance(keys.name, str) else None
    if found is None:
        raise keys.bad(f"unknown general.architecture {show(keys.name)}: expected one of "
                       f"{', '.join(sorted(ARCHS))}")  # fmt: skip
    return found


def config(
    keys: Keys, arch: Arch, names: Collection[str], vocab: int, read: Read
) -> dict[str, Any]:
    """The fields that the architecture's family reads.

    Args:
        keys: of the file.
        arch: its architecture.
        names: of its tensors.
        vocab: rows of its embedding.
        read: the numbers of a vector.

    Raises:
        FormatError: a key is missing, is no number, or asks for what the engine does not do.
    """
    if not keys.count("expert_count", 0):
        raise keys.bad(f"expected {keys.name}.expert_count, of a model with experts, found none")
    for key, accepted in (ONE_WAY | dict(arch.one_way)).items():
        value = keys.get(key)
        if value is not None and accepted and value not in accepted:
            raise keys.bad(f"expected {keys.name}.{key} {' or '.join(map(str, accepted))}, found "
                           f"{show(value)}: no other is done")  # fmt: skip
    for key in REQUIRED:
        if keys.get(key) is None:
            raise keys.bad(f"expected {keys.name}.{key}, found none")
    head_dim = keys.count("attention.key_length", _head_dim(keys))
    is_latent = "kv_lora_rank" in arch.fields
    if not is_latent and keys.count("attention.value_length", head_dim) != head_dim:
        raise keys.bad(f"expected {keys.name}.attention.value_length {head_dim}, as keys have it, "
                       f"found {keys.get('attention.value_length')}")  # fmt: skip
    rotary = keys.count("rope.dimension_count", head_dim)
    said = {to: value for to, key in arch.fields.items() if (value := keys.get(key)) is not None}
    n_layers = keys.n_layers
    dense = [i for i in range(min(n_layers, len(names)))
             if f"blk.{i}.ffn_gate_inp.weight" not in names]  # fmt: skip
    return {
        "model_type": arch.model_type,
        "vocab_size": vocab,
        "num_hidden_layers": n_layers,
        "tie_word_embeddings": "output.weight" not in names,
        arch.biases: any(name.endswith(".attn_q.bias") for name in names),
        "use_qk_norm": any(name.endswith(".attn_q_norm.weight") for name in names),
        "head_dim": head_dim,
        "partial_rotary_factor": rotary / head_dim if head_dim else 1.0,
        **({"mlp_only_layers": dense} if dense else {}),
        **_scaling(keys, arch),
        **_linear(keys, n_layers),
        **ABSENT,
        **arch.says,
        **said,
        **arch.together(keys, names, read),
    }


def _head_dim(keys: Keys) -> int:
    """What the absence of a key means."""
    return keys.count("embedding_length") // max(keys.count("attention.head_count"), 1)


def _scaling(keys: Keys, arch: Arch) -> dict[str, Any]:
    """`rope_scaling`, where there is any."""
    kind = keys.get("rope.scaling.type")
    factor = keys.get("rope.scaling.factor")
    if kind is None and factor not in (None, 0, 1):  # llama.cpp's is linear then
        raise keys.bad(f"expected {keys.name}.rope.scaling.type with a rope.scaling.factor, found "
                       f"the factor {show(factor)} alone")  # fmt: skip
    if kind is None or kind == "none":
        return {}
    if not TEXT.fits(kind):
        raise keys.bad(f"expected {TEXT.expected} in {keys.name}.rope.scaling.type, found "
                       f"{show(kind)}")  # fmt: skip
    found = {to: keys.get(f"rope.scaling.{key}") for key, to in _YARN.items()}
    found["llama_4_scaling_beta"] = keys.get("attention.temperature_scale")
    log = keys.get("rope.scaling.yarn_log_multiplier")  # a tenth of what configs have, as float32
    if log is not None and not is_number(log):
        raise keys.bad(f"expected a number in {keys.name}.rope.scaling.yarn_log_multiplier, found "
                       f"{show(log)}")  # fmt: skip
    if log:
        found["mscale"] = found["mscale_all_dim"] = round(10 * log, 6)
    return {"rope_scaling": {"rope_type": kind, **(arch.yarn if kind == "yarn" else {})}
            | {key: value for key, value in found.items() if value is not None}}  # fmt: skip


def _linear(keys: Keys, n_layers: int) -> dict[str, Any]:
    """What several keys say of delta nets together."""
    if keys.get("ssm.inner_size") is None:
        return {}
    values, heads = keys.count("ssm.inner_size"), keys.count("ssm.time_step_rank")
    if not heads or values % heads:
        raise keys.bad(f"expected {keys.name}.ssm.inner_size of {heads} heads of one width, found "
                       f"{values}")  # fmt: skip
    found: dict[str, Any] = {"linear_value_head_dim": values // heads}
    if is_linear := keys.array("attention.recurrent_layers"):
        kinds = ("full_attention", "linear_attention")
        found["layer_types"] = [kinds[bool(linear)] for linear in is_linear[:n_layers]]
    return found
