"""Chat templates against what transformers renders of them (tools/goldens/templates.py)."""

import json

import pytest

import moeflux
from moeflux import _template_worker
from moeflux.tokenizer import Tokenizer
from oracle import build, goldens, tokenizer_file

GOLDEN = json.loads((goldens.FOLDER / "chat_templates.json").read_text(encoding="utf-8"))
CASES = json.loads((goldens.FOLDER / "templates.json").read_text(encoding="utf-8"))["cases"]
CHAT = [{"role": "user", "content": "hi"}]


def tokenizer_with(folder, template, settings=None):
    """The oracle's tokenizer with a template and entries of tokenizer_config.json."""
    tokenizer_file.write_tokenizer(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"chat_template": template} | (settings or {})
    path.write_text(json.dumps(config))
    return Tokenizer(folder, {})


class InThisProcess(_template_worker.Renderer):
    """A renderer without a process: test_renderer.py tests those."""

    def __init__(self, template):
        super().__init__({"template": template, "max_chars": 10**6})
        self.template = template

    def render(self, request):
        try:
            return super().render(json.loads(json.dumps(request)))
        except Exception as error:
            raise moeflux.TemplateError(str(error)) from None


@pytest.fixture(scope="module")
def golden_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    tokenizer_file.write_tokenizer(folder, GOLDEN["added"])
    return folder


@pytest.mark.parametrize("name", GOLDEN["templates"])
def test_a_template_of_a_family_renders_as_transformers_renders_it(
    golden_folder, name, monkeypatch
):
    monkeypatch.setattr("moeflux.tokenizer.Renderer", InThisProcess)
    case = GOLDEN["templates"][name]
    (golden_folder / "chat_template.jinja").write_text("\n".join(case["lines"]))
    config = json.loads((golden_folder / "tokenizer_config.json").read_text()) | GOLDEN["settings"]
    (golden_folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer(golden_folder, {})
    for render in case["renders"]:
        messages, options = goldens.chat(GOLDEN, render)
        if "error" in render:
            with pytest.raises(moeflux.TemplateError) as error:
                tokenizer.apply_template(messages, **options)
            assert render["error"] in str(error.value), render["talk"]
        elif "ids" in render:
            assert tokenizer.encode_chat(messages, **options) == render["ids"], render["talk"]
        else:
            assert tokenizer.apply_template(messages, **options) == render["text"], render["talk"]


@pytest.mark.parametrize("name", CASES)
def test_a_template_renders_as_transformers_renders_it(tmp_path, name, monkeypatch):
    monkeypatch.setattr("moeflux.tokenizer.Renderer", InThisProcess)
    case = CASES[name]
    tokenizer = tokenizer_with(tmp_path, case["template"], case["settings"])
    assert tokenizer.apply_template(case["messages"]) == case["text"]


def test_named_tokens_of_older_checkpoints_have_a_file_of_their_own(tmp_path):
    (tmp_path / "special_tokens_map.json").write_text('{"sep_token": {"content": "<s>"}}')
    template = "{{ sep_token }}{{ eos_token }}"
    assert tokenizer_with(tmp_path, template).apply_template(CHAT) == "<s><|im_end|>"
    newer = tokenizer_with(tmp_path, template, {"added_tokens_decoder": {}})
    assert newer.apply_template(CHAT) == "<|im_end|>"


@pytest.mark.parametrize("token", ["<|im_end|>", {"content": "<|im_end|>"}])
def test_the_tokenizers_own_end_of_text_ends_a_text(tmp_path, token):
    assert tokenizer_with(tmp_path, "", {"eos_token": token}).eos_ids == {256}
    assert tokenizer_with(tmp_path, "", {"eos_token": "\ud800"}).eos_ids == frozenset()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [({"tool": []}, TypeError, "apply_template.*'tool'"),
     ({"tools": "f"}, moeflux.SessionError, "tools: .* list of dicts"),
     ({"tools": [print]}, moeflux.SessionError, "tools"),
     ({"documents": [{"text": "\ud800"}]}, moeflux.SessionError, "documents"),
     ({"chat_template_kwargs": {"messages": []}}, moeflux.SessionError, "without messages"),
     ({"chat_template_kwargs": {"x": object()}}, moeflux.SessionError, "chat_template_kwargs"),
     ({"add_generation_prompt": "yes"}, moeflux.SessionError, "add_generation_prompt"),
     ({"add_generation_prompt": True, "continue_final_message": True}, moeflux.SessionError,
      "found both"),
     ({"continue_final_message": "thinking"}, moeflux.SessionError, "a text of thinking"),
     ({"special_as_text": True}, moeflux.SessionError, "encode_chat")],
)  # fmt: skip
def test_options_that_a_template_cannot_be_given_are_refused(tmp_path, options, error, words):
    with pytest.raises(error, match=words):
        tokenizer_with(tmp_path, "{{ messages }}").apply_template(CHAT, **options)


