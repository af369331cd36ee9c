"""Text to token ids and back: `tokenizers` for tokenizer.json, chat templates for messages."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import files
from .arguments import TEXT, check, show
from .checkpoint import read_json
from .errors import FormatError, SessionError, TemplateError
from .gguf import vocabulary
from .gguf.contents import is_gguf
from .renderer import Renderer
from .sampling import RULES as SAMPLING_RULES
from .special_text import SpecialText
from .templates import (
    ChatOptions,
    check_messages,
    check_options,
    cut_open_end,
    marks,
    open_end,
)
from .thinking import shown_tokens

if TYPE_CHECKING:
    from typing_extensions import Unpack

MAX_FILE_BYTES = 100_000_000  # of tokenizer.json; real ones have up to 35 million
TEMPLATE_FILES = {
    "default": "chat_template.jinja",
    "tool_use": "additional_chat_templates/tool_use.jinja",  # where there are tools
}
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Tokenizer:
    """A checkpoint's tokenizer, its end-of-text ids and its chat template.

    Attributes:
        eos_ids: tokens that end a text.
        sampling: arguments of `generate` that generation_config.json or a GGUF file recommends.
    """

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self._renderers: dict[str, Renderer] = {}
        self._special_text: SpecialText | None = None
        if is_gguf(path):
            found = vocabulary.read(path)
            self._tokenizer, self.eos_ids, self._named = found.tokenizer, found.eos_ids, found.named
            self._templates = {name: text for name, text in found.templates.items()
                               if name in TEMPLATE_FILES}  # fmt: skip
            self.sampling = _checked(found.sampling, path)
        else:
            self._read_folder(path, config)

    def _read_folder(self, folder: Path, config: dict[str, Any]) -> None:
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
        self.sampling = _recommended(generation, folder / "generation_config.json")
        self._templates = _find_templates(folder, settings)

    def _find_eos(self, config: dict[str, Any], generation: dict[str, Any]) -> frozenset[int]:
        """generation_config wins over config, as in transformers; the tokenizer's own is added."""
        inner = config.get("text_config")
        nested = inner.get("eos_token_id") if isinstance(inner, dict) else None
        named = generation.get("eos_token_id", config.get("eos_token_id", nested))
        ids = {i for i in (named if isinstance(named, list) else [named]) if isinstance(i, int)}
        found = self._tokenizer.token_to_id(self._named.get("eos_token", ""))
        return frozenset(ids if found is None else ids | {found})

    def __repr__(self) -> str:
        kind = "a" if self.has_template else "no"
        size = self._tokenizer.get_vocab_size()
        return f"<Tokenizer of {size} tokens, {kind} chat template, ends {sorted(self.eos_ids)}>"

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

    def stream(self, shown: Collection[str] = ()) -> TokenStream:
        """A decoder for ids that come one at a time. Special tokens are left out unless `shown`."""
        return TokenStream(self._tokenizer, shown)

    def token_bytes(self, token: int) -> bytes:
        """What one token stands for: bytes, for it may be a part of a character only."""
        text = self.decode([token], skip_special_tokens=False)
        spelled = self._tokenizer.id_to_token(token)
        if REPLACEMENT not in text or spelled is None:
            return text.encode()
        if found := re.fullmatch("<0x([0-9A-F]{2})>", spelled):  # byte fallback
            return bytes.fromhex(found[1])
        return bytes(_BYTE_OF.get(letter, ord("?")) for letter in spelled)

    @property
    def json(self) -> str:
        """It as tokenizer.json has it."""
        return str(self._tokenizer.to_str())

    @property
    def named_tokens(self) -> Mapping[str, str]:
        """Texts of bos_token, eos_token and others that the checkpoint names."""
        return self._named

    @property
    def chat_template(self) -> str | None:
        """The source of the chat template; None where the checkpoint brings none."""
        return self._templates.get("default")

    @property
    def shown(self) -> frozenset[str]:
        """Special tokens that are part of an answer's text: those that tell thoughts from it."""
        return shown_tokens(self.chat_template or "")

    def with_template(self, template: str) -> Tokenizer:
        """The same tokenizer with another chat template."""
        other = copy.copy(self)
        other._templates = {"default": template}
        other._renderers, other._special_text = {}, None
        return other

    @property
    def has_template(self) -> bool:
        """Whether the checkpoint brings a chat template."""
        return "default" in self._templates

    def apply_template(
        self, messages: Iterable[Mapping[str, Any]], **options: Unpack[ChatOptions]
    ) -> str:
        """The prompt that the checkpoint's chat template makes of `messages`.

        Args:
            messages: [{"role": "user", "content": "..."}, ...]; a content may be a list of parts
                {"type": "text", "text": "..."}.
            options: what else the template is given; see `ChatOptions`.

        Raises:
            SessionError: messages or options are not what they must be.
            TemplateError: there is no template, or it fails or does more than it may.
        """
        check_options(options, "apply_template")
        if options.get("special_as_text"):
            raise SessionError("[tokenizer] special_as_text: expected `encode_chat`: a text does "
                               "not tell which of its tokens are text")  # fmt: skip
        return self._chat(messages, options)[0]

    def encode_chat(
        self, messages: Iterable[Mapping[str, Any]], **options: Unpack[ChatOptions]
    ) -> list[int]:
        """Token ids of `apply_template`, with the same arguments and errors."""
        check_options(options, "encode_chat")
        text, mark = self._chat(messages, options)
        return self._specials.encode(text, mark) if mark else self.encode(text, False)

    def _chat(self, messages: Any, options: ChatOptions) -> tuple[str, str]:
        """The rendered prompt, and the mark in special tokens that texts spell: "" without any."""
        messages = check_messages(messages)
        others = {
            "tools": options.get("tools"),
            "documents": options.get("documents"),
            "variables": options.get("chat_template_kwargs") or {},
        }
        renderer = self._renderer(others["tools"] is not None)
        given = {"messages": messages, **others}
        field, as_text = options.get("continue_final_message"), options.get("special_as_text")
        end, mark = marks(renderer.template, given) if field or as_text else ("", "")
        if as_text:
            broken = self._specials.broken(given, mark)
            for i, message in enumerate(messages):
                if message["role"] == "assistant":  # the model wrote it
                    broken["messages"][i] = message
            as_text, given = broken != given, broken
        if field:
            last, text = open_end(messages[-1] if messages else {}, field, end)
            given["messages"] = [*given["messages"][:-1], last]
        head = options.get("add_generation_prompt")
        rendered = renderer.render({
            **given,
            "variables": {**self._named, **given["variables"]},
            "add_generation_prompt": not field if head is None else bool(head),
        })  # fmt: skip
        return cut_open_end(rendered, text, end) if field else rendered, mark if as_text else ""

    def _renderer(self, with_tools: bool) -> Renderer:
        name = "tool_use" if with_tools and "tool_use" in self._templates else "default"
        if name not in self._templates:
            raise TemplateError("[tokenizer] the checkpoint has no chat template; pass a prompt")
        if name not in self._renderers:  # of two threads one's does: it has no process yet
            self._renderers[name] = Renderer(self._templates[name])
        return self._renderers[name]

    @property
    def _specials(self) -> SpecialText:
        if self._special_text is None:
            texts = "\0".join(self._templates.values())
            self._special_text = SpecialText(self._tokenizer, texts)
        return self._special_text


