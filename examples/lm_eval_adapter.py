"""moeflux as a model of EleutherAI's lm-evaluation-harness (pip install lm-eval).

    python examples/lm_eval_adapter.py --model moeflux --tasks hellaswag --limit 50 \
        --model_args path=mlx-community/Qwen3-30B-A3B-4bit,memory=12GiB,context=4096

The file registers the model "moeflux" and hands over to the harness's own command line. Requests
with the same prompt (the choices of a question) compute it once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

import moeflux


@register_model("moeflux")
class MoefluxLM(LM):
    """One model and one session; requests are answered one after another.

    Args:
        path: folder or hub id; None is the demo model.
        memory, context, threads, revision: as for `moeflux.load`.
        max_gen_toks: of an answer, where a task does not say.
        options: what else the harness hands to a model (batch_size, device); not used.
    """

    def __init__(
        self,
        path: str | None = None,
        memory: str | int = "auto",
        context: int = 4096,
        threads: int | None = None,
        revision: str | None = None,
        max_gen_toks: int = 256,
        **options: Any,
    ) -> None:
        super().__init__()
        self.model = moeflux.load(
            path, memory=memory, context=context, threads=threads, revision=revision
        )
        self.session = self.model.session()
        self.max_gen_toks = max_gen_toks

    @property
    def tokenizer_name(self) -> str:
        """A name for the harness's caches."""
        return str(self.model.path)

    @property
    def prefix_token(self) -> int:
        """What stands before a text that has nothing before it."""
        return min(self.model.tokenizer.eos_ids, default=0)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A chat as the checkpoint's template renders it."""
        if not add_generation_prompt:
            raise NotImplementedError("moeflux renders chats for an answer to follow")
        return self.model.tokenizer.apply_template(chat_history)

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """(log probability of the continuation, whether greedy decoding would write it)."""
        pairs = [self._pair(*request.args) for request in requests]
        answers: list[tuple[float, bool]] = [(0.0, True)] * len(pairs)
        order = sorted(range(len(pairs)), key=lambda i: pairs[i][0])
        for _, same in groupby(order, key=lambda i: pairs[i][0]):
            indices = list(same)
            room = self._room(max(len(pairs[i][1]) for i in indices))
            prompt = pairs[indices[0]][0][-room:]
            snapshot = self._after(prompt[:-1])
            for i in indices:
                if pairs[i][1]:
                    self.session.restore(snapshot)
                    answers[i] = self._score(prompt[-1:] + pairs[i][1])
                self.cache_hook.add_partial("loglikelihood", requests[i].args, answers[i])
        return answers

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log probability of whole texts, each token predicted once, with as much before it as
        the context holds.
        """  # noqa: D205
        answers = []
        for request in requests:
            tokens = [self.prefix_token, *self.model.tokenizer.encode(request.args[0])]
            total, done = 0.0, 1
            while done < len(tokens):
                end = min(done + self.session.context - 1, len(tokens))
                window = tokens[max(0, end - self.session.context) : end]
                self.session.reset()
                found = self.session.score(window)[len(window) - (end - done) :]
                total += float(found.sum(dtype=np.float64))
                done = end
            answers.append(total)
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return answers

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continuations up to a stop string."""
        answers = []
        for request in requests:
            prompt, options = request.args
            options = dict(options)
            until = options.get("until") or []
            limit = int(options.get("max_gen_toks", self.max_gen_toks))
            sampling = {"temperature": 0.0}
            if options.get("do_sample", float(options.get("temperature", 0.0)) > 0):
                names = ("temperature", "top_p", "top_k", "min_p")
                sampling = {"temperature": 1.0}
                sampling |= {name: options[name] for name in names if name in options}
            ids = self.model.tokenizer.encode(prompt) or [self.prefix_token]
            keep = max(self._room(limit), self.session.context // 2)  # a prompt matters more
            self.session.reset()
            text = moeflux.generate(
                self.model, ids[-keep:], max_tokens=limit, stop=until,
                session=self.session, **sampling,
            )  # fmt: skip
            answers.append(text)
            self.cache_hook.add_partial("generate_until", request.args, text)
        return answers

    def _room(self, n: int) -> int:
        """Tokens of a prompt that leave room for n more; one at least."""
        return max(1, self.session.context - n)

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Token ids of both; spaces between them belong to the continuation."""
        encode = self.model.tokenizer.encode
        if not context:
            return [self.prefix_token], list(encode(continuation))
        stripped = context.rstrip()
        whole = encode(context + continuation)
        prompt = list(encode(stripped)) or [self.prefix_token]
        return prompt, list(whole[len(encode(stripped)) :])

    def _after(self, tokens: list[int]) -> Any:
        self.session.reset()
        if tokens:
            self.session.step(tokens)
        return self.session.save()

    def _score(self, tokens: list[int]) -> tuple[float, bool]:
        tokens = tokens[-(self.session.context - self.session.position) :]
        logprobs, greedy = self.session.score(tokens, greedy=True)
        return float(logprobs[1:].sum(dtype=np.float64)), bool(greedy[1:].all())


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
