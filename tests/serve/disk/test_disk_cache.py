"""Prompts on disk: a restart goes on from them, and no file does harm."""

import asyncio
import logging
import stat
import threading

import pytest

from moeflux.checkpoint import open_checkpoint
from moeflux.identity import Identity
from moeflux.serve.disk_cache import DiskCache
from moeflux.serve.prefixes import Prefixes
from oracle import build
from support import disks
from support.prompts import LENGTH, answer, asks, files, kept, serving, tokens


def test_a_restart_goes_on_from_the_disk_with_the_bits_of_a_cold_start(
    tmp_path, model_folder, cold
):
    ids = tokens()
    [(first, usage)], text = serving(model_folder, tmp_path / "kept", asks(ids))
    assert usage.cached_memory == usage.cached_disk == 0
    later = [*ids, *(one.token for one in first), *tokens(20, seed=3)]
    [(said, usage)], text = serving(model_folder, tmp_path / "kept", asks(later))
    assert usage.cached_disk >= LENGTH and usage.cached_memory == 0
    assert said == cold(later)[0] and len(said) == 5
    assert f'moeflux_prompt_tokens_total{{source="disk"}} {usage.cached_disk:.1f}' in text
    assert 'moeflux_disk_cache_files_total{event="read"} 1.0' in text
    assert 'moeflux_snapshots{where="disk"} ' in text and "moeflux_disk_cache_bytes " in text
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o700
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files(tmp_path / "kept"))


def test_what_memory_lets_go_is_written_and_found_again(tmp_path, model_folder, cold):
    """Memory for a few prompts: the others are on disk when they are asked for again."""
    prompts = [tokens(LENGTH + 10 * i, seed=i) for i in range(6)]
    again = [[*ids, 5] for ids in prompts]

    async def work(engine):
        found = []
        for ids in (*prompts, *again):
            found.append(await answer(engine, ids))
            while engine._loop.prefixes.is_busy:  # a slow disk would miss some
                await asyncio.sleep(0.01)
        stats = engine.stats()
        assert 0 < stats["cached_bytes"] <= stats["cache_bytes"] and stats["disk_bytes"] > 0
        return found[len(prompts) :]

    found, text = serving(model_folder, tmp_path, work, cache_memory="1MiB")
    assert [said for said, _ in found] == cold(*again)
    assert all(u.cached_disk + u.cached_memory >= LENGTH for _, u in found)
    assert sum(u.cached_disk > 0 for _, u in found) >= 2
    assert 'event="failed"} 0.0' in text


def test_memory_alone_is_asked_first(tmp_path, model_folder, monkeypatch):
    """What the disk has as well is not waited for."""
    ids, expect, wait = tokens(), Prefixes.expect, []

    def noted(self, sequence):
        expect(self, sequence)
        wait.append(sequence in self._on_disk)

    monkeypatch.setattr(Prefixes, "expect", noted)

    async def work(engine):
        await answer(engine, ids)
        return await answer(engine, [*ids, 5])

    serving(model_folder, tmp_path, work)
    (_, usage), text = serving(model_folder, tmp_path, work)
    assert usage.cached_memory >= LENGTH and usage.cached_disk == 0
    assert 'event="read"} 0.0' in text and wait == [False] * 4


def test_those_that_ask_for_the_same_read_it_once(tmp_path, model_folder, cold, monkeypatch):
    ids, all_wait, read = tokens(), threading.Event(), DiskCache.read
    serving(model_folder, tmp_path, asks(ids))

    def held(*args, **more):
        assert all_wait.wait(60)
        return read(*args, **more)

    async def work(engine):
        asked = [asyncio.create_task(answer(engine, [*ids, i])) for i in (3, 4, 5)]
        while len(engine._loop.prefixes._fetching) < 3:
            await asyncio.sleep(0.001)
        all_wait.set()
        return await asyncio.gather(*asked)

    monkeypatch.setattr(DiskCache, "read", held)
    found, text = serving(model_folder, tmp_path, work)
    assert [said for said, _ in found] == cold(*([*ids, i] for i in (3, 4, 5)))
    assert all(u.cached_disk + u.cached_memory >= LENGTH for _, u in found)
    assert 'event="read"} 1.0' in text


def test_many_that_are_on_disk_are_read_as_there_is_room(tmp_path, model_folder, cold):
    """Memory for two of them: the others wait for their turn to be read."""
    prompts = [tokens(LENGTH + 10 * i, seed=i) for i in range(6)]
    again = [[*ids, 5] for ids in prompts]
    serving(model_folder, tmp_path, asks(*prompts), cache_memory="32MiB")
    assert len(files(tmp_path)) >= 6

    async def work(engine):
        return await asyncio.gather(*(answer(engine, ids) for ids in again))

    found, text = serving(model_folder, tmp_path, work, cache_memory="1MiB", max_running=2)
    assert [said for said, _ in found] == cold(*again)
    assert all(u.cached_disk >= LENGTH for _, u in found)
    assert 'event="read"} 6.0' in text


