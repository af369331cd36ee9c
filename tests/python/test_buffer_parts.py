"""Parts of buffers, memory used in place, DLPack, and the time of each dispatch."""

import gc
import mmap
import weakref

import numpy as np
import pytest

import moeflux as mf

N = 64


def add(backend, x, y, out, **kwargs):
    return backend.dispatch("residual_add", [x, y, out, np.uint32(len(out))], **kwargs)


def whole_pages(backend, pages=1):
    """An array on a page boundary, as mmap gives it."""
    memory = mmap.mmap(-1, pages * backend.limits.page_bytes)
    return np.frombuffer(memory, np.float32)


def test_parts_are_the_same_memory(backend):
    whole = mf.Buffer.from_array(backend, np.arange(4 * N, dtype=np.float32).reshape(4, N))
    out = mf.Buffer.zeros(backend, (3, N))
    add(backend, whole[1], whole[2:4][1], out[2])
    expected = np.arange(N) * 2 + (1 + 3) * N
    np.testing.assert_array_equal(out.numpy()[2], expected)
    np.testing.assert_array_equal(out[-1].numpy(), expected)
    assert not out.numpy()[:2].any()
    assert whole[1].shape == (N,)
    assert whole[1:3].shape == (2, N)
    assert whole[1][5].shape == (1,)
    whole[3].numpy()[0] = 7
    assert whole.numpy()[3, 0] == 7


def test_a_kernel_reaches_no_further_than_the_part(backend):
    whole = mf.Buffer.zeros(backend, 4 * N)
    with pytest.raises(mf.FormatError, match="63"):
        backend.dispatch("residual_add", [whole[0:N], whole[N : 2 * N - 1], whole, np.uint32(N)])


def test_a_part_starts_where_the_kernel_can_read(backend):
    vectors = mf.Buffer.zeros(backend, 64)
    info = next(k for k in ("swiglu_fused_vec4",) if k in backend.kernels)
    with pytest.raises(mf.FormatError, match="offset of 4 bytes: expected a multiple of 16"):
        backend.dispatch(info, [vectors[1:33], vectors[0:32], vectors[32:64], np.uint32(32)])


@pytest.mark.parametrize("index", [slice(3, 3), slice(0, 4, 2), 4, -5, "a", slice("a", None), None])
def test_indices_that_are_none(backend, index):
    with pytest.raises(mf.FormatError, match="index"):
        mf.Buffer.zeros(backend, (4, N))[index]


def test_memory_in_place(backend):
    array = whole_pages(backend)
    array[:N] = np.arange(N)
    x = mf.Buffer.wrap(backend, array)
    out = mf.Buffer.zeros(backend, N)
    add(backend, x[:N], x[:N], out)
    np.testing.assert_array_equal(out.numpy(), 2 * np.arange(N))
    add(backend, x[:N], out, x[N : 2 * N])
    np.testing.assert_array_equal(array[N : 2 * N], 3 * np.arange(N))


def test_a_file_in_place_is_read_and_not_written(backend, tmp_path):
    page = backend.limits.page_bytes
    np.arange(page // 4, dtype=np.float32).tofile(tmp_path / "weights")
    x = mf.Buffer.wrap(backend, np.memmap(tmp_path / "weights", np.float32, mode="r"))
    out = mf.Buffer.zeros(backend, N)
    add(backend, x[N : 2 * N], x[:N], out)
    np.testing.assert_array_equal(out.numpy(), 2 * np.arange(N) + N)
    assert not x.numpy().flags.writeable
    with pytest.raises(mf.FormatError, match="read-only"):
        add(backend, x[:N], x[:N], x[:N])


def test_memory_that_cannot_be_used_in_place(backend):
    page = backend.limits.page_bytes
    pages = whole_pages(backend, 2)
    for array in (pages[1:], pages[: page // 8], pages[1 : 1 + page // 4]):
        with pytest.raises(mf.FormatError, match="whole pages"):
            mf.Buffer.wrap(backend, array)
    for array in (pages[::2], pages[:0], [1.0], None):
        with pytest.raises(mf.FormatError, match="contiguous"):
            mf.Buffer.wrap(backend, array)
    with pytest.raises(mf.FormatError, match="dtype"):
        mf.Buffer.wrap(backend, pages.view(np.complex64))


def test_memory_in_place_is_kept_as_long_as_it_is_needed_and_no_longer(backend):
    class Array(np.ndarray):
        pass

    array = whole_pages(backend).view(Array)
    gone = weakref.ref(array)
    x = mf.Buffer.wrap(backend, array)
    out = mf.Buffer.zeros(backend, N)
    del array
    command = add(backend, x[:N], x[:N], out, wait=False)
    del x
    command.wait()
    assert not out.numpy().any()
    del command
    mf.Buffer.zeros(backend, 1)
    gc.collect()
    mf.Buffer.zeros(backend, 1)
    gc.collect()
    assert gone() is None


def test_other_libraries_share_the_memory(backend):
    x = mf.Buffer.from_array(backend, np.arange(2 * N, dtype=np.float32).reshape(2, N))
    shared = np.from_dlpack(x[1])
    np.testing.assert_array_equal(shared, N + np.arange(N))
    x.numpy()[1, 0] = -1
    assert shared[0] == -1


def test_the_time_of_each_dispatch(backend):
    x = mf.Buffer.from_array(backend, np.ones(N, np.float32))
    y = mf.Buffer.zeros(backend, N)
    with backend.commands(timed=True) as commands:
        for label in ("first", None, "third"):
            commands.dispatch("residual_add", [x, y, y, np.uint32(N)], label=label)
    assert [label for label, _ in commands.times] == ["first", "residual_add", "third"]
    assert sum(seconds for _, seconds in commands.times) == pytest.approx(commands.gpu_seconds)
    assert all(seconds >= 0 for _, seconds in commands.times)
    np.testing.assert_array_equal(y.numpy(), np.full(N, 3))
    with backend.commands() as untimed:
        untimed.dispatch("residual_add", [x, y, y, np.uint32(N)])
    with pytest.raises(mf.GpuError, match="timed=True"):
        _ = untimed.times


def test_what_a_device_is_as_plain_types(backend):
    info = backend.info
    assert info["kind"] == backend.kind
    assert info["page_bytes"] == backend.limits.page_bytes
    assert set(map(type, info.values())) <= {str, int, bool}
