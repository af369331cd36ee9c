"""Rows of a table answered without Ray: what one row does to others, what is kept."""

import json

import numpy as np
import pytest

import moeflux
from moeflux.distributed import batches
from moeflux.distributed.batches import COLUMNS, MoefluxBatch
from moeflux.distributed.kept import SUFFIX, Kept

SMALL = {"context": 512, "memory": "64MiB", "threads": 1}
FIELDS = {"max_tokens": 12, "temperature": 0.7}
QUESTIONS = ["What is moeflux?", "What is a mutex?", "What is a list?"]


def table(*questions):
    column = np.empty(len(questions), dtype=object)
    column[:] = [[{"role": "user", "content": q}] if isinstance(q, str) else q for q in questions]
    return {"id": np.arange(len(questions)), "messages": column}


@pytest.fixture
def batch():
    made = []

    def batch(model="demo-chat", **more):
        made.append(MoefluxBatch(model, **{"fields": FIELDS, **SMALL, **more}))
        return made[-1]

    yield batch
    for one in made:
        one.close()


def plain(found):
    return [[row[i] for row in (found[name].tolist() for name in COLUMNS)]
            for i in range(len(found["id"]))]  # fmt: skip


def test_a_row_that_fails_is_a_sentence_beside_the_answers_of_the_others(batch):
    wrong = [[], [{"role": "nobody", "content": "x"}], {"a": 1}, 42]
    asked = table(QUESTIONS[0], *wrong, QUESTIONS[1], QUESTIONS[0])
    found = batch()(asked)
    assert found["id"].tolist() == list(range(7)) and found["messages"] is asked["messages"]
    failed = [error is not None for error in found["error"]]
    assert failed == [False, True, True, True, True, False, False]
    assert [answer is None for answer in found["answer"]] == failed
    assert found["answer"][0] == found["answer"][6] != found["answer"][5]  # drawn by what is asked
    assert all(n == 12 for n in found["answer_tokens"][[0, 5, 6]])


def test_answers_do_not_depend_on_the_batch_that_they_are_in(batch):
    together = batch()
    alone = batch(memory="32MiB")
    found = plain(together(table(*QUESTIONS)))
    assert found == [plain(alone(table(question)))[0] for question in QUESTIONS]


def test_texts_are_gone_on_with(batch):
    prompts = {"id": np.arange(2), "prompt": np.array(["def main(", "import os"], dtype=object)}
    found = batch(None, kind="prompt", fields={"max_tokens": 4, "temperature": 0})(prompts)
    with moeflux.load(**SMALL) as model:
        wanted = [moeflux.generate(model, p, max_tokens=4) for p in prompts["prompt"]]
    assert found["answer"].tolist() == wanted


def test_what_was_answered_is_taken_from_the_folder(batch, tmp_path, monkeypatch):
    folder = tmp_path / "rows"
    first = batch(answered=folder)(table(*QUESTIONS[:2], []))
    asked = []

    async def answer(app, line, name):
        asked.append(json.loads(line)["body"]["messages"][0]["content"])
        return await real(app, line, name)

    real = batches.answers.answer
    monkeypatch.setattr(batches.answers, "answer", answer)
    second = batch(answered=folder)(table(*QUESTIONS[:2], [], QUESTIONS[2]))
    assert asked == [QUESTIONS[2]]
    assert plain(second)[:3] == plain(first)
    other = batch(answered=folder, fields={**FIELDS, "max_tokens": 6})  # another question
    assert other(table(QUESTIONS[0]))["answer_tokens"][0] == 6


def test_an_answer_of_a_failed_engine_is_not_kept(batch, tmp_path, monkeypatch):
    async def answer(app, line, name):
        error = {"error": {"message": "the disk is gone"}}
        return 500, {"response": {"status_code": 500, "body": error}, "error": None}

    real = batches.answers.answer
    monkeypatch.setattr(batches.answers, "answer", answer)
    one = batch(answered=tmp_path)
    assert one(table(QUESTIONS[0]))["error"].tolist() == ["the disk is gone"]
    monkeypatch.setattr(batches.answers, "answer", real)
    assert one(table(QUESTIONS[0]))["error"].tolist() == [None]


@pytest.mark.parametrize("end", [1, 7, 20, -1])
def test_a_file_that_was_cut_or_damaged_loses_no_whole_line(end, tmp_path):
    kept = Kept(tmp_path)
    kept.add({"a": [1], "b": {"x": "é"}})
    (path,) = tmp_path.glob(f"*{SUFFIX}")
    whole = path.read_bytes()
    second = whole.index(b"\n") + 1
    path.write_bytes(whole[: second + end] if end > 0 else whole[:-1])
    again = Kept(tmp_path)
    assert again.get("a") == [1] and again.get("b") is None
    path.write_bytes(whole[:second] + whole[second:].replace(b"x", b"y"))
    assert Kept(tmp_path).get("b") is None
    again.add({"b": 2})
    assert Kept(tmp_path).get("b") == 2 and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("given", "word"), [({"kind": "text"}, "kind"), ({"reasoning": "on"}, "reasoning"),
                        ({"memory": "1MB"}, "memory"), ({"answered": "/proc/x"}, "keep answers")],
)  # fmt: skip
def test_arguments_are_refused_by_name(given, word, batch):
    with pytest.raises(moeflux.MoefluxError, match=word):
        batch(**given)


def test_a_table_without_the_column_is_refused(batch):
    with pytest.raises(moeflux.FormatError, match=r"column 'messages', found id, text"):
        batch()({"id": np.arange(1), "text": np.array(["x"])})
