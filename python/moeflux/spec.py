"""A model as data: what its layers hold and where the bytes lie, described once for all readers.

A family builds a `Spec`; the core reads its `tree`; packing, planning and reports ask its methods.
Matrices are [out, columns]; offsets and sizes are in bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from typing import Any, ClassVar

from . import formats
from .packed import PART_ALIGNMENT, Part, record_bytes, round_up
from .safetensors_header import Tensor
from .stored import ExpertMatrix as ExpertMatrix
from .stored import Matrix as Matrix
from .stored import Range as Range
from .stored import Rows as Rows
from .stored import Shape as Shape
from .stored import Slices as Slices
from .stored import Vector as Vector


@dataclass(frozen=True)
class Attention:
    """Grouped-query attention.

    Attributes:
        gate: multiplies the output through a sigmoid.
        whole_norms: `q_norm` and `k_norm` are over all heads at once, not over each.
        window: positions that a query sees, its own among them; 0 for all before it.
        sinks: (n_heads) what joins each softmax as the score of no value.
        v: None where values are what `k` makes, before its norm and rotation.
        scale: of scores; 0 is 1 / sqrt(head_dim).
        value_norm: each head's values have a norm without weights.
        post_norm: (d_model) of what `o` makes.
        inv_freq: (rotary_dim / 2) radians a position, where they are not the model's.
    """

    kind: ClassVar[str] = "attention"
    q: Matrix
    k: Matrix
    v: Matrix | None
    o: Matrix
    gate: Matrix | None
    q_norm: Vector | None
    k_norm: Vector | None
    n_heads: int
    n_kv_heads: int
    head_dim: int
    rotary_dim: int
    rope_scale: float
    whole_norms: bool = False
    window: int = 0
    sinks: Vector | None = None
    scale: float = 0.0
    value_norm: bool = False
    post_norm: Vector | None = None
    inv_freq: list[float] | None = None


@dataclass(frozen=True)
class DeltaNet:
    """A gated delta net."""

    kind: ClassVar[str] = "delta_net"
    qkv: Matrix
    z: Matrix
    b: Matrix
    a: Matrix
    out: Matrix
    conv: Vector
    a_log: Vector
    dt_bias: Vector
    out_norm: Vector
    n_key_heads: int
    n_value_heads: int
    key_dim: int
    value_dim: int
    conv_width: int


@dataclass(frozen=True)
class Mla:
    """Latent attention.

    Attributes:
        q_a, q_norm: what queries are made of by `q_b`; None where that takes the layer's input.
        kv_a: makes the latent (rank) and one key (rope_dim) for all heads, which is rotated.
        kv_b: (n_heads, nope_dim + value_dim, rank) each head's key and value of a latent.
        scale: of scores.
        norm_eps: of `q_norm` and `kv_norm`.
        query_growth, query_step: a query at position p is multiplied by
            1 + query_growth * log(1 + floor(p / query_step)); a step of 0 is none.
    """

    kind: ClassVar[str] = "mla"
    q_a: Matrix | None
    q_norm: Vector | None
    q_b: Matrix
    kv_a: Matrix
    kv_norm: Vector
    kv_b: Vector
    o: Matrix
    n_heads: int
    rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    rope_scale: float
    scale: float
    norm_eps: float
    query_growth: float = 0.0
    query_step: int = 0


@dataclass(frozen=True)
class GatedConvolution:
    """A convolution over positions, by channel, between two gates.

    Attributes:
        inputs: makes [b | c | u]; the convolution is of b * u, its result is multiplied by c.
        conv: (d_model, conv_width), the last of them for the position itself.
    """

    kind: ClassVar[str] = "gated_convolution"
    inputs: Matrix
    out: Matrix
    conv: Vector
    conv_bias: Vector | None
    conv_width: int


Mixer = Attention | DeltaNet | Mla | GatedConvolution


@dataclass(frozen=True)
class Glu:
    """What is between gate, up and down: g * sigmoid(alpha * g) * (u + up_add); SwiGLU as it is.

    Attributes:
        unit: "silu" is that, "gelu" is gelu(g) * u in the form with tanh.
        limit: g is at most that, u within that on both sides; 0 is none.
        interleaved: the rows of `gate` are in turns those of gate and of up, and `up` is None.
    """

    limit: float = 0.0
    alpha: float = 1.0
    up_add: float = 0.0
    interleaved: bool = False
    unit: str = "silu"


@dataclass(frozen=True, kw_only=True)
class GatedFfn(Glu):
    """A resident gated network: a dense layer's or a shared expert."""

    kind: ClassVar[str] = "dense"
    gate: Matrix
    up: Matrix
    down: Matrix


@dataclass(frozen=True, kw_only=True)
class Experts(Glu):
    """The experts of a layer, which are read on demand.

    Attributes:
        stack: the module of MLX's stacks of them, beside the router's.
    """

    gate: ExpertMatrix
    up: ExpertMatrix | None
    down: ExpertMatrix
    stack: str = "switch_mlp"

    @property
    def matrices(self) -> list[ExpertMatrix]:
        """Those that there are, in the order of a slot."""
        return [matrix for matrix in (self.gate, self.up, self.down) if matrix]

    @cached_property
    def parts(self) -> dict[Part, Slices]:
        """The tensors of an expert as a record and a slot hold them, and where they lie."""
        found: dict[Part, Slices] = {}
        end = 0
        for matrix in self.matrices:
            for name, stored in matrix.tensors.items():
                offset = round_up(end, PART_ALIGNMENT)
                blocks = matrix.format if matrix.format in formats.BLOCKS else ""
                part = Part(f"{matrix.module}.{name}", stored.dtype, stored.shape(matrix.out),
                            offset, blocks)  # fmt: skip
                found[part] = getattr(matrix, name)
                end = offset + part.nbytes
        return found

    @property
    def n_experts(self) -> int:
        """Experts of the layer."""
        return len(self.gate.weight.files)

    @property
    def nbytes(self) -> int:
        """Bytes of one expert's weights."""
        return sum(part.nbytes for part in self.parts)

    @property
    def record_bytes(self) -> int:
        """Bytes of a record: an expert with what aligns it."""
        return record_bytes(list(self.parts))

    def ranges(self, expert: int) -> Iterator[tuple[Part, Range]]:
        """Where the parts of one expert lie."""
        for part, (files, offsets, nbytes) in self.parts.items():
            yield part, Range(int(files[expert]), int(offsets[expert]), nbytes)


