"""Keys of GGUF files that lie: values of another kind, and counts that a small file makes large."""

from collections import Counter
from dataclasses import replace

import gguf as package
import numpy as np
import pytest

import moeflux
from moeflux.checkpoint import open_checkpoint
from moeflux.families import build_spec
from moeflux.gguf import choice, contents, splits, transforms, vocabulary
from moeflux.gguf.header import Entry, Header, read_header
from moeflux.gguf.types import TYPES
from moeflux.tokenizer import Tokenizer
from support import gguf_twin

VALUES = [0, 1, 7, -1, 1 << 63, 0.5, float("nan"), True, False, "", "x", [], [b""], [b"a", b"b"],
          [b"\xff"], *(np.array(v) for v in ([], [3], [0, 1], [1.5, 2.5], [True, False], [-1, -2]))
          ]  # fmt: skip


class Asked(dict):
    """Metadata that counts how often keys were asked for."""

    def __init__(self, metadata):
        super().__init__(metadata)
        self.asked = Counter()

    def get(self, key, default=None):
        self.asked[key] += 1
        return super().get(key, default)


def load_all(path, headers, monkeypatch):
    """All that is made of a file's keys."""
    monkeypatch.setattr(contents, "read_all", lambda _: headers)
    monkeypatch.setattr(vocabulary, "read_all", lambda _: headers)
    build_spec(open_checkpoint(path))
    Tokenizer(path, {}).encode("ab")


FEW_LAYERS = {
    "gemma4": {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]},
    "lfm2_moe": {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]},
}
SCORES = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.scores": None,
    "tokenizer.ggml.add_space_prefix": True,
}


@pytest.mark.parametrize(
    ("family", "kind"),
    [("qwen3_5_moe", "gpt2"), ("mixtral", "llama"), ("glm4_moe", "gpt2"), ("gemma4", "gemma4"),
     ("lfm2_moe", "gpt2"), ("mistral4", "gpt2")],
)  # fmt: skip
def test_every_key_that_is_read_may_have_every_kind_of_value(family, kind, tmp_path, monkeypatch):
    path, _ = gguf_twin.make(tmp_path, family, **FEW_LAYERS.get(family, {"num_hidden_layers": 1}))
    header = read_header(path)
    metadata = dict(header.metadata) | {"tokenizer.ggml.model": kind}
    if kind == "llama":
        metadata |= SCORES | {
            "tokenizer.ggml.scores": np.zeros(len(metadata["tokenizer.ggml.tokens"]))
        }
    asked = Asked(metadata)
    load_all(path, [replace(header, metadata=asked)], monkeypatch)
    assert len(asked.asked) > 40
    for key in sorted({*asked.asked, "tokenizer.chat_template"}):
        for value in VALUES:
            headers = [replace(header, metadata=metadata | {key: value})]
            try:
                load_all(path, headers, monkeypatch)
            except moeflux.MoefluxError as error:
                assert str(path) in str(error), (key, value)
            except Exception as error:
                pytest.fail(f"{key} = {value!r}: {error!r}")


def test_keys_are_read_once_however_many_tensors_there_are(tmp_path):
    path, _ = gguf_twin.make(tmp_path, "mixtral", num_hidden_layers=2)
    header = read_header(path)
    metadata = Asked(header.metadata)
    contents.contents([replace(header, metadata=metadata)])
    assert metadata.asked["llama.block_count"] == 1
    assert set(metadata.asked.values()) == {1}


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("key", ["split.no", "split.count", "split.tensors.count"])
def test_counts_of_files_may_be_anything(key, value, tmp_path):
    def read(path):
        number = int(path.name[2:7]) - 1
        said = {"split.no": number, "split.count": 2, "split.tensors.count": 0}
        return Header(path, said | {key: value}, [])

    try:
        splits.read_all(tmp_path / "m-00001-of-00002.gguf", read)
    except moeflux.FormatError as error:
        assert str(tmp_path) in str(error)


