"""Dispatches and command buffers: geometry, order, waiting, lifetimes, threads, Ctrl-C."""

import gc
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import moeflux as mf
from support.devices import DEVICES, SLOW_DIM, Add, buffer, filled, record_slow

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("grid", "threadgroup"),
    [(None, None), ((77, 1, 1), (32, 1, 1)), (77, 64), ((77,), (1,)), ([128, 1], None)],
)
def test_geometry_may_be_whole_short_ragged_or_left_out(backend, grid, threadgroup):
    add = Add(backend, 77)
    assert backend.dispatch("residual_add", add.args, grid=grid, threadgroup=threadgroup) is None
    np.testing.assert_array_equal(add.out.numpy(), add.expected)


def test_a_command_is_done_after_wait_and_a_view_is_valid_again(backend):
    add = Add(backend)
    view = add.out.numpy()
    command = backend.dispatch("residual_add", add.args, wait=False)
    command.wait()
    assert command.done and command.gpu_seconds >= 0
    np.testing.assert_array_equal(view, add.expected)
    command.wait()  # again does nothing


def test_numpy_waits_for_the_commands_that_write(backend):
    with backend.commands(wait=False) as commands:
        out = record_slow(commands, backend, n=3)
    np.testing.assert_array_equal(out.numpy(), np.full(SLOW_DIM, SLOW_DIM))
    assert commands.done and commands.gpu_seconds > 0


def test_dispatches_of_one_command_buffer_run_in_order(backend):
    add = Add(backend)
    with backend.commands() as commands:
        for _ in range(5):
            commands.dispatch("residual_add", add.args)
            commands.dispatch("residual_add", [add.out, add.b, add.a, 8])
    a, b = np.arange(8), np.arange(8) + 0.5
    np.testing.assert_array_equal(add.out.numpy(), a + 9 * b)
    np.testing.assert_array_equal(add.a.numpy(), a + 10 * b)


def test_command_buffers_run_in_the_order_of_their_commits(backend):
    add = Add(backend)
    for _ in range(20):
        backend.dispatch("residual_add", [add.a, add.b, add.a, 8], wait=False)
    np.testing.assert_array_equal(add.a.numpy(), np.arange(8) + 20 * (np.arange(8) + 0.5))


def test_an_exception_while_recording_runs_nothing(backend):
    add = Add(backend)
    with pytest.raises(ZeroDivisionError), backend.commands() as commands:
        commands.dispatch("residual_add", add.args)
        1 / 0  # noqa: B018
    assert np.isnan(add.out.numpy()).all()
    assert not commands.done
    with pytest.raises(mf.GpuError, match="commit"):
        commands.wait()
    with pytest.raises(mf.GpuError, match="done"):
        commands.gpu_seconds  # noqa: B018


def test_a_refused_dispatch_leaves_the_others_of_its_command_buffer(backend):
    add = Add(backend)
    with backend.commands() as commands:
        commands.dispatch("residual_add", add.args)
        with pytest.raises(mf.FormatError):
            commands.dispatch("residual_add", [add.out, add.b, add.a, 9])
    np.testing.assert_array_equal(add.out.numpy(), add.expected)
    np.testing.assert_array_equal(add.a.numpy(), np.arange(8))


def test_a_committed_command_records_no_more(backend):
    add = Add(backend)
    command = backend.dispatch("residual_add", add.args, wait=False)
    with pytest.raises(mf.GpuError, match="records"):
        command.dispatch("residual_add", add.args)
    with pytest.raises(mf.GpuError, match="commit"), command:
        pass
    np.testing.assert_array_equal(add.out.numpy(), add.expected)


def test_buffers_and_backend_may_be_dropped_while_in_flight(backend):
    with backend.commands(wait=False) as commands:
        out = record_slow(commands, backend, n=5)  # its inputs are gone here
    del backend
    gc.collect()
    np.testing.assert_array_equal(out.numpy(), np.full(SLOW_DIM, SLOW_DIM))


@pytest.mark.parametrize("device", DEVICES)
def test_everything_may_be_dropped_while_in_flight(device):
    for _ in range(5):
        backend = mf.Backend(device)
        with backend.commands(wait=False) as commands:
            record_slow(commands, backend, n=2)
        del backend, commands
        gc.collect()


def test_none_stands_for_a_buffer_that_is_not_used(backend):
    k, dim = 3, 40
    h, shared = buffer(backend, np.ones(dim)), buffer(backend, np.ones(dim))
    experts = [buffer(backend, np.full(dim, i + 1)) for i in range(k)]
    params = buffer(backend, [*[2] * 16, 0, 0])
    out = filled(backend, dim)

    def args(n_given):
        return [h, shared, out, *experts[:n_given], *[None] * (16 - n_given), params, dim, k]

    backend.dispatch("moe_combine_residual", args(k))
    np.testing.assert_allclose(out.numpy(), np.full(dim, 1 + 2 * (1 + 2 + 3) + 0.5))
    with pytest.raises(mf.FormatError, match="expert_out2"):
        backend.dispatch("moe_combine_residual", args(k - 1))
    with pytest.raises(mf.FormatError, match="h_mid"):
        backend.dispatch("moe_combine_residual", [None, *args(k)[1:]])


def test_threads_share_a_backend(backend):
    failures = []

    def work(seed):
        try:
            for n in range(1, 60):
                add = Add(backend, n + seed)
                backend.dispatch("residual_add", add.args, wait=bool(n % 3))
                np.testing.assert_array_equal(add.out.numpy(), add.expected)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert backend.pipeline_count == 1


def test_many_threads_may_wait_for_one_command(backend):
    with backend.commands(wait=False) as commands:
        out = record_slow(commands, backend, n=5)
    seen = []
    threads = [
        threading.Thread(target=lambda: (commands.wait(), seen.append(out.numpy()[0])))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [SLOW_DIM] * 6


def test_python_runs_while_a_command_is_awaited(backend):
    with backend.commands(wait=False) as commands:
        record_slow(commands, backend, n=20)
    waiter = threading.Thread(target=commands.wait)
    waiter.start()
    turns = 0
    while waiter.is_alive() and turns < 1000:
        turns += 1
        waiter.join(0.0005)
    waiter.join()
    assert turns > 5  # one or two, were the GIL held


@pytest.mark.parametrize("device", DEVICES)
def test_ctrl_c_ends_the_waiting_and_not_the_command(device):
    script = f"""
import os, signal, sys, threading
sys.path.insert(0, {str(TESTS)!r})
import moeflux as mf
from support.devices import SLOW_DIM, record_slow
backend = mf.Backend({device!r})
with backend.commands(wait=False) as commands:
    out = record_slow(commands, backend)
threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    commands.wait()
except KeyboardInterrupt:
    print("interrupted", commands.done)
assert out.numpy()[0] == SLOW_DIM
print("whole")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.split() == ["interrupted", "False", "whole"], done.stderr
