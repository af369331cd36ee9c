"""The project's oracle: tiny checkpoints and what they must compute, in numpy alone.

    from oracle import Reference, build
    folder = build(tmp_path / "m", family="qwen3_next", form="mlx-q4", seed=3, num_experts=8)
    trace = Reference(folder).forward([1, 2, 3])   # float64
    trace.logits          # [T, vocab]
    trace.hidden[i]       # [T, hidden] after layer i
    trace.expert_ids[i]   # [T, top_k] ascending, for each MoE layer i
    trace.expert_weights[i], trace.router_logits[i]

`build` takes any text-config field as a keyword; `writer.parse_form` lists the forms. Values depend
only on (seed, tensor name, shape). `goldens.load(name)` gives a stored golden of transformers and
mlx-lm, `goldens.CASES` how its checkpoint is built. Needs numpy; nothing here imports moeflux.
"""

from .reference import Reference, Trace
from .writer import build, parse_form

__all__ = ["Reference", "Trace", "build", "parse_form"]
