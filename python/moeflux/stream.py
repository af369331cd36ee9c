"""`generate` and `stream_generate`: prompt in, text out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, Any, ParamSpec, TypedDict

from . import log
from .arguments import TEXT, Rule, check, instance, one_of, optional, token_ids
from .drafting import DRAFTERS, Draft
from .errors import SessionError
from .generation import RULES as GENERATION_RULES
from .generation import Generation, Part, stop_strings
from .model import Model
from .routing import Routing
from .sampling import SamplingParams
from .session import Session
from .stepping import RULES as SESSION_RULES
from .stepping import capture_names
from .templates import ChatOptions, check_options

if TYPE_CHECKING:
    from typing_extensions import Unpack

P = ParamSpec("P")

RULES = GENERATION_RULES | {
    "model": instance("a Model", Model),
    "session": optional(instance("a Session", Session)),
    "routing": SESSION_RULES["routing"],
    "draft": optional(one_of(tuple(DRAFTERS))),
    "progress": optional(Rule("a function", callable)),
    "cancel": optional(Rule("a function", callable)),
}


class GenerateOptions(TypedDict, total=False):
    """Arguments of `stream_generate` that `Conversation.reply` hands on."""

    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    logit_bias: Mapping[int, float] | None
    seed: int | None
    stop: str | Iterable[str] | None
    top_logprobs: int
    draft: str | None


class Watch:
    """Who follows a generation, and may end it.

    Args:
        model: whose passes a prompt goes through.
        progress: see `stream_generate`, as `cancel`.
    """

    def __init__(
        self,
        model: Model,
        progress: Callable[[int, int], object] | None,
        cancel: Callable[[], bool] | None,
    ) -> None:
        self._chunk, self._rows = model.chunk, model.rows // model.chunk * model.chunk
        self._progress, self._cancel = progress, cancel
        self._ends = False

    def is_cancelled(self) -> bool:
        """Whether it is to end; asks until it is."""
        self._ends = self._ends or (self._cancel is not None and bool(self._cancel()))
        return self._ends

    def told(self, done: int, total: int) -> None:
        """Tells how many of the prompt's tokens are done."""
        if self._progress is not None:
            self._progress(done, total)

    def pieces(self, position: int, ids: list[int], whole: bool = False) -> Iterator[list[int]]:
        """A prompt in the passes that it takes anyway, so that no bit changes; or whole.

        Each is done when the next is asked for. Ends early when it is cancelled.
        """
        whole = whole or (self._progress is None and self._cancel is None)
        done = 0
        while done < len(ids) and not self.is_cancelled():
            n = len(ids) if whole else self._rows - (position + done) % self._chunk
            yield ids[done : done + n]
            done = min(done + n, len(ids))
            self.told(done, len(ids))


def stream_generate(
    model: Model,
    prompt: str | Sequence[int] | None = None,
    *,
    messages: Iterable[Mapping[str, Any]] | None = None,
    max_tokens: int = 256,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    logit_bias: Mapping[int, float] | None = None,
    seed: int | None = None,
    stop: str | Iterable[str] | None = None,
    top_logprobs: int = 0,
    session: Session | None = None,
    history: Iterable[int] = (),
    capture: Iterable[str] | None = None,
    routing: Routing | None = None,
    draft: str | None = None,
    progress: Callable[[int, int], object] | None = None,
    cancel: Callable[[], bool] | None = None,
    **chat: Unpack[ChatOptions],
) -> Iterator[Part]:
    """Generates part by part.

    Args:
        model: from `load`.
        prompt: text or token ids. Either this or `messages`.
        messages: a chat, rendered by the checkpoint's template.
        max_tokens: stop after this many.
        temperature: 0 is greedy. See SamplingParams for this and the next six.
        top_k: keep the k best tokens.
        top_p: nucleus sampling.
        min_p: relative probability floor.
        repetition_penalty: 1 is off.
        logit_bias: by token id.
        seed: of the draws.
        stop: a string or strings that end the text; they are not part of it.
        top_logprobs: how many alternatives to report a token.
        session: continue this one instead of a new one. It holds the prompt and every token of a
            part, however the generation ends (and so stops where the context is full). An empty
            prompt goes on after the last token that was stepped or shown.
        history: tokens that `session` holds, for the repetition penalty to see.
        capture: any of "router", "experts", "hidden", for `Part.captured`.
        routing: an override of the router's choice, for a new session.
        draft: "ngram" guesses that what followed the last tokens earlier in the text follows again,
            and computes the guess in the same pass; on the CPU. No bit of the result changes. It
            saves passes where a text repeats itself; guesses that take more time than they save
            are left out.
        progress: called with the number of the prompt's tokens done and their total after each
            pass; with `capture` once.
        cancel: asked before each pass of the prompt and each token: True ends the generation, with
            finish_reason "cancelled". `Model.abort` does not wait for the end of a pass.
        chat: what the chat template is given beside `messages`; see `ChatOptions`.

    Yields:
        Parts; the last one has a finish_reason.

    Raises:
        SessionError: an empty prompt with nothing to go on from, one past the context, or bad
            parameters.
        IoError: an expert could not be read.
        Interrupted: `Model.abort` was called since this was.

    Example:
        >>> model = load(memory="24MiB", context=512)
        >>> for part in stream_generate(model, "def main(", max_tokens=8):
        ...     print(part.text, end="")
    """
    check("generate", SessionError, RULES, locals())
    aborts_before = model._native.aborts
    params = SamplingParams(temperature, top_k, top_p, min_p, repetition_penalty,
                            {} if logit_bias is None else logit_bias, seed)  # fmt: skip
    stops, names = stop_strings(stop), _captures(capture, draft)
    seen = token_ids(history, "history").tolist()
    for name, tokens in (("logit_bias", params.logit_bias), ("history", seen)):
        if tokens and max(tokens) >= model.vocab_size:
            raise SessionError(f"[generate] {name}: expected token ids below {model.vocab_size}, "
                               f"found {max(tokens)}")  # fmt: skip
    _check_session(model, session, routing)
    goes_on = session is not None and session._logits is not None
    ids = _encode(model, prompt, messages, chat, goes_on)
    extra = session is None  # a session that ends here need not hold the last token
    session = session or model.session(routing=routing)
    room = session.context - session.position
    if len(ids) > room:
        raise SessionError(f"[generate] a prompt of {len(ids)} tokens does not fit the context of "
                           f"{session.context} (at {session.position}); "
                           f"load with a larger context=")  # fmt: skip
    generation = Generation(model.tokenizer, params, stop=stops, seen=seen + ids,
                            max_tokens=min(int(max_tokens), room - len(ids) + extra),
                            top_logprobs=top_logprobs)  # fmt: skip
    watch = Watch(model, progress, cancel)
    return _stream(model, session, ids, names, generation, watch, aborts_before,
                   Draft(draft, model._native, seen + ids) if draft else None)  # fmt: skip


