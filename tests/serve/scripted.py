"""`ScriptedEngine`: an Engine that says what a test has written down.

Its tokens are those of a byte-level tokenizer with ChatML's and Qwen's tokens. It keeps the jobs
that it was sent, and those that were cancelled. Grammars are kept, not followed.
"""

from __future__ import annotations

import asyncio
import functools
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from moeflux.errors import SessionError
from moeflux.serve.engine import (
    Delta,
    EngineError,
    Health,
    Job,
    ModelInfo,
    Scores,
    TokenLogprob,
    Usage,
)
from moeflux.tokenizer import Tokenizer
from oracle.tokenizer_file import write_tokenizer

TOKENS = {
    "<|im_start|>": True,
    "<tool_call>": False,
    "</tool_call>": False,
    "<think>": False,
    "</think>": False,
}
TEMPLATE = """
{%- if tools %}
{{- '<|im_start|>system\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\n\n' }}{%- endif %}
{{- '# Tools\n' }}
{%- for tool in tools %}{{- tool | tojson }}{{- '\n' }}{%- endfor %}
{{- 'Write <tool_call>\n{"name": ..., "arguments": ...}\n</tool_call><|im_end|>\n' }}
{%- elif messages[0].role == 'system' %}
{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'user' %}
{{- '<|im_start|>user\n' + message.content + '<|im_end|>\n' }}
{%- elif message.role == 'assistant' %}
{{- '<|im_start|>assistant\n' }}
{%- if message.reasoning_content %}
{{- '<think>\n' + message.reasoning_content + '\n</think>\n\n' }}{%- endif %}
{{- message.content }}
{%- for call in message.tool_calls or [] %}
{{- '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
{%- if call.function.arguments is string %}{{- call.function.arguments }}
{%- else %}{{- call.function.arguments | tojson }}{%- endif %}
{{- '}\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\n' }}
{%- elif message.role == 'tool' %}
{{- '<|im_start|>user\n<tool_response>\n' + message.content + '\n</tool_response><|im_end|>\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}
{{- '<think>\n\n</think>\n\n' }}{%- endif %}
{%- endif %}
"""


@functools.cache
def tokenizer(template: str = TEMPLATE) -> Tokenizer:
    """A tokenizer of bytes with a chat template."""
    folder = Path(tempfile.mkdtemp())
    write_tokenizer(folder, TOKENS)
    return Tokenizer(folder, {"eos_token_id": 256}).with_template(template)


class Recorded:
    """A grammar that a test can look at."""

    def __init__(self, kind: str, source: str, strict: bool) -> None:
        self.kind, self.source, self.strict = kind, source, strict


class ScriptedEngine:
    """Answers by script.

    Args:
        script: answers by a word of the prompt, the one that comes last; "" where none does. An
            answer is text, or an exception to raise.
        pause: seconds before each token.
        hold: event that answers wait for after the first token.
        context: of the model.
    """

    def __init__(
        self,
        script: Mapping[str, str | Exception] | None = None,
        *,
        name: str = "scripted",
        pause: float = 0.0,
        hold: asyncio.Event | None = None,
        context: int = 1 << 16,
        template: str = TEMPLATE,
        defaults: Mapping[str, object] | None = None,
    ) -> None:
        self.script = dict(script or {"": "Hello there."})
        self.tokenizer = tokenizer(template)
        self.info = ModelInfo(name, context, 262, 1000, 1 << 20, "print-1", defaults or {})
        self.pause, self.hold = pause, hold
        self.jobs: list[Job] = []
        self.cancelled: list[Job] = []
        self.finished: list[Job] = []
        self.running = 0
        self.state = Health()
        self.drained = False

    def _answer(self, job: Job) -> list[int]:
        text = self.tokenizer.decode(list(job.ids), skip_special_tokens=False)
        last = max(self.script, key=lambda word: text.rfind(word) if word else -1)
        said = self.script[last if last in text else ""]
        if isinstance(said, Exception):
            raise said
        return self.tokenizer.encode(said, add_special_tokens=False)

    async def submit(self, job: Job) -> AsyncIterator[Delta]:
        if not job.ids or len(job.ids) > self.info.context:
            raise SessionError("[serve] the prompt is not in the context")
        self.jobs.append(job)
        self.running += 1
        ended = False
        try:
            tokens = self._answer(job)
            cached = min(8, len(job.ids) - 1)
            scores = self._scores(job.ids, job.echo) if job.echo is not None else None
            yield Delta(usage=Usage(prompt=len(job.ids), cached_memory=cached), scores=scores)
            for choice in range(job.n):
                async for delta in self._choice(job, choice, tokens, cached):
                    ended = delta.finish is not None and choice == job.n - 1
                    yield delta
        finally:
            self.running -= 1
            (self.finished if ended else self.cancelled).append(job)

    async def _choice(
        self, job: Job, choice: int, tokens: Sequence[int], cached: int
    ) -> AsyncIterator[Delta]:
        stream = self.tokenizer.stream()
        finish, stop, count = "eos", None, 0
        text = self.tokenizer.decode(list(tokens), skip_special_tokens=False)
        met = [(at, end) for end in job.sampling.stop if (at := text.find(end)) >= 0]
        if met:
            finish, (at, stop) = "stop", min(met)
            tokens = self.tokenizer.encode(text[:at], add_special_tokens=False)
        most = job.sampling.max_tokens
        for token in tokens:
            if most is not None and count >= most:
                finish = "length"
                break
            if token in job.sampling.stop_ids:
                finish, stop = "stop", token
                break
            await asyncio.sleep(self.pause)
            if self.hold is not None and count:
                await self.hold.wait()
            count += 1
            yield Delta(choice, (token,), stream.push(token), self._logprobs([token], job))
        usage = Usage(
            prompt=len(job.ids), cached_memory=cached, generated=count + (finish == "eos"),
            hits=3, misses=1, read_bytes=4096, wait_s=0.25, prefill_s=0.5, decode_s=0.5,
        )  # fmt: skip
        yield Delta(choice, text=stream.finish(), finish=finish, stop=stop, usage=usage)

    def _logprobs(self, ids: Sequence[int], job: Job) -> tuple[TokenLogprob, ...]:
        top = job.sampling.top_logprobs
        return () if top is None else tuple(_scored(token, top) for token in ids)

    def _scores(self, ids: Sequence[int], top: int) -> Scores:
        return Scores((None, *(_scored(token, top) for token in ids[1:])))

    async def compile(self, kind: str, source: str, *, strict: bool = True) -> Recorded:
        if "no_such_keyword" in source:
            raise SessionError("[serve] grammar: no_such_keyword is not known")
        return Recorded(kind, source, strict)

    def health(self) -> Health:
        return self.state

    def stats(self) -> Mapping[str, object]:
        return {}

    async def drain(self, seconds: float) -> None:
        self.drained = True


def _scored(token: int, top: int) -> TokenLogprob:
    """Made up: the likelier, the lower the id; the token itself is the second likeliest."""
    best = [((token + 1 + i) % 256, -0.5 - i) for i in range(top)]
    if top > 1:
        best[1] = (token, -1.5)
    return TokenLogprob(token, -1.5, tuple(best[:top]))


FAULT = EngineError("[serve] expert 3 of layer 1 cannot be read")