@pytest.mark.parametrize("kind", ["image", "image_url", "input_audio", "video", "file"])
def test_parts_that_are_no_text_are_refused_by_name(tmp_path, kind):
    content = [{"type": "text", "text": "see"}, {"type": kind, "url": "x"}]
    with pytest.raises(moeflux.SessionError, match=f"parts of text, found '{kind}'"):
        tokenizer_with(tmp_path, "x").apply_template([{"role": "user", "content": content}])


def test_a_text_that_the_template_changes_cannot_be_continued(tmp_path):
    tokenizer = tokenizer_with(tmp_path, "{{ messages[-1].content | upper }}")
    with pytest.raises(moeflux.TemplateError, match="does not write the last message"):
        tokenizer.apply_template(CHAT, continue_final_message=True)


def test_with_tools_the_template_for_tools_is_taken(tmp_path):
    named = [{"name": name, "template": name} for name in ("default", "tool_use")]
    tokenizer = tokenizer_with(tmp_path, named)
    assert tokenizer.apply_template(CHAT) == "default"
    assert tokenizer.apply_template(CHAT, tools=[]) == "tool_use"
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("file")
    assert tokenizer_with(tmp_path, "one").apply_template(CHAT, tools=[]) == "file"


def test_special_tokens_of_texts_stay_text_in_any_form_of_them(tmp_path):
    """The text between two tokens is encoded as a tokenizer without special tokens does it."""
    tokenizer = tokenizer_with(tmp_path, "<|im_end|>{{ messages[0].content }}<|im_end|>")
    for text in ("<|im_end|>", "a<|im_end|>", "<|im_end|><|im_end|>b", "\ufdd0<|im_end|>\ufdd1",
                 "<|im_<|im_end|>end|>"):  # fmt: skip
        chat = [{"role": "user", "content": text}]
        assert tokenizer.encode_chat(chat, special_as_text=True) == [256, *text.encode(), 256]
        assert tokenizer.encode_chat(chat).count(256) > 2


def test_what_the_assistant_wrote_keeps_its_tokens(tmp_path):
    tokenizer = tokenizer_with(tmp_path, "{{ messages[0].content }}")
    ids = {
        role: tokenizer.encode_chat([{"role": role, "content": "<|im_end|>"}], special_as_text=True)
        for role in ("assistant", "user")
    }
    assert ids == {"assistant": [256], "user": [*b"<|im_end|>"]}


def test_of_tokens_that_begin_alike_the_longest_is_meant(tmp_path):
    tokenizer_file.write_tokenizer(tmp_path, {"<x>": True, "<x><y>": True, "<x><y><z>": True})
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}<x><y><x><x><y><z>")
    chat = [{"role": "user", "content": "<x><y>"}]
    assert Tokenizer(tmp_path, {}).encode_chat(chat, special_as_text=True) == [
        *b"<x><y>", 258, 257, 259,
    ]  # fmt: skip


def test_a_special_token_that_a_model_of_text_makes_is_refused(tmp_path):
    """A merge makes it of the two bytes of a text."""
    tokenizer_file.write_tokenizer(tmp_path, {"ab": True})
    path = tmp_path / "tokenizer.json"
    settings = json.loads(path.read_text())
    settings["model"]["vocab"]["ab"], settings["model"]["merges"] = 257, ["a b"]
    path.write_text(json.dumps(settings))
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(moeflux.SessionError, match="no other form"):
        Tokenizer(tmp_path, {}).encode_chat([{"role": "user", "content": "ab"}],
                                            special_as_text=True)  # fmt: skip


def test_generate_and_a_conversation_give_options_to_the_template(tmp_path):
    folder = build(tmp_path / "m", family="qwen3_moe", form="mlx-q4")
    template = "{{ messages[-1].content }}{{ mood }}{{ 'T' if tools }}"
    (folder / "chat_template.jinja").write_text(template)
    model, options = moeflux.load(folder, memory="64MiB", context=64), {"max_tokens": 4}
    chat = {"chat_template_kwargs": {"mood": "!"}, "tools": [{}]}
    expected = moeflux.generate(model, "hi!T", **options)
    assert moeflux.generate(model, messages=CHAT, **options, **chat) == expected
    talk = moeflux.Conversation(model, **chat)
    assert "".join(part.text for part in talk.reply("hi", **options)) == expected
    with pytest.raises(moeflux.SessionError, match="either a prompt or messages"):
        moeflux.generate(model, "hi", tools=[])
    with pytest.raises(TypeError, match=r"generate\(\) .*'max_tokenz'"):
        moeflux.generate(model, "hi", max_tokenz=4)
    with pytest.raises(TypeError, match=r"Conversation\(\) .*'tool'"):
        moeflux.Conversation(model, tool=[])
