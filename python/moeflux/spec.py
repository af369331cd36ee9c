"""A model as data: what its layers hold and where the bytes lie, described once for all readers.

A family builds a `Spec`; the core reads its `tree`; packing, planning and reports ask its methods.
Matrices are [out, columns]; offsets and sizes are in bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from typing import Any, ClassVar

from . import formats
from .mixers import Attention as Attention
from .mixers import DeltaNet as DeltaNet
from .mixers import GatedConvolution as GatedConvolution
from .mixers import Mamba2 as Mamba2
from .mixers import Mixer as Mixer
from .mixers import Mla as Mla
from .mixers import Nothing as Nothing
from .packed import PART_ALIGNMENT, Part, record_bytes, round_up
from .safetensors_header import Tensor
from .stored import ExpertMatrix as ExpertMatrix
from .stored import Matrix as Matrix
from .stored import Range as Range
from .stored import Rows as Rows
from .stored import Shape as Shape
from .stored import Slices as Slices
from .stored import Stack as Stack
from .stored import Vector as Vector

GLU_NAMES = ("gate_proj", "up_proj", "down_proj")  # as almost all files have them


@dataclass(frozen=True)
class Glu:
    """What is between gate, up and down: g * sigmoid(alpha * g) * (u + up_add); SwiGLU as it is.

    Attributes:
        unit: "silu" is that, "gelu" is gelu(g) * u in the form with tanh; "relu2" is max(g, 0)^2,
            and `up` is None.
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
    up: Matrix | None
    down: Matrix

    @property
    def matrices(self) -> dict[str, Matrix]:
        """Those that there are, by their names in MLX's files."""
        if self.up is None:
            return {"up_proj": self.gate, "down_proj": self.down}
        return {"gate_proj": self.gate, "up_proj": self.up, "down_proj": self.down}


@dataclass(frozen=True, kw_only=True)
class Experts(Glu):
    """The experts of a layer, which are read on demand.

    Attributes:
        stack: the module of MLX's stacks of them, beside the router's.
        stacked: the names of their matrices there.
    """

    gate: ExpertMatrix
    up: ExpertMatrix | None
    down: ExpertMatrix
    stack: str = "switch_mlp"
    stacked: list[str] = field(default_factory=lambda: list(GLU_NAMES))

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
        latent_in, latent_out: around experts that are narrower than the model: what they read, and
            what is made of their sum. The router and `shared` are as wide as the model.
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
    latent_in: Matrix | None = None
    latent_out: Matrix | None = None


@dataclass(frozen=True)
class Layer:
    """A layer: x += mixer(norm(x)), then x += ffn(ffn_norm(x)).

    What is nothing has no norm.
    """

    norm: Vector | None
    mixer: Mixer
    ffn_norm: Vector | None
    ffn: Moe | GatedFfn | Nothing


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