def _captures(capture: Iterable[str] | None, draft: str | None) -> list[str]:
    names = capture_names(capture)
    if draft is not None and names:
        raise SessionError("[generate] expected either `draft` or `capture`")
    return names


def _check_session(model: Model, session: Session | None, routing: Routing | None) -> None:
    if session is not None and routing is not None:
        raise SessionError("[generate] expected either a session or routing: a session has its own")
    if session is not None and session._native.model is not model._native:
        raise SessionError("[generate] expected a session of this model, found another model's")


def _encode(
    model: Model, prompt: Any, messages: Any, chat: ChatOptions, goes_on: bool
) -> list[int]:
    """Token ids of the prompt or chat; none only where the session can go on without."""
    check_options(chat, "generate")
    if (prompt is None) == (messages is None) or (chat and messages is None):
        raise SessionError("[generate] expected either a prompt or messages")
    if messages is not None:
        ids = model.tokenizer.encode_chat(messages, **chat)
    elif isinstance(prompt, str):
        check("generate", SessionError, {"prompt": TEXT}, {"prompt": prompt})
        ids = [] if goes_on and not prompt else model.tokenizer.encode(prompt)
    else:
        ids = token_ids(prompt, "prompt").tolist()
    if not ids and not goes_on:
        raise SessionError("[generate] the prompt is empty: expected at least one token, or a "
                           "session that was stepped last")  # fmt: skip
    return ids


def _stream(
    model: Model,
    session: Session,
    ids: list[int],
    capture: list[str],
    generation: Generation,
    watch: Watch,
    aborts_before: int,
    draft: Draft | None,
) -> Iterator[Part]:
    with log.reads_of(model):
        log.length(model, session.position + len(ids))
        found = None
        for piece in watch.pieces(session.position, ids, bool(capture)):
            found = session._step(piece, capture, aborts_before)
        while generation.closing is None and not watch.is_cancelled():
            if found is None and draft is not None:
                found = draft.next(session, aborts_before, generation.left)
            found = found or session._go_on(capture, aborts_before)
            part = generation.take(found["logits"], found if capture else None)
            found = None
            if part is not None and part.token is not None:
                (draft.show if draft else Session._show)(session, part.token)
                log.length(model, session.position)
                yield part
        yield generation.cancel()


def _whole(stream: Callable[P, Iterator[Part]]) -> Callable[P, str]:
    @wraps(stream)  # with its arguments
    def whole(*args: P.args, **kwargs: P.kwargs) -> str:
        return "".join(part.text for part in stream(*args, **kwargs))

    told: Any = whole
    told.__name__ = told.__qualname__ = "generate"
    told.__doc__ = "The whole text of a generation; arguments as for `stream_generate`."
    told.__signature__ = signature(stream).replace(return_annotation="str")
    return whole


generate = _whole(stream_generate)
