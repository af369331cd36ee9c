"""Grouped-query attention of a checkpoint: one shape for all layers."""

from __future__ import annotations

from collections.abc import Callable

from .. import spec
from .builder import Tensors
from .config import MAX_EACH, MAX_HEAD_DIM, Config
from .rope import Rope


def head_dim(config: Config) -> int:
    """Channels of a head: the config's, or as many as make the heads as wide as the model."""
    equal = config.count("hidden_size") // config.count("num_attention_heads")
    return config.count("head_dim", max(equal, 1), most=MAX_HEAD_DIM)


class Heads:
    """What all layers' attention has in common.

    Args:
        config: of the family.
        rope: what rotates queries and keys; `rope.head_dim` is that of a head.
        gated: q_proj holds [query | gate] for one head after the other.
        norms: "heads" have a norm each, of queries and of keys; "whole" is a norm over all of
            them at once; None is none.
        sinks: a number a head joins its softmax.
        n_kv_heads: of keys and values, where it is not the config's number.
        keys_are_values: there is no v_proj.
        names: of the output's matrix, and of the norms of heads with `{}` for q and k.
        biased: the projections that have a bias, of "q", "k", "v" and "o"; None is all of them or
            none, as `attention_bias` says.
    """

    def __init__(
        self, config: Config, rope: Rope, *, gated: bool = False, norms: str | None = "heads",
        biased: str | None = None, sinks: bool = False,
        names: tuple[str, str] = ("o_proj", "{}_norm"), n_kv_heads: int = 0,
        keys_are_values: bool = False,
    ) -> None:  # fmt: skip
        self.head_dim, self.rope, self.gated, self.norms = rope.head_dim, rope, gated, norms
        self.sinks, self.names, self.keys_are_values = sinks, names, keys_are_values
        by_config = "qkvo" if config.flag("attention_bias", False) else ""
        self.biased = by_config if biased is None else biased
        self.n_heads = config.count("num_attention_heads", most=MAX_EACH)
        self.n_kv_heads = n_kv_heads or config.count("num_key_value_heads", self.n_heads,
                                                     most=MAX_EACH)  # fmt: skip
        if self.n_heads % self.n_kv_heads:
            raise config.bad(f"expected heads in whole groups, found {self.n_heads} heads, "
                             f"{self.n_kv_heads} kv heads")  # fmt: skip
        dim = self.head_dim
        pairs = range(0, 2 * self.n_heads * dim, 2 * dim) if gated else ()
        self._queries = [(begin, dim) for begin in pairs] or None
        self._gates = [(begin + dim, dim) for begin in pairs]

    def mixer(self, tensors: Tensors) -> Callable[[int, str], spec.Attention]:
        """What makes the attention of a layer of its number and name, the same for all layers."""
        return lambda _, layer: self.attention(tensors, f"{layer}.self_attn")

    def attention(
        self, tensors: Tensors, name: str, norm_add: float = 0.0, window: int = 0
    ) -> spec.Attention:
        """The attention of a layer whose tensors' names begin with `name`.

        Args:
            tensors: of the checkpoint.
            name: what its tensors' names begin with.
            norm_add: is added to the norms of heads.
            window: positions that a query sees; 0 for all.
        """
        d_model, whole = tensors.d_model, self.norms == "whole"
        rows, kv_rows = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        q_rows = 2 * rows if self.gated else rows

        def project(key: str, out: int, columns: int, part: spec.Rows | None = None) -> spec.Matrix:
            own = self.names[0] if key == "o" else f"{key}_proj"
            return tensors.matrix(f"{name}.{own}", out, columns, part, key in self.biased)

        def norm(key: str, whole_rows: int) -> spec.Vector | None:
            if self.norms is None:
                return None
            count = whole_rows if whole else self.head_dim
            return tensors.vector(f"{name}.{self.names[1].format(key)}.weight", count, norm_add)

        return spec.Attention(
            q=project("q", q_rows, d_model, self._queries),
            gate=project("q", q_rows, d_model, self._gates) if self.gated else None,
            k=project("k", kv_rows, d_model),
            v=None if self.keys_are_values else project("v", kv_rows, d_model),
            o=project("o", d_model, rows),
            q_norm=norm("q", rows),
            k_norm=norm("k", kv_rows),
            n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads,
            head_dim=self.head_dim,
            rotary_dim=self.rope.rotary_dim,
            rope_scale=self.rope.scale,
            whole_norms=whole,
            window=window,
            sinks=tensors.vector(f"{name}.sinks", self.n_heads) if self.sinks else None,
        )