@pytest.mark.parametrize("where", ["head", "tokens", "state", "end", "cut", "empty", "other"])
def test_a_damaged_file_is_removed_and_never_serves(
    tmp_path, model_folder, model, cold, caplog, where
):
    ids = tokens()
    serving(model_folder, tmp_path, asks(ids))
    for file in files(tmp_path):
        data = bytearray(file.read_bytes())
        places = {"head": 60, "tokens": 700, "state": len(data) // 2, "end": len(data) - 1}
        if where in places:
            data[places[where]] ^= 4
        file.write_bytes({"cut": data[:-1], "empty": b""}.get(where, data))
        if where == "other":  # a whole file of other tokens
            kept(model, tokens(seed=9)).write(file, tokens=tokens(seed=9))
    with caplog.at_level(logging.WARNING, "moeflux"):
        [(said, usage)], text = serving(model_folder, tmp_path, asks([*ids, 5]))
    assert said == cold([*ids, 5])[0] and usage.cached_disk == 0
    assert any("a kept prompt is removed" in line for line in caplog.messages)
    if where != "other":  # of several files one at least was found out
        assert 'event="damaged"} 0.0' not in text


def test_other_models_and_precisions_files_are_ignored_and_stay(tmp_path, model_folder, model):
    ids = tokens()
    serving(model_folder, tmp_path, asks(ids))
    before = files(tmp_path)
    other = build(tmp_path / "other", family="qwen3_moe", form="mlx-q4", seed=99)
    for folder, load in ((other, {}), (model_folder, {"precision": "bfloat16"}),
                         (model_folder, {"context": 280})):  # fmt: skip
        prompt = ids[:270] if load.get("context") else ids
        [(_, usage)], text = serving(folder, tmp_path, asks([*prompt, 5]), load=load)
        assert usage.cached_disk == 0 and 'event="damaged"} 0.0' in text
    assert set(before) <= set(files(tmp_path))
    [(_, usage)], _ = serving(model_folder, tmp_path, asks([*ids, 5]))
    assert usage.cached_disk >= LENGTH


def test_a_checkpoint_that_changes_in_place_is_another(tmp_path):
    """By a byte of one expert, which no sample of the weights finds."""
    folder, ids = build(tmp_path / "model", family="qwen3_moe", form="mlx-q4"), tokens()
    serving(folder, tmp_path / "kept", asks(ids))
    checkpoint = open_checkpoint(folder)
    before = Identity(checkpoint).weights
    tensor = next(t for t in checkpoint.tensors.values() if t.dtype == "U32" and len(t.shape) == 3)
    with checkpoint.files[tensor.file].open("r+b") as stream:
        stream.seek(tensor.offset)
        byte = stream.read(1)[0]
        stream.seek(tensor.offset)
        stream.write(bytes([byte ^ 0x33]))
    assert Identity(open_checkpoint(folder)).weights == before
    [(_, usage)], _ = serving(folder, tmp_path / "kept", asks([*ids, 5]))
    assert usage.cached_disk == 0
    [(_, usage)], _ = serving(folder, tmp_path / "kept", asks([*ids, 5, 6]))
    assert usage.cached_disk >= LENGTH


def test_scopes_share_nothing(tmp_path, model_folder):
    ids = tokens()
    serving(model_folder, tmp_path, asks(ids, scope="one"))
    [(_, usage)], _ = serving(model_folder, tmp_path, asks([*ids, 5], scope="two"))
    assert usage.cached_disk == 0
    [(_, usage)], _ = serving(model_folder, tmp_path, asks([*ids, 5], scope="one"))
    assert usage.cached_disk >= LENGTH


def test_a_full_disk_costs_no_answer_and_leaves_nothing(tmp_path, model_folder, cold, caplog):
    prompts = [tokens(seed=i) for i in range(5)]
    with disks.full(20_000), caplog.at_level(logging.WARNING, "moeflux"):
        found, _ = serving(model_folder, tmp_path, asks(*prompts), cache_memory="1MiB")
    assert [said for said, _ in found] == cold(*prompts)
    assert not list(tmp_path.iterdir())
    told = [line for line in caplog.messages if "not kept on disk" in line]
    assert len(told) == 1 and "cannot write" in told[0]  # once, not for each


def test_where_memory_is_short_answers_are_those_of_each_alone(tmp_path, model_folder, cold):
    """Choices come in place of snapshots, which are written first."""
    prompts = [tokens(LENGTH + 40 * i, seed=i) for i in range(8)]
    load = {"memory": "12MiB", "max_slots": None}

    async def work(engine):
        found = []
        for part in (prompts[:3], prompts[3:6], prompts[6:], prompts[:2]):
            found += await asyncio.gather(*(answer(engine, [*ids, 1]) for ids in part))
        return found, engine.stats()

    (found, stats), text = serving(model_folder, tmp_path, work, load=load, cache_memory="60%")
    expected = cold(*([*ids, 1] for ids in prompts))
    assert [said for said, _ in found] == expected + expected[:2]
    assert stats["peak_bytes"] <= stats["memory_bytes"]
    assert 'event="failed"} 0.0' in text
