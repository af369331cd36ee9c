"""Grammars through llguidance: masks are exact, and bad sources are refused in a sentence."""

import json
import re

import numpy as np
import pytest

from moeflux.errors import SessionError
from moeflux.serve.constrain import MAX_KEPT, Compiler
from oracle.tokenizer_file import write_tokenizer

END = 256


@pytest.fixture(scope="module")
def compiler(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return Compiler((folder / "tokenizer.json").read_text(), [END], 300)


def allowed(constraint):
    bits = np.unpackbits(constraint.mask().view(np.uint8), bitorder="little")
    assert bits.size == 320 and not bits[257:].any()
    return set(np.flatnonzero(bits).tolist())


def test_a_mask_allows_what_the_pattern_does(compiler):
    constraint = compiler.compile("regex", "(ab|ac)d?").start()
    for token, expected in [(None, "a"), ("a", "bc"), ("c", "d")]:
        if token:
            constraint.consume(ord(token))
        assert allowed(constraint) - {END} == set(map(ord, expected))
    assert END in allowed(constraint) and not constraint.stopped
    constraint.consume(ord("d"))
    assert constraint.stopped


def test_each_choice_has_its_own_place(compiler):
    grammar = compiler.compile("regex", "ab")
    one, other = grammar.start(), grammar.start()
    one.consume(ord("a"))
    assert (allowed(one), allowed(other)) == ({ord("b")}, {ord("a")})


SOURCES = {
    "json_schema": ('{"type": "object", "properties": {"a": {"type": "integer"}}}', '{"a":12}'),
    "json": ("", '{"a": [1, null]}'),
    "regex": ("x{3}", "xxx"),
    "lark": ('start: "a" NUMBER\nNUMBER: /[0-9]+/', "a77"),
    "gbnf": ('root ::= "yes" | "no"', "yes"),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_follows_its_source(compiler, kind):
    source, text = SOURCES[kind]
    constraint = compiler.compile(kind, source).start()
    for byte in text.encode():
        assert byte in allowed(constraint)
        constraint.consume(byte)
    assert END in allowed(constraint) or constraint.stopped
    assert ord("!") not in allowed(compiler.compile(kind, source).start())


REFUSED = {
    "an unknown kind": ("yaml", "a: 1", "one_of|expected json_schema"),
    "no JSON": ("json_schema", "{", "expected a schema in JSON"),
    "no schema": ("json_schema", "[1]", "expected a JSON schema"),
    "a keyword that cannot be held": ("json_schema", '{"uniqueItems": true}', "uniqueItems"),
    "a schema elsewhere": ("json_schema", '{"$ref": "https://example.org/x"}', "example.org"),
    "deep nesting": ("json_schema", '{"a":' * 5000 + "1" + "}" * 5000, "."),
    "a broken pattern": ("regex", "(a", "regex"),
    "an unknown rule": ("lark", "start: nowhere", "nowhere"),
    "no GBNF": ("gbnf", "root ::= ((", "GBNF|."),
    "a huge GBNF": ("gbnf", "root ::= x #" + "a" * (1 << 16), "at most 65536 characters"),
    "a huge source": ("regex", "a" * (1 << 20 | 1), "at most 1048576 characters"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_sources_are_refused(compiler, case):
    kind, source, says = REFUSED[case]
    with pytest.raises(SessionError) as caught:
        compiler.compile(kind, source)
    message = str(caught.value)
    assert re.search(says, message) and message.startswith("[grammar]") and "\n" not in message


def test_what_cannot_be_held_is_left_out_where_that_is_asked_for(compiler):
    source = json.dumps({"type": "array", "uniqueItems": True})
    assert ord("[") in allowed(compiler.compile("json_schema", source, strict=False).start())


def test_the_last_grammars_are_kept(compiler):
    first = compiler.compile("regex", "first")
    assert compiler.compile("regex", "first") is first
    for i in range(MAX_KEPT):
        compiler.compile("regex", f"other{i}")
    assert compiler.compile("regex", "first") is not first
