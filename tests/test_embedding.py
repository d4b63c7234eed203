"""Runs inside other software: cancelled from outside, in worker processes, by several owners."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import types
import weakref
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.naming import identify
from statetrain.training.record import RunRecord

X = torch.randn(32, 4, generator=torch.Generator().manual_seed(1))
Y = (X.sum(1) > 0).long()


def fit(**options: Any) -> st.Run:
    given: dict[str, Any] = {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1},
        "epochs": 3,
        "verbose": False,
    }
    return st.fit(nn.Linear(4, 2), (X, Y), **{**given, **options})


# ---------------------------------------------------------------- who owns a callback


def test_a_callback_in_two_live_runs_is_refused() -> None:
    """By turns or in threads: what it keeps would be mixed up. One after the other is fine."""
    best = st.KeepBest("train_loss")
    first, second = (fit(callbacks=best, start=False) for _ in range(2))
    steps = first.steps()
    next(steps)
    with pytest.raises(st.MachineError, match="callback 'KeepBest' is in another run"):
        second.walk()
    steps.finish()
    assert second.walk().outcome == st.Completed(3)


def test_a_callback_is_free_again_however_its_run_ended() -> None:
    """After a failure, a pause that was closed, and a run that was forgotten."""

    def failing(pred: Any, target: Any) -> Any:
        raise ValueError("no")

    best = st.KeepBest("train_loss")
    with pytest.raises(ValueError, match="no"):
        fit(callbacks=best, loss=failing)
    with fit(callbacks=best, start=False).steps() as steps:
        next(steps)
    assert fit(callbacks=best).outcome == st.Completed(3)


def test_functions_may_listen_to_several_live_runs() -> None:
    """They keep nothing."""
    seen: list[int] = []
    count = st.on("exit_epoch")(lambda ctx: seen.append(ctx.epoch))
    runs = [fit(callbacks=count, start=False).steps() for _ in range(2)]
    for _ in zip(*runs, strict=True):
        pass
    assert seen == [1, 1, 2, 2, 3, 3]


# ---------------------------------------------------------------- stopping from outside


def test_a_stop_before_the_first_state_counts() -> None:
    """As of a job that waits for a thread."""
    run = fit(epochs=50, start=False)
    job = threading.Thread(target=run.walk)
    run.stop("cancelled by the user")
    job.start()
    job.join(30)
    assert run.outcome == st.Stopped(0, "cancelled by the user")


def test_a_stop_is_over_with_its_run() -> None:
    """The next fit of the run goes on, and can be stopped before it begins, too."""
    run = fit(callbacks=st.on("exit_epoch")(lambda ctx: ctx.request_stop("enough")))
    assert run.outcome == st.Stopped(1, "enough")
    fresh = fit(epochs=1)
    assert fresh.fit(2).outcome == st.Completed(3)
    fresh.stop("no more")
    assert fresh.fit(2).outcome == st.Stopped(3, "no more")
    assert fresh.fit(1).outcome == st.Completed(4)


def endless(**options: Any) -> tuple[st.Run, threading.Event]:
    """A run that only a stop from outside ends, and what says that it has begun."""
    begun = threading.Event()
    tell = st.on("exit_epoch")(lambda ctx: begun.set())
    stop = st.TimeLimit(minutes=1)  # if it went wrong
    return fit(epochs=None, stop=stop, callbacks=tell, start=False, **options), begun


def test_another_thread_stops_a_run() -> None:
    """It ends in order, with the reason."""
    run, begun = endless()
    job = threading.Thread(target=run.walk)
    job.start()
    assert begun.wait(30)
    run.stop("cancelled")
    job.join(30)
    assert isinstance(run.outcome, st.Stopped)
    assert run.outcome.reason == "cancelled"


def test_asyncio_cancels_a_run() -> None:
    """By the recipe of the page on embedding."""
    run, begun = endless()

    async def train() -> st.Run:
        job = asyncio.create_task(asyncio.to_thread(run.walk))
        try:
            return await asyncio.shield(job)
        except asyncio.CancelledError:
            run.stop("cancelled")
            await job
            raise

    async def main() -> None:
        task = asyncio.create_task(train())
        await asyncio.to_thread(begun.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert isinstance(run.outcome, st.Stopped)
    assert run.outcome.reason == "cancelled"


@pytest.mark.skipif(not hasattr(signal, "SIGUSR2"), reason="the system has no such signal")
def test_a_signal_handler_stops_a_run() -> None:
    """One of the host's own, for a signal that runs leave alone."""
    run, _ = endless()

    def send(ctx: Any) -> None:
        if ctx.epoch == 2:
            os.kill(os.getpid(), signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, lambda *_: run.stop("SIGUSR2"))
    try:
        run = fit(
            epochs=None,
            stop=st.TimeLimit(minutes=1),
            callbacks=st.on("exit_epoch")(send),
            start=False,
        )
        run.walk()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert run.outcome == st.Stopped(2, "SIGUSR2")


