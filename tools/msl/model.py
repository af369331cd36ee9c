"""What the front end knows of a library: the result of parsing, the input of every writer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .tokens import Token

# Element types of bindings and their bytes; names are those of device::Type. Metal's bfloat needs
# language version 3.1, so 16-bit brain floats travel as their bit pattern: `typedef ushort bf16`.
SCALARS = {
    "float": ("f32", 4),
    "half": ("f16", 2),
    "bf16": ("bf16", 2),
    "uint": ("u32", 4),
    "int": ("i32", 4),
    "uchar": ("u8", 1),
    "ulong": ("u64", 8),  # device::Device::addresses
}
# Other types of which a threadgroup array may be.
OTHER_BYTES = {"ushort": 2, "short": 2, "char": 1, "bool": 1}

# attribute -> is it a position or size, which may be a vector?
BUILTINS = {
    "thread_position_in_grid": True,
    "threadgroup_position_in_grid": True,
    "thread_position_in_threadgroup": True,
    "threads_per_threadgroup": True,
    "threadgroups_per_grid": True,
    "threads_per_grid": True,
    "thread_index_in_threadgroup": False,
    "thread_index_in_simdgroup": False,
    "simdgroup_index_in_threadgroup": False,
    "simdgroups_per_threadgroup": False,
    "threads_per_simdgroup": False,
}

MAX_BUFFERS = 31  # Metal Feature Set Tables: buffers per compute function
MAX_THREADS = 1024  # the same: threads of a threadgroup
MAX_THREADGROUP_BYTES = 32768  # the same, family Apple4 and later


@dataclass
class Buffer:
    """A kernel parameter with [[buffer(n)]]."""

    name: str
    type: str  # as written, without qualifiers: float4
    element: str  # scalar type: float
    width: int  # scalars of one element as written: 4 for float4
    scalar: bool  # constant T&
    writable: bool
    token: Token
    elements: str | None = None  # C++ of the least element count
    aligned: str | None = None  # C++ of what an offset is a multiple of, beyond the type's size
    needs_maximum: bool = False


@dataclass
class Block:
    """A kernel parameter `constant STRUCT&`, the last of the buffers: each field is a scalar."""

    name: str
    type: str
    fields: list[Buffer]


@dataclass
class Builtin:
    """A kernel parameter that the GPU fills in."""

    name: str
    attribute: str
    width: int  # 1, 2 or 3


@dataclass
class ThreadgroupArray:
    """`threadgroup T name[N];` of a kernel, placed in the threadgroup's memory."""

    name: str
    type: str
    dimensions: str  # "[N][M]" as written, "" for one value
    nbytes: int
    offset: int  # in the host device's layout
    declared: tuple[int, int]  # its declaration: offsets in the text


@dataclass
class Constant:
    """A function constant: given by the host when a pipeline is made."""

    name: str
    index: int
    default: int
    token: Token


@dataclass
class Function:
    """A function with a body; `first`..`last` are token indices of its text."""

    name: str
    first: int
    parameters: tuple[int, int]  # ( and )
    body: tuple[int, int]  # { and }
    is_kernel: bool
    is_template: bool
    names: frozenset[str] = frozenset()  # free names that its body mentions
    called: frozenset[str] = frozenset()  # those of them that it calls


@dataclass
class Kernel:
    """One row of the kernel table."""

    name: str
    token: Token
    parameters: list[Buffer | Block | Builtin]  # in order of the parameter list
    arrays: list[ThreadgroupArray]
    constants: list[Constant]  # those that it or what it calls mentions
    synchronises: bool  # barriers or SIMD-group functions, itself or in what it calls
    docs: list[Token]
    requirements: list[tuple[str, str]] = field(default_factory=list)  # C++, text
    threadgroup: str | int = ""  # "any", "multiple of 32" or a number
    largest_threads: int | None = None  # of a threadgroup; None: what the device can
    default_grid: str | None = None  # C++
    default_threadgroup: str | None = None  # C++

    @property
    def bindings(self) -> list[Buffer]:
        """What the host gives, by buffer index; the fields of a block, one by one, are the last."""
        found: list[Buffer] = []
        for p in self.parameters:
            found += [p] if isinstance(p, Buffer) else p.fields if isinstance(p, Block) else []
        return found

    @property
    def first_field(self) -> int | None:
        """Index of the block, hence of its first field among the bindings."""
        return next((i for i, p in enumerate(self.parameters) if isinstance(p, Block)), None)

    @property
    def threadgroup_bytes(self) -> int:
        """Of all arrays; Metal counts in units of 16."""
        return sum((a.nbytes + 15) // 16 * 16 for a in self.arrays)

    @property
    def dimensions(self) -> int:
        """How many dimensions of the grid the kernel tells apart."""
        widths = [p.width for p in self.parameters if isinstance(p, Builtin)]
        return max(widths, default=1)


@dataclass(frozen=True)
class Edit:
    """Replaces text[start:end] on the way to another language; never changes the line count."""

    start: int
    end: int
    text: str


class Calls:
    """The call graph of a library; overloads of one name count as one function."""

    def __init__(self, functions: Iterable[Function]):
        self.names: dict[str, set[str]] = {}  # everything that a function's bodies mention
        self.called: dict[str, set[str]] = {}  # of that, what they call
        for function in functions:
            self.names.setdefault(function.name, set()).update(function.names)
            self.called.setdefault(function.name, set()).update(function.called)

    def callees(self, name: str) -> set[str]:
        """The functions that `name` calls, directly or not; `name` only if it is recursive."""
        reached: set[str] = set()
        todo = [n for n in self.called[name] if n in self.names]
        while todo:
            current = todo.pop()
            if current not in reached:
                reached.add(current)
                todo += [n for n in self.called[current] if n in self.names]
        return reached

    def mentioned(self, name: str) -> set[str]:
        """Every name that `name` or what it calls mentions."""
        return set().union(*(self.names[n] for n in {name} | self.callees(name)))


@dataclass
class Library:
    """The parsed library."""

    text: str
    tokens: list[Token]
    functions: list[Function]
    kernels: list[Kernel]
    constants: list[Constant]
    calls: Calls
    types: list[tuple[int, int]]  # { and } of structs and enums
    edits: list[Edit]  # needed by every consumer but Metal: attributes blanked


def apply_edits(text: str, edits: list[Edit]) -> str:
    """Returns `text` with all edits done; they must not overlap."""
    out, position = [], 0
    for edit in sorted(edits, key=lambda e: (e.start, e.end)):
        assert edit.start >= position, f"overlapping edits at offset {edit.start}"
        kept = edit.text.count("\n")
        missing = text[edit.start : edit.end].count("\n") - kept
        out += [text[position : edit.start], edit.text, "\n" * missing]
        position = edit.end
    return "".join(out) + text[position:]
