"""Markup of families, as data. A chat template shows which a model was taught."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ...thinking import ANALYSIS, TAGS

NAME = r"([\w.-]+)"


@dataclass(frozen=True)
class JsonForm:
    """A call whose arguments are a JSON object, given out as it comes.

    Attributes:
        head: what comes before the object; its group is the tool's name.
        written: the same as text with {name} and, where calls are counted, {index}, for grammars.
        tail: text behind the object.
        keys: the call may also be one object {"name": ..., "arguments": {...}} in any order.
        around, more: as a `LiteralForm`'s; with `more` each call is an object in a list.
    """

    head: re.Pattern[str]
    written: str
    tail: str = ""
    keys: bool = False
    around: tuple[str, str] = ("", "")
    more: str = ""


@dataclass(frozen=True)
class PairForm:
    """A call of parameters one by one: texts as they are, all else as JSON.

    Attributes:
        head: what comes before the parameters; its group is the tool's name.
        parameter: the beginning of a parameter; its group is its name.
        end: the end of one.
        written: head, beginning with {name}, end and tail as text, for grammars.
    """

    head: re.Pattern[str]
    parameter: re.Pattern[str]
    end: re.Pattern[str]
    written: tuple[str, str, str, str]
    longest_end: int  # characters of `end` at most


@dataclass(frozen=True)
class LiteralForm:
    """A call whose arguments are literals with names.

    Attributes:
        head: what comes before the first argument; its group is the tool's name.
        close: the bracket behind the last one.
        sign: between a name and its value.
        quotes: of texts, the one that the model was taught first.
        written: the head as text with {name}, for grammars.
        comma: what grammars write between two arguments.
        around: text in the tags around all calls, for grammars.
        more: what comes between two calls in the same tags; "": each has tags of its own.
    """

    head: re.Pattern[str]
    close: str
    sign: str
    quotes: tuple[str, ...]
    written: str
    comma: str
    around: tuple[str, str] = ("", "")
    more: str = ""


HERMES = JsonForm(
    re.compile(rf'\s*\{{\s*"name"\s*:\s*"{NAME}"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{{)'),
    '\n{"name": "{name}", "arguments": ', "}\n", keys=True,
)  # fmt: skip
QWEN_CODER = PairForm(
    re.compile(rf"\s*<function={NAME}>\s*"),
    re.compile(r"\s*<parameter=([^<>\n]+)>\n?"),
    re.compile(r"\n?</parameter>"),
    ("\n<function={name}>\n", "<parameter={name}>\n", "\n</parameter>\n", "</function>\n"),
    len("\n</parameter>"),
)
GLM = PairForm(
    re.compile(rf"\s*{NAME}\s*(?=<)"),
    re.compile(r"\s*<arg_key>([^<>\n]+)</arg_key>\s*<arg_value>"),
    re.compile(r"</arg_value>"),
    ("{name}\n", "<arg_key>{name}</arg_key>\n<arg_value>", "</arg_value>\n", ""),
    len("</arg_value>"),
)
MINIMAX = PairForm(
    re.compile(rf'"{NAME}">\s*'),
    re.compile(r'\s*<parameter name="([^"<>\n]+)">'),
    re.compile(r"</parameter>"),
    ('"{name}">\n', '<parameter name="{name}">', "</parameter>\n", ""),
    len("</parameter>"),
)
KIMI = JsonForm(
    re.compile(rf"\s*(?:functions\.)?{NAME}(?::\d+)\s*<\|tool_call_argument_begin\|>\s*(?=\{{)"),
    "functions.{name}:{index}<|tool_call_argument_begin|>",
)
DEEPSEEK = JsonForm(
    re.compile(rf"\s*(?:function<｜tool▁sep｜>{NAME}\s*```json|{NAME}<｜tool▁sep｜>)\s*(?=\{{)"),
    "{name}<｜tool▁sep｜>",
)
HARMONY = JsonForm(
    re.compile(rf"{NAME}\s*(?:<\|channel\|>commentary\s*)?(?:(?:<\|constrain\|>)?json\s*)?"
               r"<\|message\|>\s*(?=\{)"),
    "{name} <|constrain|>json<|message|>",
)  # fmt: skip
# As ai.google.dev/gemma/docs/core/prompt-formatting-gemma4 and .../function-calling-gemma4 have it.
GEMMA = LiteralForm(
    re.compile(rf"\s*call:\s*{NAME}\s*\{{"), "}", ":", ('<|"|>', '"'), "call:{name}{", ",",
)  # fmt: skip
# As huggingface.co/LiquidAI/LFM2-8B-A1B has it: a list of Python's calls with keywords.
LFM = LiteralForm(
    re.compile(rf"\s*(?:\[\s*)?{NAME}\s*\("), ")", "=", ('"', "'"), "{name}(", ", ",
    ("[", "]"), ",",
)  # fmt: skip
# As mistral-common's InstructTokenizerV13 encodes it; V11 has an id between name and arguments.
MISTRAL = JsonForm(
    re.compile(rf"\s*{NAME}\s*(?:\[CALL_ID\]\s*(?:\w+\s*)?)?\[ARGS\]\s*(?=\{{)"), "{name}[ARGS]",
)  # fmt: skip
# As the templates of Mixtral-8x22B-Instruct and Mistral-7B-Instruct-v0.3 have it, and as LFM2 is
# asked to write by a system prompt: a list of objects.
JSON_LIST = JsonForm(
    re.compile(rf'\s*(?:\[\s*)?\{{\s*"name"\s*:\s*"{NAME}"\s*,\s*"arguments"\s*:\s*(?=\{{)'),
    '{"name": "{name}", "arguments": ', "}", around=("[", "]"), more=",",
)  # fmt: skip
ID_LENGTH = 9  # of calls' ids in the templates that ask for one


@dataclass(frozen=True)
class Markup:
    """How a model writes what is no plain content.

    Attributes:
        think: the tags around reasoning, or None.
        again: reasoning may come again behind content.
        call: the tags around a call; the JSON of one without a closing tag ends it.
        lead: what may, and what does come before a call, for grammars.
        form: of a call; None where the model knows no calls.
        also: a list of objects, where an answer may have that in place of the form.
        id_length: of the ids of calls that the template takes; 0: any.
        section: tags around all calls, or None.
        skipped: tags that are no content, wherever they are.
        ends: a token that ends the answer stands for the closing tag of a call.
        joins: text between calls, and between them and their section, for grammars.
        text_arguments: the template takes the arguments of an earlier call as text.
        reasoning: the name of a message's reasoning in the template.
    """

    think: tuple[str, str] | None = None
    again: bool = False
    call: tuple[str, str] = ("<tool_call>", "</tool_call>")
    lead: tuple[str, str] = ("", "")
    form: JsonForm | PairForm | LiteralForm | None = None
    also: JsonForm | None = None
    id_length: int = 0
    section: tuple[str, str] | None = None
    skipped: tuple[str, ...] = ()
    ends: bool = False
    joins: str = "\n"
    text_arguments: bool = False
    reasoning: str = "reasoning_content"

    @property
    def tags(self) -> frozenset[str]:
        """Tokens that are to be seen in an answer's text, although decoders leave them out."""
        form: tuple[str, ...] = ()
        if isinstance(self.form, JsonForm):
            form = (self.form.written,)
        elif isinstance(self.form, LiteralForm):
            form = self.form.quotes
        texts = (*(self.think or ()), *self.call, *(self.section or ()),
                 *self.skipped, *form)  # fmt: skip
        return frozenset(tag for text in texts for tag in TAG.findall(text))

    def without_thinking(self) -> Markup:
        """The same for a server that leaves reasoning in the content."""
        skipped = self.skipped + (self.think or ()) if self.again else self.skipped
        return replace(self, think=None, skipped=skipped)