# ---------------------------------------------------------------- memory


class Odd(Exception):
    """Takes other arguments than it keeps, so it cannot be copied from these."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")


class Broken(torch.utils.data.Dataset[Any]):
    """Has a sample that cannot be loaded."""

    def __init__(self, inputs: torch.Tensor) -> None:
        self.inputs = inputs

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> Any:
        if index == 20:
            raise OSError("no such file")
        return self.inputs[index], Y[index]


def failing(pred: Any, target: Any) -> Any:
    raise ValueError("bad")


def without_memory(pred: Any, target: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory")


@st.on("enter_step")
def breaks(ctx: st.Context) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ({"loss": without_memory}, "OutOfMemoryError"),
        ({"loss": failing}, "ValueError"),
        ({"loss": failing, "seed": 0}, "ValueError"),
        ({"loss": lambda pred, target: pred.mean() * torch.nan}, "NonFiniteLoss"),
        ({"callbacks": breaks}, "ZeroDivisionError"),
        ({"train": Broken}, "OSError"),
        ({"own": st.Checkpoint, "loss": failing}, "ValueError"),
        ({"metrics": failing, "valid": 0.25}, "ValueError"),
        ({"trace": True, "loss": failing}, "ValueError"),
        ({"own": lambda _: st.EMA(0.9), "loss": failing}, "ValueError"),
    ],
    ids=[
        *("memory", "loss", "seed", "not finite", "hook", "data", "saved", "metric"),
        *("traced", "averaged"),
    ],
)
def test_a_run_that_failed_is_freed_with_its_error(
    more: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    """Model and data are gone as soon as the error is, without the garbage collector."""
    seen: list[tuple[Any, Any]] = []
    fit(epochs=1)  # what is imported with the first run leaves cycles behind
    more = dict(more)
    if own := more.pop("own", None):
        more["callbacks"] = own(tmp_path)
    make = more.pop("train", lambda inputs: (inputs, Y))
    gc.collect()
    gc.disable()
    try:
        model, inputs = nn.Linear(4, 2), torch.randn(32, 4)
        freed = [weakref.ref(model), weakref.ref(inputs)]
        given = {"loss": F.cross_entropy, "optimizer": torch.optim.SGD, "epochs": 1, **more}
        try:
            st.fit(model, make(inputs), **given)
        except Exception as error:
            kept = error.run.outcome.error  # type: ignore[attr-defined]  # a promise of `fit`
            seen += [(type(one).__name__, one.__notes__) for one in (error, kept)]
            del kept
        del model, inputs, given, more
        assert [reference() for reference in freed] == [None, None]
    finally:
        gc.enable()
    assert seen[0] == seen[1]
    assert seen[0][0] == kind


def test_an_error_that_cannot_be_copied_is_kept() -> None:
    """Then the run has the error itself, and says how it failed all the same."""

    def loss(pred: Any, target: Any) -> Any:
        raise Odd(code=3)

    with pytest.raises(Odd) as caught:
        fit(loss=loss)
    run = caught.value.run  # type: ignore[attr-defined]  # a promise of `fit`
    assert run.outcome.error is caught.value


def test_the_first_run_of_a_process_is_freed_too() -> None:
    """Though torch imports modules with its first optimizer, which leave cycles of frames."""
    script = """
import gc, weakref, torch, statetrain as st
gc.disable()
def loss(pred, target): raise ValueError("bad")
model = torch.nn.Linear(4, 2); freed = weakref.ref(model)
data = [(torch.zeros(4, 4), torch.zeros(4).long())]
try: st.fit(model, data, loss=loss, optimizer=torch.optim.SGD, epochs=1)
except ValueError: pass
del model
assert freed() is None
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


# ---------------------------------------------------------------- processes


def failing_job(kind: int) -> None:
    """A run that fails in a worker process, with a callback and a loss that do not pickle."""

    def loss(pred: Any, target: Any) -> Any:
        if kind:
            raise st.LossError("the real reason")
        raise ValueError("the real reason")

    torch.set_num_threads(1)
    fit(loss=loss, callbacks=st.on("exit_epoch")(lambda ctx: None))


def test_errors_come_back_from_worker_processes() -> None:
    """With their type, their text and their notes, and a record of the run."""
    context = multiprocessing.get_context("forkserver" if sys.platform == "win32" else "fork")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        for kind, error in enumerate((ValueError, st.LossError)):
            with pytest.raises(error, match="the real reason") as caught:
                pool.submit(failing_job, kind).result(timeout=60)
            assert "in state 'loss' of lifecycle 'supervised'" in caught.value.__notes__[0]
            record: Any = caught.value.run  # type: ignore[attr-defined]  # a promise of `fit`
            assert isinstance(record, RunRecord)
            assert record.outcome.startswith("Failed('loss'")


