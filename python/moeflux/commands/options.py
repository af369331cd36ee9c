"""Options that several commands share, so that one name means one thing everywhere."""

from __future__ import annotations

from typing import Annotated, Any, Optional

import typer

from .. import log

# typer reads these annotations at run time, on Python 3.10 too: Optional, not `| None`.
Model = Annotated[
    Optional[str],
    typer.Option(
        "--model", "-m", envvar="MOEFLUX_MODEL",
        help="Folder or hub id; the demo model, which cannot chat, when not given.",
    ),
]  # fmt: skip
ModelArgument = Annotated[
    Optional[str],
    typer.Argument(envvar="MOEFLUX_MODEL", help="Folder or hub id; the demo model without it."),
]
Revision = Annotated[
    Optional[str], typer.Option(help="Branch, tag or commit of a hub id, to pin what is run.")
]
Offline = Annotated[bool, typer.Option("--offline", help="Use what is on disk; ask no hub.")]
Memory = Annotated[
    str,
    typer.Option(envvar="MOEFLUX_MEMORY", help="Bound on what the model may hold, such as 12GiB."),
]
Context = Annotated[int, typer.Option(help="Tokens of prompt and answer.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", "-n", help="Tokens to write at most.")]
Temperature = Annotated[float, typer.Option("--temperature", "-t", help="0 is greedy.")]
TopK = Annotated[int, typer.Option(help="Keep the k best tokens; 0 keeps all.")]
TopP = Annotated[float, typer.Option(help="Nucleus sampling, of what top-k keeps.")]
MinP = Annotated[float, typer.Option(help="Floor relative to the best token.")]
RepetitionPenalty = Annotated[float, typer.Option(help="1 is off.")]
Seed = Annotated[Optional[int], typer.Option(help="Of the draws.")]
Stop = Annotated[Optional[list[str]], typer.Option(help="End the text here; repeatable.")]
Device = Annotated[
    str,
    typer.Option(
        help="cpu; metal: the GPU of a Mac; auto: metal where there is one, else cpu; host: its "
        "shaders on the CPU, slow."
    ),
]
Precision = Annotated[
    str, typer.Option(help="Of products with weights: float32, bfloat16 or int8.")
]
Threads = Annotated[Optional[int], typer.Option(help="Compute threads.")]
ReadAhead = Annotated[
    bool, typer.Option(help="Read what the next layer is guessed to need, while the disk is idle.")
]


def _listen(verbose: bool) -> None:
    if verbose:
        log.to_stderr()


Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", callback=_listen, help="Tell what is done, on standard error."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def sampling(
    max_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    repetition_penalty: float,
    seed: int | None,
    stop: list[str] | None,
) -> dict[str, Any]:
    """Arguments for `stream_generate`, refused before a model is loaded for them.

    Raises:
        SessionError: one is out of its range.
    """
    from ..arguments import check
    from ..errors import SessionError
    from ..generation import RULES, stop_strings
    from ..sampling import SamplingParams

    check("generate", SessionError, RULES, {"max_tokens": max_tokens})
    SamplingParams(temperature, top_k, top_p, min_p, repetition_penalty, seed=seed)
    return {
        "max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p,
        "min_p": min_p, "repetition_penalty": repetition_penalty, "seed": seed,
        "stop": stop_strings(stop),
    }  # fmt: skip