TAG = re.compile(r"<[^<>\s]+>|\[/?[A-Z_]+\]")

# What a template has, and the markup that it shows; the first row that fits.
MARKUPS: tuple[tuple[tuple[str, ...], Markup], ...] = (
    (("<|channel|>", "functions"),  # gpt-oss
     Markup(
         ANALYSIS, again=True, form=HARMONY, ends=True,
         call=("to=functions.", "<|call|>"), lead=("<|start|>assistant", "<|channel|>commentary "),
         skipped=("<|start|>assistant", "<|channel|>commentary<|message|>",
                  "<|channel|>commentary", "<|channel|>final<|message|>", "<|end|>", "<|return|>"),
         reasoning="thinking",
     )),
    (("<|tool_calls_section_begin|>",),  # Kimi-K2
     Markup(call=("<|tool_call_begin|>", "<|tool_call_end|>"), form=KIMI, joins="",
            section=("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"))),
    (("<｜tool▁calls▁begin｜>",),  # DeepSeek V3 to V3.1
     Markup(call=("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"), form=DEEPSEEK, joins="",
            section=("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"), text_arguments=True)),
    (("<minimax:tool_call>",),
     Markup(call=("<invoke name=", "</invoke>"), form=MINIMAX,
            section=("<minimax:tool_call>", "</minimax:tool_call>"))),
    (("<|tool_call>",),  # Gemma 4
     Markup(call=("<|tool_call>", "<tool_call|>"), form=GEMMA, joins="",
            skipped=("<|tool_response>",))),
    (("<|tool_list_start|>",),  # LFM2
     Markup(call=("<|tool_call_start|>", "<|tool_call_end|>"), form=LFM, also=JSON_LIST,
            joins="")),
    (("[TOOL_CALLS]", "[ARGS]"),  # Mistral, from Magistral on
     Markup(call=("[TOOL_CALLS]", ""), form=MISTRAL, joins="")),
    (("[TOOL_CALLS]",),  # Mistral before that: Mixtral-8x22B
     Markup(call=("[TOOL_CALLS]", ""), form=JSON_LIST, joins="")),
    (("<tool_call>", "<arg_key>"), Markup(form=GLM)),  # GLM 4.5 to 4.7
    (("<tool_call>", "<function="), Markup(form=QWEN_CODER)),  # Qwen3-Coder, Qwen3.6
    (("<tool_call>",), Markup(form=HERMES)),  # Hermes 2, Qwen 2.5 to 3.5
)  # fmt: skip


def find_markup(template: str) -> Markup:
    """The markup that a chat template shows to the model."""
    think = next((tags for tags in TAGS if any(tag in template for tag in tags)), None)
    rows = (markup for words, markup in MARKUPS if all(word in template for word in words))
    markup = next(rows, Markup())
    length = ID_LENGTH if f"|length != {ID_LENGTH}" in template else 0
    return replace(markup, think=markup.think or think, id_length=length)
