"""What a process does beside a model: it forks, ends, and handles signals in the middle of a step.

Each test is a script in a process of its own, under a timeout: what fails here hangs or crashes.
"""

import subprocess
import sys
import textwrap

import pytest

DEVICES = ("cpu", "host")
PRELUDE = """
import multiprocessing, os, signal, sys, threading, time
import numpy as np
import moeflux as mf

def load(**options):
    options = {"memory": "200MB", "context": 8192, "threads": 2} | options
    return mf.load(**options)

def child(body):  # exit status of a fork that runs `body` and exits as programs do
    pid = os.fork()
    if pid == 0:
        body()
        sys.exit(0)
    return status_of(pid)

def status_of(pid):
    for _ in range(200):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hangs"

def refused(call, error=mf.SessionError):
    try:
        call()
    except error as refusal:
        assert "fork" in str(refusal), refusal
        return
    sys.exit("not refused")
"""


def run(script, *args, timeout=120):
    """The output of a script that must end well."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(script), *args],
        capture_output=True, text=True, check=False, timeout=timeout,
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


@pytest.mark.parametrize("device", DEVICES)
def test_forked_child_exits_collects_and_is_refused(device):
    run(
        """
        model = load(device=sys.argv[1])
        session = model.session()
        expected = session.step([1, 2, 3])
        snapshot = session.save()
        forced = model.session(routing=mf.Routing(top_k=2))

        def collect():
            global model, session, snapshot, forced
            del session, snapshot, forced, model

        def use():
            refused(lambda: session.step([4]))
            refused(lambda: model.step_batch([(session, [4])]))
            refused(lambda: session.score([4]))
            refused(session.save)
            refused(session.reset)
            refused(lambda: session.restore(snapshot))
            refused(lambda: session.position)
            refused(lambda: snapshot.position)
            refused(model.session)
            refused(lambda: model.session(routing=mf.Routing(top_k=2)))
            refused(lambda: model.stats)
            refused(lambda: mf.generate(model, "def", max_tokens=1))
            assert model.tokenizer.decode(model.tokenizer.encode("def")) == "def"

        def own():
            other = load(device=sys.argv[1]).session()
            assert np.array_equal(other.step([1, 2, 3]), expected)

        def grandchild():
            assert child(use) == 0

        for body in (lambda: None, collect, use, own, grandchild):
            assert child(body) == 0, body
        session.restore(snapshot)
        session.reset()
        assert np.array_equal(session.step([1, 2, 3]), expected)
        """,
        device,
    )


def test_fork_during_a_step_of_another_thread():
    """The engine's locks are held at the fork, and its threads are busy."""
    run(
        """
        model = load()
        session = model.session()
        stepping = threading.Thread(target=lambda: [session.step([1] * 300) for _ in range(8)])
        stepping.start()
        other = model.session

        def collect():
            global model, session
            refused(other)
            refused(lambda: model.stats)
            del model, session

        while stepping.is_alive():
            assert child(collect) == 0
        """
    )


def test_forked_child_of_a_backend_is_refused():
    run(
        """
        backend = mf.Backend("host")
        a, out = mf.Buffer.from_array(backend, np.ones(8, np.float32)), mf.Buffer.zeros(backend, 8)
        args = [a, a, out, np.uint32(8)]
        command = backend.dispatch("residual_add", args, wait=False)

        def use():
            refused(lambda: backend.dispatch("residual_add", args), mf.GpuError)
            refused(lambda: backend.pipeline("residual_add"), mf.GpuError)
            refused(lambda: mf.Buffer.zeros(backend, 8), mf.GpuError)
            refused(command.wait, mf.GpuError)
            refused(out.numpy, mf.GpuError)

        def collect():
            global backend, a, out, args, command
            del backend, a, out, args, command

        def own():
            own = mf.Backend("host")
            b = mf.Buffer.zeros(own, 8)
            own.dispatch("residual_add", [b, b, b, np.uint32(8)])
            assert (b.numpy() == 0).all()

        for body in (lambda: None, use, collect, own):
            assert child(body) == 0, body
        command.wait()
        assert (out.numpy() == 2).all()
        """
    )


def test_pool_of_forked_workers():
    run(
        """
        model = load()
        session = model.session()
        session.step([1, 2, 3])

        def work(n):
            global model, session
            ids = model.tokenizer.encode("def " * n)
            refused(lambda: session.step(ids))
            if n == 3:
                model = session = None
            return len(ids)

        with multiprocessing.get_context("fork").Pool(2) as pool:
            found = pool.map_async(work, range(1, 4)).get(timeout=60)
        assert found == [len(model.tokenizer.encode("def " * n)) for n in (1, 2, 3)]
        """
    )


