"""Options that several commands share, so that one name means one thing everywhere."""

from __future__ import annotations

import os
from typing import Annotated, Any, Optional

import typer

from .. import log
from ..templates import ChatOptions

# typer reads these annotations at run time, on Python 3.10 too: Optional, not `| None`.
Model = Annotated[
    Optional[str],
    typer.Option(
        "--model", "-m", envvar="MOEFLUX_MODEL",
        help="Folder, GGUF file, hub id, or demo-chat, which is in the package and talks; when not "
        "given the demo model, which cannot chat.",
    ),
]  # fmt: skip
ModelArgument = Annotated[
    Optional[str],
    typer.Argument(help="Folder, GGUF file, hub id or demo-chat; also as --model."),
]
Revision = Annotated[
    Optional[str], typer.Option(help="Branch, tag or commit of a hub id, to pin what is run.")
]
Offline = Annotated[bool, typer.Option("--offline", help="Use what is on disk; ask no hub.")]
Memory = Annotated[
    str,
    typer.Option(envvar="MOEFLUX_MEMORY", help="Bound on what the model may hold, such as 12GiB."),
]
Memories = Annotated[
    Optional[list[str]],
    typer.Option(
        "--memory", envvar="MOEFLUX_MEMORY",
        help="Bound on what the model may hold; several, also with commas: 4GiB,8GiB.",
    ),
]  # fmt: skip
CONTEXT = 8192  # as `load`
Context = Annotated[int, typer.Option(help="Tokens of prompt and answer.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", "-n", help="Tokens to write at most.")]
OFF = "as generation_config.json says, else off"
Temperature = Annotated[
    Optional[float],
    typer.Option("--temperature", "-t", help="0 is greedy.",
                 show_default="as generation_config.json says, else 0; in a chat 0.7"),
]  # fmt: skip
TopK = Annotated[
    Optional[int], typer.Option(help="Keep the k best tokens; 0 keeps all.", show_default=OFF)
]
TopP = Annotated[
    Optional[float],
    typer.Option(help="Nucleus sampling, of what top-k keeps.",
                 show_default=f"{OFF}; in a chat 0.9"),
]  # fmt: skip
MinP = Annotated[
    Optional[float], typer.Option(help="Floor relative to the best token.", show_default=OFF)
]
RepetitionPenalty = Annotated[Optional[float], typer.Option(help="1 is off.", show_default=OFF)]
Think = Annotated[
    Optional[bool],
    typer.Option(
        "--think/--no-think", help="Let the model think first; as its template does by default."
    ),
]
ChatTemplate = Annotated[
    Optional[str], typer.Option(help="chatml, or a jinja file, in place of the model's own.")
]
Reasoning = Annotated[
    str, typer.Option(help="auto: told apart from the answer; off: left in its text.")
]
Seed = Annotated[Optional[int], typer.Option(help="Of the draws.")]
Stop = Annotated[Optional[list[str]], typer.Option(help="End the text here; repeatable.")]
Device = Annotated[
    str,
    typer.Option(
        help="cpu; metal: the GPU of a Mac; auto: metal where doctor has found it right, else "
        "cpu; host: its shaders on the CPU, slow."
    ),
]
Precision = Annotated[
    str, typer.Option(help="Of products with weights: float32, bfloat16 or int8.")
]
Kv = Annotated[
    Optional[str],
    typer.Option(help="Type of the KV cache: float32, bfloat16 or int8.",
                 show_default="what the precision gives"),
]  # fmt: skip
Threads = Annotated[Optional[int], typer.Option(help="Compute threads.")]
Rows = Annotated[
    Optional[int],
    typer.Option(help="Tokens a pass of a prompt, which reads each expert once; as memory allows.",
                 show_default="as many as fit"),
]  # fmt: skip
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


def one_model(argument: str | None, option: str | None) -> str | None:
    """The model that was named, in either way. Raises FormatError for two of them."""
    from ..errors import FormatError

    if argument is not None and option is not None and option != os.environ.get("MOEFLUX_MODEL"):
        raise FormatError(f"[cli] expected one model, found {argument} and --model {option}")
    return argument if argument is not None else option


def budgets(memory: list[str] | None) -> list[str]:
    """The bounds of a repeated --memory, each of which may name several."""
    return [text for texts in memory or () for text in texts.split(",")]


def sampling(
    max_tokens: int, seed: int | None, stop: list[str] | None, **given: Any
) -> dict[str, Any]:
    """Arguments for `stream_generate`, those that were given, refused before a model is loaded.

    Raises:
        SessionError: one is out of its range.
    """
    from ..arguments import check
    from ..errors import SessionError
    from ..generation import RULES, stop_strings
    from ..sampling import SamplingParams

    check("generate", SessionError, RULES, {"max_tokens": max_tokens})
    given = {name: value for name, value in given.items() if value is not None}
    SamplingParams(**given, seed=seed)
    return {**given, "max_tokens": max_tokens, "seed": seed, "stop": stop_strings(stop)}


def completed(
    sampling: dict[str, Any], model: Any, usual: dict[str, float]
) -> tuple[dict[str, Any], str]:
    """Sampling with what the model's makers recommend, else the command's own, and a line on it."""
    own = model.tokenizer.sampling
    best = own if "temperature" in own else usual | own
    added = {name: value for name, value in best.items() if name not in sampling}
    told = ", ".join(f"{name} {value:g}" for name, value in added.items() if name in own)
    return added | sampling, told and f"[{told}: as its generation_config.json recommends]"


def chat_options(think: bool | None) -> ChatOptions:
    """What the template is given: the variable by which thinking is switched."""
    return {} if think is None else {"chat_template_kwargs": {"enable_thinking": think}}
