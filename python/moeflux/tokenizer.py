"""Text to token ids and back: `tokenizers` for tokenizer.json, jinja2 for chat templates.

A template is code from a stranger: it runs in jinja2's immutable sandbox, in a process of its own
with limits on time, memory and output.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from . import files
from .arguments import TEXT, listed, show
from .checkpoint import read_json
from .errors import FormatError, SessionError, TemplateError

MAX_FILE_BYTES = 100_000_000  # of tokenizer.json; real ones have up to 35 million
MAX_TEMPLATE_CHARS = 200_000
MAX_RENDERED_CHARS = 10_000_000
MAX_TEMPLATE_SECONDS = 5  # of processor time; real ones take milliseconds
MAX_TEMPLATE_WAIT = 60  # seconds by the clock, for a machine that is busy
MAX_TEMPLATE_BYTES = 512 << 20  # address space of the process that renders
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def _is_message(message: Any) -> bool:
    """Whether it has a role, and texts a template can be given (some take lists as content)."""
    try:
        text = json.dumps(message, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return isinstance(message, dict) and TEXT.fits(message.get("role")) and TEXT.fits(text)


class Tokenizer:
    """A checkpoint's tokenizer, its end-of-text ids and its chat template."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        import tokenizers

        path = folder / "tokenizer.json"
        text = _read_text(path)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(text)
        except BaseException as error:  # `tokenizers` panics with a BaseException of its own
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            raise FormatError(
                f"[tokenizer] expected a tokenizer, found: {str(error)[:300]} ({path})"
            ) from None
        settings = _optional_json(folder / "tokenizer_config.json")
        generation = _optional_json(folder / "generation_config.json")
        self._named = _named_tokens(folder, settings)
        self.eos_ids = self._find_eos(config, generation)
        self._template = _find_template(folder, settings)

    def _find_eos(self, config: dict[str, Any], generation: dict[str, Any]) -> frozenset[int]:
        """generation_config wins over config, as in transformers; the tokenizer's own is added."""
        inner = config.get("text_config")
        nested = inner.get("eos_token_id") if isinstance(inner, dict) else None
        named = generation.get("eos_token_id", config.get("eos_token_id", nested))
        ids = {i for i in (named if isinstance(named, list) else [named]) if isinstance(i, int)}
        found = self._tokenizer.token_to_id(self._named.get("eos_token", ""))
        return frozenset(ids if found is None else ids | {found})

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text. Raises SessionError for what is no Unicode text."""
        try:
            return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)
        except TypeError:  # no str, or one with surrogates: bytes that were no UTF-8
            raise SessionError(f"[tokenizer] text: expected Unicode text, found "
                               f"{show(text)}") from None  # fmt: skip

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        """Text of token ids. Raises SessionError for what is no list of ids."""
        try:
            return str(self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))
        except (TypeError, OverflowError):
            raise SessionError(f"[tokenizer] ids: expected token ids, found {show(ids)}") from None

    def stream(self) -> TokenStream:
        """A decoder for ids that come one at a time."""
        return TokenStream(self._tokenizer)

    @property
    def has_template(self) -> bool:
        """Whether the checkpoint brings a chat template."""
        return self._template is not None

    def apply_template(self, messages: list[dict[str, str]]) -> str:
        """The prompt that the checkpoint's chat template makes of `messages`.

        Args:
            messages: [{"role": "user", "content": "..."}, ...]

        Raises:
            SessionError: messages are no such list.
            TemplateError: there is no template, or it fails or does more than it may.
        """
        what = "a list of dicts with role and content"
        messages = listed("tokenizer", SessionError, "messages", what, messages)
        for message in messages:
            if not _is_message(message):
                raise SessionError(f"[tokenizer] messages: expected {what}, found "
                                   f"{show(message)}")  # fmt: skip
        if self._template is None:
            raise TemplateError("[tokenizer] the checkpoint has no chat template; pass a prompt")
        return _render(self._template, messages, self._named)


class TokenStream:
    """Decodes one id at a time; holds back characters whose last bytes are still to come.

    All pieces together are `decode` of all ids. (Where a tokenizer has tokens for single bytes, as
    byte fallback does, and they are no UTF-8, the number of U+FFFD may differ.)
    """

    MAX_HELD_CHARS = 7  # 3 bytes of a character and 4 of the one before: each may show as a U+FFFD
    MAX_IDS = 32  # decoded together while all that comes is broken

    def __init__(self, tokenizer: Any) -> None:  # tokenizers.Tokenizer
        self._decode = tokenizer.decode
        added = tokenizer.get_added_tokens_decoder().items()
        self._skipped = frozenset(token for token, said in added if said.special)
        self._ids: list[int] = []  # decoded together
        self._n_old = 0  # of them are sent, and stay since a decoder looks left
        self._n_sent = 0  # characters of their text

    def push(self, token: int) -> str:
        """Text that `token` completes, often empty."""
        if token in self._skipped:  # `decode` leaves it out before it looks at the others
            return ""
        self._ids.append(token)
        text = str(self._decode(self._ids))
        whole = max(len(text.rstrip(REPLACEMENT)), len(text) - self.MAX_HELD_CHARS)
        out = text[self._n_sent : whole]
        self._n_sent += len(out)
        if whole == len(text):
            self._drop(self._n_old, text)
            self._n_old = len(self._ids)
        elif len(self._ids) > self.MAX_IDS:
            half = len(self._ids) // 2
            if len(self._decode(self._ids[:half])) <= self._n_sent:
                self._drop(half, text)
                self._n_old = 0
        return out

    def finish(self) -> str:
        """What is left at the end; bytes that never became a character show as U+FFFD."""
        return str(self._decode(self._ids))[self._n_sent :]

    def _drop(self, count: int, text: str) -> None:
        """Forgets the first ids of those that `text` is decoded from."""
        self._ids = self._ids[count:]
        self._n_sent += len(self._decode(self._ids)) - len(text)


def _read_text(path: Path) -> str:
    try:
        return files.read(path, MAX_FILE_BYTES).decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"[tokenizer] expected UTF-8, found {error} ({path})") from None


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if files.mode(path) else {}


def _find_template(folder: Path, config: dict[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    template = _read_text(path) if files.mode(path) else config.get("chat_template")
    if isinstance(template, list):  # [{"name": "default", "template": ...}, ...]
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _named_tokens(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """bos_token, image_token and so on: those that transformers lets a template see."""
    named = dict(config)
    if "added_tokens_decoder" not in config:  # older checkpoints have a file for them
        named |= _optional_json(folder / "special_tokens_map.json")
    for key in ("extra_special_tokens", "model_specific_special_tokens"):
        named |= config[key] if isinstance(config.get(key), dict) else {}
    texts = {key: _content(value) for key, value in named.items() if key.endswith("_token")}
    return {key: text for key, text in texts.items() if TEXT.fits(text)}


def _content(token: Any) -> Any:
    """The text of a token, which a file gives as it is or in a dict."""
    return token.get("content") if isinstance(token, dict) else token


def _render(template: str, messages: list[dict[str, str]], variables: dict[str, str]) -> str:
    if len(template) > MAX_TEMPLATE_CHARS:
        raise TemplateError(
            f"[tokenizer] expected a chat template of at most {MAX_TEMPLATE_CHARS} characters, "
            f"found {len(template)}"
        )
    request = {
        "template": template,
        "messages": messages,
        "variables": variables,
        "max_chars": MAX_RENDERED_CHARS,
        "max_bytes": MAX_TEMPLATE_BYTES,
        "max_seconds": MAX_TEMPLATE_SECONDS,
    }
    worker = Path(__file__).with_name("_template_worker.py")
    try:
        done = subprocess.run(
            [sys.executable, str(worker)],
            input=json.dumps(request),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=MAX_TEMPLATE_WAIT,
            check=False,
        )
        answer = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise TemplateError(
            f"[tokenizer] the chat template took over {MAX_TEMPLATE_WAIT} seconds"
        ) from None
    except ValueError:
        why = f"process died: {done.stderr[-300:]}"
        if done.returncode == -signal.SIGXCPU:
            why = f"took over {MAX_TEMPLATE_SECONDS} seconds of processor time"
        raise TemplateError(f"[tokenizer] the chat template {why}") from None
    if "error" in answer:
        raise TemplateError(f"[tokenizer] the chat template failed: {answer['error']}")
    return str(answer["text"])
