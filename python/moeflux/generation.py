"""`generate` and `stream_generate`: prompt in, text out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import log
from .arguments import TEXT, check, instance, integer, listed, optional
from .errors import SessionError
from .model import Model
from .routing import Routing
from .sampling import Sampler, SamplingParams, largest, log_softmax
from .session import RULES as SESSION_RULES
from .session import Session, capture_names, token_ids

RULES = {
    "model": instance("a Model", Model),
    "max_tokens": integer(0),
    "top_logprobs": integer(0),
    "session": optional(instance("a Session", Session)),
    "routing": SESSION_RULES["routing"],
}


@dataclass(frozen=True)
class Part:
    """One step of a generation.

    Attributes:
        text: what can be shown now; empty while a character is incomplete.
        token: the id, or None for the closing part.
        logprob: natural log of the token's probability before temperature and filters.
        top: the `top_logprobs` most probable (id, logprob), best first.
        finish_reason: None, "eos", "stop" or "length"; set on the last part only.
        captured: with `capture`, what the step saw that chose this part's token, as `Session.step`
            returns it: over the prompt's tokens in the first part, then over the token of the part
            before. A closing "eos" part has the step that chose the end.
    """

    text: str
    token: int | None = None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    finish_reason: str | None = None
    captured: dict[str, Any] | None = None


class _StopStrings:
    """Holds back text that may be the beginning of a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """(text to show, whether a stop string has been met)."""
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            out, self._held = self._held[: min(found)], ""
            return out, True
        keep = max((self._overlap(stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        out, self._held = self._held[:cut], self._held[cut:]
        return out, False

    def finish(self) -> str:
        return self._held

    def _overlap(self, stop: str) -> int:
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)


def stream_generate(
    model: Model,
    prompt: str | Sequence[int] | None = None,
    *,
    messages: list[dict[str, str]] | None = None,
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

    Yields:
        Parts; the last one has a finish_reason.

    Raises:
        SessionError: an empty prompt with nothing to go on from, one past the context, or bad
            parameters.

    Example:
        >>> model = load(memory="24MiB", context=512)
        >>> for part in stream_generate(model, "def main(", max_tokens=8):
        ...     print(part.text, end="")
    """
    check("generate", SessionError, RULES, locals())
    params = SamplingParams(temperature, top_k, top_p, min_p, repetition_penalty,
                            {} if logit_bias is None else logit_bias, seed)  # fmt: skip
    stops = stop_strings(stop)
    names = capture_names(capture)
    seen = token_ids(history, "history").tolist()
    for name, tokens in (("logit_bias", params.logit_bias), ("history", seen)):
        if tokens and max(tokens) >= model.vocab_size:
            raise SessionError(f"[generate] {name}: expected token ids below {model.vocab_size}, "
                               f"found {max(tokens)}")  # fmt: skip
    if (prompt is None) == (messages is None):
        raise SessionError("[generate] expected either a prompt or messages")
    if session is not None and routing is not None:
        raise SessionError("[generate] expected either a session or routing: a session has its own")
    if session is not None and session._native.model is not model._native:
        raise SessionError("[generate] expected a session of this model, found another model's")
    goes_on = session is not None and session._logits is not None
    ids = [] if goes_on and prompt == "" else _encode(model, prompt, messages)
    if not ids and not goes_on:
        raise SessionError("[generate] the prompt is empty: expected at least one token, or a "
                           "session that was stepped last")  # fmt: skip
    extra = session is None  # a session that ends here need not hold the last token
    session = session or model.session(routing=routing)
    room = session.context - session.position
    if len(ids) > room:
        raise SessionError(f"[generate] a prompt of {len(ids)} tokens does not fit the context of "
                           f"{session.context} (at {session.position}); "
                           f"load with a larger context=")  # fmt: skip
    n_steps = min(int(max_tokens), room - len(ids) + extra)
    parts = _stream(model, session, ids, seen, params, n_steps, stops, int(top_logprobs), names)
    return _told(model, parts)


def _told(model: Model, parts: Iterator[Part]) -> Iterator[Part]:
    with log.reads_of(model):
        yield from parts


def stop_strings(stop: str | Iterable[str] | None) -> list[str]:
    """Stop strings as a list; None is none of them. Raises SessionError for what is no text."""
    if stop is None:
        return []
    stops: list[Any] = [stop]
    if not isinstance(stop, str):
        stops = listed("generate", SessionError, "stop", "None, a string or strings", stop)
    for text in stops:
        check("generate", SessionError, {"stop": TEXT}, {"stop": text})
    return stops


def _encode(model: Model, prompt: Any, messages: list[dict[str, str]] | None) -> list[int]:
    if messages is not None:
        text = model.tokenizer.apply_template(messages)
        ids = model.tokenizer.encode(text, add_special_tokens=False)
    elif isinstance(prompt, str):
        check("generate", SessionError, {"prompt": TEXT}, {"prompt": prompt})
        ids = model.tokenizer.encode(prompt)
    else:
        ids = token_ids(prompt, "prompt").tolist()
    return ids


def _stream(
    model: Model,
    session: Session,
    ids: list[int],
    history: list[int],
    params: SamplingParams,
    n_steps: int,
    stop: list[str],
    top_logprobs: int,
    capture: list[str],
) -> Iterator[Part]:
    sampler = Sampler(params)
    stream = model.tokenizer.stream()
    stops = _StopStrings(stop)
    eos = model.tokenizer.eos_ids
    seen, reason, captured = history + ids, "length", None
    log.length(model, session.position + len(ids))
    found = session._step(session._item(ids), False, capture) if ids else None
    for _ in range(n_steps):
        found = found or session._go_on(capture)
        captured = found if capture else None
        adjusted, found = sampler.adjust(found["logits"], seen), None
        token = sampler.choose(adjusted)
        logprobs = log_softmax(adjusted)
        if token in eos:
            reason = "eos"
            break
        best = largest(logprobs, top_logprobs)[:top_logprobs] if top_logprobs else ()
        text, stopped = stops.push(stream.push(token))
        seen.append(token)
        session._show(token)
        log.length(model, session.position)
        yield Part(text, token, float(logprobs[token]),
                   tuple((int(i), float(logprobs[i])) for i in best),
                   captured=captured)  # fmt: skip
        if stopped:
            yield Part("", finish_reason="stop")
            return
    tail, stopped = stops.push(stream.finish())
    text = tail if stopped else tail + stops.finish()
    yield Part(text, finish_reason="stop" if stopped else reason,
               captured=captured if reason == "eos" else None)  # fmt: skip


def generate(model: Model, prompt: str | Sequence[int] | None = None, **options: Any) -> str:
    """The whole text of a generation; arguments as for `stream_generate`."""
    return "".join(part.text for part in stream_generate(model, prompt, **options))