def entry(name, *shape, kind=0):
    one = TYPES[kind]
    return Entry(name, one, shape, 0, int(np.prod(shape)) // one.columns * one.nbytes)


@pytest.fixture
def described(tmp_path):
    """What is made of a file that is only described, given keys and tensors beside its own."""

    def described(family, keys, entries):
        path, _ = gguf_twin.make(tmp_path, family, num_hidden_layers=1)
        header = read_header(path)
        names = {entry.name for entry in entries}
        own = [entry for entry in header.entries if entry.name not in names]
        metadata = header.metadata | keys
        return contents.contents([Header(path, metadata, [*own, *entries])])

    return described


def refused(words):
    return pytest.raises(moeflux.FormatError, match=words)


def test_a_convolution_of_many_value_heads_is_no_large_one(described):
    rows, columns = 2 * 512 + 4096, 4
    keys = {"group_count": 1, "time_step_rank": 4096, "state_size": 512, "inner_size": 4096}
    with refused("at most 16777216 bytes of .*conv1d.weight with keys of each value head"):
        described("qwen3_5_moe", {f"qwen35moe.ssm.{key}": value for key, value in keys.items()},
                  [entry("blk.0.ssm_conv1d.weight", rows, columns),
                   entry("blk.0.attn_qkv.weight", rows, 1)])  # fmt: skip


@pytest.mark.parametrize(("shape", "kind"), [((1 << 23,), 0), ((256,), 2)])
def test_a_vector_that_is_only_described_is_checked_as_one_that_is_read(described, shape, kind):
    with refused("expected F32, F16, BF16 of at most 16777216 bytes for .*A_log"):
        described("qwen3_next", {}, [entry("blk.0.ssm_a", *shape, kind=kind)])


def test_rows_in_another_order_are_bounded_in_sum(described, monkeypatch):
    monkeypatch.setattr(contents, "MAX_ROWS", 100)
    with refused("expected at most 100 rows in another order"):
        described("mixtral", {}, [])


def test_made_numbers_are_bounded_in_sum(described, monkeypatch):
    monkeypatch.setattr(contents, "MAX_MADE_BYTES", 100)
    with refused("and 100 bytes of other numbers"):
        described("qwen3_5_moe", {}, [])


def test_a_layer_that_the_file_has_not_is_refused_before_anything_is_made_of_it(
    described, monkeypatch
):
    monkeypatch.setattr(transforms, "MAX_HEADS", 0)  # what is transformed is refused by other words
    with refused("no place for, found 'blk.1.attn_q.weight'"):
        described("mixtral", {}, [entry("blk.1.attn_q.weight", 128, 128),
                                  entry("blk.0.attn_q.weight", 128, 128),
                                  entry("blk.0.attn_k.weight", 128, 128)])  # fmt: skip


@pytest.mark.parametrize("name", ["a.gguf", "a-00002-of-00003.gguf", "a-00003-of-00002.GGUF",
                                  "a-00000-of-00002.gguf", "a-00007-of-00012.GGUF"])  # fmt: skip
def test_the_first_name_is_the_first_of_all(name):
    assert splits.first(name) == splits.names(name)[0]


def test_a_choice_names_no_files_that_there_are_not(monkeypatch):
    monkeypatch.setattr(splits, "names", lambda name: pytest.fail("all names were built"))
    files = [f"a-{i:05}-of-99999.gguf" for i in (1, 2, 99999)]
    assert choice.models(files) == [files]


def vocabulary_file(path, tokens, **keys):
    """A vocabulary of scores, of which the first token is bos."""
    out = package.GGUFWriter(path, "llama")
    out.add_tokenizer_model("llama")
    out.add_token_list(tokens)
    out.add_token_scores([0.0] * len(tokens))
    out.add_token_types([3] + [1] * (len(tokens) - 1))
    out.add_bos_token_id(0)
    for write in (out.write_header_to_file, out.write_kv_data_to_file, out.write_tensors_to_file):
        write()
    out.close()
    return path


def test_pairs_of_a_vocabulary_are_bounded(tmp_path, monkeypatch):
    path = vocabulary_file(tmp_path / "v.gguf", ["<s>", *("a" * i for i in range(1, 128))])
    assert vocabulary.read(path)
    monkeypatch.setattr(vocabulary, "_MOST_PAIRS", 1000)
    with refused("at most 1000 pairs"):
        vocabulary.read(path)


@pytest.mark.parametrize("bos", ["a:b", "$A", "$B", "$0", "<s>:1", ":", "$", "$A:7", "bos"])
def test_a_text_begins_with_bos_whatever_it_is_called(bos, tmp_path):
    path = vocabulary_file(tmp_path / "v.gguf", [bos, "x", "y", "\u2581"])
    assert Tokenizer(path, {}).encode("xy") == [0, 3, 1, 2]


def test_errors_of_the_tokenizers_package_name_the_file(tmp_path, monkeypatch):
    path = vocabulary_file(tmp_path / "v.gguf", ["<s>", "x"])

    def refuse(*_):
        raise ValueError("no such thing")

    monkeypatch.setattr(vocabulary, "_add_special", refuse)
    with refused("expected a tokenizer, found: no such thing.*v.gguf"):
        vocabulary.read(path)


KEYS = [
    ({"rope.scaling.factor": 4.0}, "rope.scaling.type with a rope.scaling.factor"),
    ({"rope.scale_linear": 4.0}, "rope.scale_linear 0 or 1, found 4.0"),
    ({"attention.layer_norm_rms_epsilon": None}, "layer_norm_rms_epsilon, found none"),
    ({"expert_used_count": np.array([2, 0])}, r"one qwen3moe.expert_used_count for all layers"),
    ({"rope.freq_base": np.array([0.0, 1e6])}, r"one qwen3moe.rope.freq_base for all layers"),
    ({"attention.recurrent_layers": True, "ssm.inner_size": 8, "ssm.time_step_rank": 1},
     "expected an array in qwen3moe.attention.recurrent_layers"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "words"), KEYS)
def test_what_keys_mean_is_done_or_refused_by_name(keys, words, described):
    with refused(words):
        described("qwen3_moe", {f"qwen3moe.{key}": value for key, value in keys.items()}, [])


@pytest.mark.parametrize("log", ["x", "", False], ids=repr)
def test_a_multiplier_that_is_no_number_is_not_left_out(log, described):
    with refused(f"a number in mistral4.rope.scaling.yarn_log_multiplier, found {log!r}"):
        described("mistral4", {"mistral4.rope.scaling.yarn_log_multiplier": log}, [])


def test_what_the_absence_of_keys_means(described):
    found = described("qwen3_moe", {"qwen3moe.rope.freq_base": None,
                                    "qwen3moe.rope.scaling.factor": 1.0,
                                    "qwen3moe.attention.head_count": np.array([4, 0, 4])},
                      [])  # fmt: skip
    assert found.config["rope_theta"] == 10000 and found.config["num_attention_heads"] == 4
