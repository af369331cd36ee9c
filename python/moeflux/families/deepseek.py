"""What DeepSeek's descendants share: latent attention (MLA), and networks of groups of experts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from .. import spec
from ..checkpoint import Checkpoint
from . import builder, stack
from .builder import MoeNames, Tensors
from .config import MAX_EACH, MAX_HEAD_DIM, Config
from .config import ONE_WAY as EVERYWHERE
from .rope import Rope, rope

# Fields of such configs, and the values that mean what the engine does.
ONE_WAY = EVERYWHERE | {
    "attention_bias": (False,),
    "moe_layer_freq": (1,),
    "rope_interleave": (True,),
    "scoring_func": ("sigmoid",),
    "topk_method": ("noaux_tc",),
}
_NAMES = MoeNames(selection_bias="gate.e_score_correction_bias", n_experts="n_routed_experts")
_NORM_EPS = 1e-6  # transformers': of the norms inside, whatever rms_norm_eps says


class LatentHeads:
    """What all layers' latent attention has in common.

    Args:
        config: of the family.
        whole: the config's part of a head that is rotated is one of its whole width.
        own: settings of the rotation that the family reads itself.

    Attributes:
        rope: what rotates a part of queries and the one key of all heads.
    """

    def __init__(self, config: Config, whole: bool = False, own: tuple[str, ...] = ()) -> None:
        self.n_heads = config.count("num_attention_heads", most=MAX_EACH)
        if config.count("num_key_value_heads", self.n_heads, most=MAX_EACH) != self.n_heads:
            raise config.bad(f"expected num_key_value_heads {self.n_heads}, as there are heads, "
                             f"found {config.values['num_key_value_heads']}")  # fmt: skip
        has_rank = config.values.get("q_lora_rank") is not None
        self.query_rank = config.count("q_lora_rank") if has_rank else 0
        self.rank, self.nope_dim, self.rope_dim, self.value_dim = (
            config.count(key, most=MAX_HEAD_DIM)
            for key in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
        )
        head = self.nope_dim + self.rope_dim
        part = self.rope_dim / head if whole else 1.0
        self.rope: Rope = rope(config, head if whole else self.rope_dim, part, 0.0, own)
        if self.rope.rotary_dim != self.rope_dim:
            raise config.bad(f"expected a rotation of qk_rope_head_dim {self.rope_dim}, found one "
                             f"of {self.rope.rotary_dim}")  # fmt: skip
        self.scale = head**-0.5 * _yarn(config) ** 2

    def mixer(self, tensors: Tensors) -> Callable[[int, str], spec.Mla]:
        """What makes the attention of a layer of its number and name."""
        return lambda _, layer: self._attention(tensors, f"{layer}.self_attn")

    def _attention(self, tensors: Tensors, name: str) -> spec.Mla:
        d_model, rank, q_rank = tensors.d_model, self.rank, self.query_rank
        rows = self.n_heads * (self.nope_dim + self.rope_dim)
        q = "q_b_proj" if q_rank else "q_proj"
        return spec.Mla(
            q_a=tensors.matrix(f"{name}.q_a_proj", q_rank, d_model) if q_rank else None,
            q_norm=tensors.vector(f"{name}.q_a_layernorm.weight", q_rank) if q_rank else None,
            q_b=tensors.matrix(f"{name}.{q}", rows, q_rank or d_model),
            kv_a=tensors.matrix(f"{name}.kv_a_proj_with_mqa", rank + self.rope_dim, d_model),
            kv_norm=tensors.vector(f"{name}.kv_a_layernorm.weight", rank),
            kv_b=self._keys_and_values(tensors, name),
            o=tensors.matrix(f"{name}.o_proj", d_model, self.n_heads * self.value_dim),
            n_heads=self.n_heads,
            rank=rank,
            nope_dim=self.nope_dim,
            rope_dim=self.rope_dim,
            value_dim=self.value_dim,
            rope_scale=self.rope.scale,
            scale=self.scale,
            norm_eps=_NORM_EPS,
        )

    def _keys_and_values(self, tensors: Tensors, name: str) -> spec.Vector:
        """What makes keys and values of latents, a head's keys before its values.

        MLX's conversions have a matrix of each, that of the keys turned.
        """
        rows, whole = self.nope_dim + self.value_dim, f"{name}.kv_b_proj"
        if tensors.has(f"{name}.embed_q.weight"):
            parts = {f"{name}.embed_q": (self.rank, self.nope_dim, True),
                     f"{name}.unembed_out": (self.value_dim, self.rank, False)}  # fmt: skip
            return tensors.sliced(parts, self.n_heads)
        if tensors.is_packed(whole):
            return tensors.sliced({whole: (rows, self.rank, False)}, self.n_heads)
        return tensors.vector(f"{whole}.weight", self.n_heads * rows * self.rank)


def _yarn(config: Config) -> float:
    """What YaRN multiplies queries by, and keys: `mscale_all_dim`'s part of it."""
    settings = config.rotation
    weight = config.number("mscale_all_dim", 0, 0, 1e3, settings)
    if settings.get("rope_type", settings.get("type")) != "yarn" or not weight:
        return 1.0
    return 0.1 * weight * math.log(config.number("factor", None, 1.0, 1e6, settings)) + 1.0


def build_latent(checkpoint: Checkpoint, *needed: str, first: int) -> spec.Spec:
    """Maps a checkpoint of latent attention in all layers (hub layout) to the spec.

    Args:
        checkpoint: of the family.
        needed: fields whose absence means another number in each family.
        first: as for `networks`.
    """
    config = Config(checkpoint)
    config.require(ONE_WAY)
    config.need(*needed)
    config.layer_types(("full_attention",))
    tensors = Tensors(checkpoint, config)
    heads = LatentHeads(config)
    layers = stack.layers(tensors, heads.mixer(tensors), networks(tensors, first))
    return stack.trunk(tensors, layers, heads.rope, others=stack.later_layers(config))


def networks(
    tensors: Tensors, first: int = 1, score: str = "sigmoid"
) -> Callable[[int, str], spec.Moe | spec.GatedFfn]:
    """What makes the network of a layer: dense, or experts by groups and a plain shared one.

    Args:
        tensors: of the checkpoint.
        first: the first layer with experts, where the config does not say it.
        score: of the router; sigmoid ones are chosen with a bias.
    """
    config = tensors.config
    sparse = stack.sparse_layers(config, first)
    steps = builder.sigmoid_steps(config, "routed_scaling_factor") | {"score": score}
    names = _NAMES if score == "sigmoid" else replace(_NAMES, selection_bias=None)
    normalise = config.flag("norm_topk_prob", True)

    def network(index: int, layer: str) -> spec.Moe | spec.GatedFfn:
        name = f"{layer}.mlp"
        if index not in sparse:
            return builder.ffn(tensors, name, config.count("intermediate_size"))
        d_shared = config.count("n_shared_experts", 1) * config.count("moe_intermediate_size")
        shared = builder.ffn(tensors, f"{name}.shared_experts", d_shared)
        return builder.moe(tensors, name, normalise, names, (shared, None), **steps)

    return network