LOOPS = {
    "step": "model.session().step([1] * 8000)",
    "generate": "[part for part in mf.stream_generate(model, 'def', max_tokens=64)]",
    "load": "load(device=sys.argv[1])",
    "wait": "mf.Backend('host').dispatch('residual_add', [buffer] * 3 + [np.uint32(1 << 22)])",
}


@pytest.mark.parametrize("device", ["cpu", pytest.param("host", marks=pytest.mark.full)])
@pytest.mark.parametrize("loop", LOOPS)
def test_program_ends_while_daemon_threads_work(device, loop):
    """The exit status is what the program says, and stopped threads say nothing."""
    for delay in (0.02, 0.3):
        said = run(
            f"""
            model = load(device=sys.argv[1])
            backend = mf.Backend("host")
            buffer = mf.Buffer.zeros(backend, 1 << 22)

            def loop():
                while True:
                    {LOOPS[loop].replace("mf.Backend('host')", "backend")}

            for _ in range(3):
                threading.Thread(target=loop, daemon=True).start()
            time.sleep({delay})
            """,
            device,
        )
        assert said == ""


def test_thread_that_swallows_everything_does_not_hold_the_exit():
    run(
        """
        model = load()

        def loop():
            while True:
                try:
                    model.session().step([1] * 2000)
                except BaseException:
                    pass

        for _ in range(3):
            threading.Thread(target=loop, daemon=True).start()
        time.sleep(0.2)
        """
    )


def test_program_ends_while_a_daemon_thread_converts():
    said = run(
        """
        from moeflux import _core
        values = np.ones(1 << 20, np.float32)

        def loop():
            while True:
                _core.quantize(values, 4, 64)

        threading.Thread(target=loop, daemon=True).start()
        time.sleep(0.1)
        """
    )
    assert said == ""


def test_exit_handlers_and_destructors_can_still_step():
    said = run(
        """
        import atexit  # its handlers run in reverse order
        model = load()
        session = model.session()

        class Late:
            def __del__(self, session=session):
                print("at the end", session.step([2]).shape)

        late = Late()
        threading.Thread(target=lambda: model.session().step([1] * 1500), daemon=True).start()
        time.sleep(0.2)
        atexit.register(lambda: print("at exit", session.step([1]).shape))
        """
    )
    assert said == "at exit (4096,)\nat the end (4096,)\n"


def test_interrupt_while_another_thread_has_the_model():
    """Seen while the other thread still steps."""
    run(
        """
        model = load()
        long, short = model.session(), model.session()
        stepping = threading.Thread(target=lambda: long.step([1] * 8000), daemon=True)
        stepping.start()
        time.sleep(0.2)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            short.step([1])
        except KeyboardInterrupt:
            assert stepping.is_alive() and short.position == 0
        else:
            sys.exit("the interrupt came too late")
        """
    )


@pytest.mark.parametrize(
    ("device", "tokens"), [("cpu", 1500), pytest.param("host", 20, marks=pytest.mark.full)]
)
def test_signal_handler_that_uses_the_model_it_interrupts_is_refused(device, tokens):
    run(
        """
        model, other = load(device=sys.argv[1]), load()
        session, second = model.session(), model.session()
        elsewhere = other.session()
        calls = [model.session, session.save, session.reset, lambda: second.step([1])]
        seen = []

        def handle(*_):
            for call in calls:
                try:
                    call()
                except mf.SessionError as error:
                    seen.append("signal handler" in str(error))
            elsewhere.step([1])  # another model's is its own affair

        signal.signal(signal.SIGALRM, handle)
        tokens = [1 + i % 7 for i in range(int(sys.argv[2]))]
        while not seen:
            session.reset()
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            found = session.step(tokens)
        assert all(seen) and elsewhere.position > 0
        assert np.array_equal(found, model.session().step(tokens))
        """,
        device,
        str(tokens),
    )


def test_a_fork_in_a_signal_handler_that_returns_into_the_step_ends_and_says_why():
    said = run(
        """
        model = load()
        session = model.session()
        forks = []
        signal.signal(signal.SIGALRM, lambda *_: forks or forks.append(os.fork()))
        tokens = [1 + i % 7 for i in range(1500)]
        while not forks:
            session.reset()
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            found = session.step(tokens)
        if forks == [0]:
            os._exit(3)
        assert status_of(forks[0]) == 1
        assert np.array_equal(found, model.session().step(tokens))
        """
    )
    assert "a signal handler forked" in said