@dataclass(frozen=True)
class Moe:
    """Routed experts, a shared one, and how the router chooses and weighs, in steps.

    Attributes:
        gate_bias, up_bias, down_bias: (n_experts * out) biases of the experts' matrices, which stay
            in memory.
        score: "softmax" over all experts' logits, or the "sigmoid" of each.
        selection_bias: added to the scores, for the choice alone.
        n_groups: of consecutive experts. A group is worth the sum of its two best; the `top_groups`
            best are chosen among.
        normalise: weights, the scores of the chosen, are divided by their sum plus `sum_eps`. This
            makes of a softmax one over the chosen alone.
        scale: multiplies the weights; not the shared expert.
        expert_scale: (n_experts) multiplies the weight of each.
        router_norm: (d_model) what the router sees is the residual under a norm of its own, as are
            what `shared` sees (`shared_norm`), what it gives (`shared_out_norm`), the sum of the
            experts (`routed_norm`) and that of both (`combined_norm`): all of them, or none.
        layer_scale: (1) multiplies what the layer gives, with these norms.
    """

    kind: ClassVar[str] = "moe"
    router: Matrix
    n_experts: int
    top_k: int
    normalise: bool
    experts: Experts
    shared: GatedFfn | None = None
    shared_gate: Matrix | None = None
    score: str = "softmax"
    gate_bias: Vector | None = None
    up_bias: Vector | None = None
    down_bias: Vector | None = None
    selection_bias: Vector | None = None
    n_groups: int = 1
    top_groups: int = 1
    sum_eps: float = 0.0
    scale: float = 1.0
    expert_scale: Vector | None = None
    router_norm: Vector | None = None
    shared_norm: Vector | None = None
    shared_out_norm: Vector | None = None
    routed_norm: Vector | None = None
    combined_norm: Vector | None = None
    layer_scale: Vector | None = None


@dataclass(frozen=True)
class Layer:
    """A layer: x += mixer(norm(x)), then x += ffn(ffn_norm(x))."""

    norm: Vector
    mixer: Mixer
    ffn_norm: Vector
    ffn: Moe | GatedFfn


@dataclass(frozen=True)
class Spec:
    """A whole model.

    Attributes:
        chunk: rows of a prompt that go through the layers together.
        inv_freq: (rotary_dim / 2) radians a position.
        positions: tokens of a text that the model was made for; 0 when unknown.
        head: None where the embedding serves as output matrix.
        embed_scale: a number that multiplies what the embedding gives.
        softcap: logits are softcap * tanh(logits / softcap); 0 is none.
    """

    vocab: int
    d_model: int
    eps: float
    chunk: int
    embed: Matrix
    final_norm: Vector
    inv_freq: list[float]
    positions: int
    layers: list[Layer]
    head: Matrix | None = None
    embed_scale: list[float] | None = None
    softcap: float = 0.0

    @property
    def moes(self) -> list[Moe]:
        """Those of the layers that have experts, in order."""
        return [layer.ffn for layer in self.layers if isinstance(layer.ffn, Moe)]

    @property
    def resident(self) -> list[Tensor]:
        """The tensors that stay in memory, by name, each once."""
        return [tensor for _, tensor in sorted(_tensors(self))]

    @property
    def token_bytes(self) -> int:
        """Bytes of resident weights that a token goes through."""
        skipped = set(_tensors(self.embed)) if self.head else set()  # it touches one row
        return sum(tensor.nbytes for name, tensor in _tensors(self) - skipped)


def _tensors(node: Any) -> set[tuple[str, Tensor]]:
    """Name and tensor of all that is resident in a part of a spec."""
    if isinstance(node, Tensor):
        return {(node.name, node)}
    if is_dataclass(node):
        node = [] if isinstance(node, Experts) else list(vars(node).values())
    return set().union(*map(_tensors, node)) if isinstance(node, list) else set()


# Fields of a layer that hold one of several kinds.
_ALTERNATIVES = ("mixer", "ffn")


def tree(node: Any) -> Any:
    """A part of a spec as dicts and lists, for the core. What is None is left out.

    A mixer or ffn of the kind K is under K, and the field says K. The columns of a matrix are
    called `in`.
    """
    if isinstance(node, Tensor):
        return node.name, node.file, node.offset, node.nbytes, node.dtype
    if isinstance(node, list):
        return [tree(item) for item in node]
    if not is_dataclass(node):
        return node
    if isinstance(node, Vector) and node.numbers is not None:
        return (node.numbers.reshape(-1) * node.mul + node.add).tolist()
    out: dict[str, Any] = {}
    for own in fields(node):
        key, value = own.name, getattr(node, own.name)
        if key in _ALTERNATIVES:
            out[key] = value.kind
            key = value.kind
        if value is not None:
            out["in" if key == "columns" else key] = tree(value)
    return out