def test_a_run_is_unpickled_as_its_record() -> None:
    """Its rows and its outcome; the model is sent by `save`."""
    run = fit(valid=0.25)
    record = pickle.loads(pickle.dumps(run))
    assert record.history["valid_loss"] == run.history["valid_loss"]
    assert (record.lifecycle, record.outcome) == ("supervised", "Completed(epoch=3)")
    assert repr(record) == "<RunRecord 'supervised': Completed(epoch=3), 3 rows>"


@st.guard(reads={"history"})
def overfitting(ctx: Any) -> bool:
    "too far from the training"
    return False


def a_plain_function(ctx: Any) -> bool:
    return False


@pytest.mark.parametrize(
    "thing",
    [
        overfitting,
        overfitting.named("other"),
        st.EarlyStopping("valid_loss", patience=3) | overfitting & ~st.TimeLimit(minutes=1),
        st.guard(a_plain_function),
        st.supervised(
            stop=st.EarlyStopping("valid_loss", patience=3) | overfitting,
            validate=st.Every(2, "steps"),
            accumulate=2,
            seeded=True,
        ),
        st.evaluation(),
    ],
    ids=["a guard", "named", "combined", "of a function", "a lifecycle", "an evaluation"],
)
def test_tables_and_guards_are_pickled(thing: Any) -> None:
    """What comes back is equal."""
    assert pickle.loads(pickle.dumps(thing)) == thing


def test_machines_and_callbacks_are_pickled_before_and_after_a_run(tmp_path: Path) -> None:
    """A machine is made anew of its parts, and walks the same table."""
    callbacks = [
        *(st.Checkpoint(tmp_path), st.EMA(), st.KeepBest("train_loss"), st.Progress()),
        *(st.Tracing(), st.CollectGarbage()),
    ]
    machine = pickle.loads(pickle.dumps(st.Machine(st.supervised(), callbacks)))
    assert machine.lifecycle == st.supervised()
    assert [type(one) for one in machine.callbacks] == [type(one) for one in callbacks]
    fit(callbacks=callbacks)
    for one in callbacks:
        assert type(pickle.loads(pickle.dumps(one))) is type(one)


# ---------------------------------------------------------------- modes, names, options of Python


def test_a_model_of_inference_mode_is_refused() -> None:
    """Torch would say so at the first step."""
    with torch.inference_mode():
        model = nn.Linear(4, 2)
    with pytest.raises(st.ConfigError, match=r"made in torch\.inference_mode"):
        st.fit(model, (X, Y), loss=F.cross_entropy, optimizer=torch.optim.SGD, epochs=1)


def test_inference_mode_is_left_before_training() -> None:
    """The error says how; evaluating in it is fine."""
    with torch.inference_mode():
        with pytest.raises(st.MachineError, match=r"with torch.inference_mode\(False\)"):
            fit()
        assert st.evaluate(nn.Linear(4, 2), (X, Y), loss=F.cross_entropy)["loss"] > 0
        with torch.inference_mode(False):
            assert fit().outcome == st.Completed(3)


def in_main(name: str) -> Any:
    """A function as a script defines it."""
    function = types.FunctionType(a_plain_function.__code__, {}, "penalty")
    function.__module__, function.__qualname__ = "__main__", name
    return function


@pytest.mark.parametrize(
    ("main", "name"),
    [
        ({"__file__": "/where/ever/train.py"}, "train:penalty"),
        ({"__spec__": types.SimpleNamespace(name="package.train")}, "package.train:penalty"),
        ({"__spec__": types.SimpleNamespace(name="package.__main__")}, "package:penalty"),
        ({}, "__main__:penalty"),
    ],
    ids=["a script", "a module", "a package", "a notebook"],
)
def test_what_a_script_defines_has_the_name_of_its_import(
    main: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a run that a script began is resumed when its file is imported."""
    module = types.ModuleType("__main__")
    vars(module).update(main)
    monkeypatch.setitem(sys.modules, "__main__", module)
    assert identify(in_main("penalty")) == name


STRIPPED = """
import statetrain as st
table = str(st.supervised(stop=st.EarlyStopping("valid_loss", 3)))
print(table.count("open epoch"), table.count("valid_loss has not improved for 3"))
"""


def test_python_without_docstrings_says_so_once() -> None:
    """Labels are the functions' names then; guards with parameters keep theirs."""
    done = subprocess.run(
        [sys.executable, "-OO", "-c", STRIPPED], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "1"]
    assert done.stderr.count("python -OO strips docstrings") == 1


def test_a_run_inside_a_compiled_function_is_left_as_it_is() -> None:
    """`torch.compile` compiles around it, and the run gives what it gives outside."""

    def study(x: torch.Tensor) -> torch.Tensor:
        model = nn.Linear(4, 2)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(0.1)
        sgd = torch.optim.SGD(model.parameters(), 0.1)
        st.fit(model, [(X, Y)], loss=F.cross_entropy, optimizer=sgd, epochs=2, verbose=False)
        return x + model.weight.detach().sum()

    torch._dynamo.reset()
    compiled = torch.compile(study, backend="eager")
    assert torch.equal(compiled(torch.ones(2)), study(torch.ones(2)))