def _letters_of_bytes() -> dict[str, int]:
    """The byte of each letter of byte-level vocabularies (as in GPT-2)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + i): b for i, b in enumerate(hidden)}


_BYTE_OF = _letters_of_bytes()


class TokenStream:
    """Decodes one id at a time; holds back characters whose last bytes are still to come.

    All pieces together are `decode` of all ids. (Where a tokenizer has tokens for single bytes, as
    byte fallback does, and they are no UTF-8, the number of U+FFFD may differ.)
    """

    MAX_HELD_CHARS = 7  # 3 bytes of a character and 4 of the one before: each may show as a U+FFFD
    MAX_IDS = 32  # decoded together while all that comes is broken

    def __init__(self, tokenizer: Any, shown: Collection[str] = ()) -> None:
        self._decode = tokenizer.decode  # of a tokenizers.Tokenizer
        added = tokenizer.get_added_tokens_decoder().items()
        special = {token: said.content for token, said in added if said.special}
        self._shown = {token: str(text) for token, text in special.items() if text in shown}
        self._skipped = frozenset(special.keys() - self._shown.keys())
        self._ids: list[int] = []  # decoded together
        self._n_old = 0  # of them are sent, and stay since a decoder looks left
        self._n_sent = 0  # characters of their text

    def push(self, token: int) -> str:
        """Text that `token` completes, often empty."""
        if token in self._skipped:  # `decode` leaves it out before it looks at the others
            return ""
        if token in self._shown:
            out, self._ids, self._n_old, self._n_sent = self.finish(), [], 0, 0
            return out + self._shown[token]
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


def _find_templates(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """The chat templates that are used, "default" and "tool_use", where transformers looks."""
    found = config.get("chat_template")
    named: dict[Any, Any] = {"default": found}
    if isinstance(found, list):  # [{"name": "default", "template": ...}, ...]
        named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
    for name, path in TEMPLATE_FILES.items():
        if files.mode(folder / path):
            named[name] = _read_text(folder / path)
    return {name: text for name in TEMPLATE_FILES if isinstance(text := named.get(name), str)}


def _recommended(generation: dict[str, Any], path: Path) -> dict[str, Any]:
    """How to sample by generation_config.json, which says nothing unless `do_sample` is true."""
    names = ["temperature", "top_k", "top_p", "min_p", "repetition_penalty"]
    if generation.get("do_sample") is not True:
        names = names[-1:]
    found = {name: generation[name] for name in names if generation.get(name) is not None}
    return _checked(found, path)


def _checked(found: dict[str, Any], path: Path) -> dict[str, Any]:
    """Arguments of `generate` that a file recommends, each in its range."""
    try:
        check("tokenizer", FormatError, SAMPLING_RULES, found)
    except FormatError as error:
        raise FormatError(f"{error} ({path})") from None
    return {name: float(value) if name != "top_k" else value for name, value in found.items()}


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
