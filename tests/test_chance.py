"""The global generators belong to the host: a run with a seed borrows them, and disturbs no one."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.compute.chance import Chance, draws_from_torch_alone

X = torch.randn(48, 4, generator=torch.Generator().manual_seed(1))
Y = (X.sum(1) > 0).long()


class Noisy(nn.Module):
    """Draws from all three generators in each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(F.dropout(x, 0.3)) * (1 + random.random() * np.random.rand())


class Rows(torch.utils.data.Dataset[Any]):
    """Augments its samples by numpy."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> Any:
        return X[index] + np.float32(np.random.rand()), Y[index]


def made(kind: str = "noisy") -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        model = Noisy() if kind == "noisy" else nn.Sequential(nn.Dropout(0.3), nn.Linear(4, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.1)
    return model


def fit(kind: str = "noisy", data: Any = (X, Y), **options: Any) -> st.Run:
    given: dict[str, Any] = {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1},
        "epochs": 2,
        "seed": 0,
        "dataloader_options": {"batch_size": 16},
        "verbose": False,
    }
    model = options.pop("model", None) or made(kind)
    return st.fit(model, data, **{**given, **options})


def weights(run: st.Run) -> list[float]:
    return [value for p in run.model.parameters() for value in p.flatten().tolist()]


def seed_host() -> None:
    torch.manual_seed(11)
    random.seed(12)
    np.random.seed(13)
    np.random.randn()  # leaves a second number for the next call, which is a part of the state


def draw() -> list[float]:
    return [float(torch.rand(())), random.random(), float(np.random.randn()), np.random.rand()]


def host_draws() -> list[float]:
    seed_host()
    return draw()


def failing(ctx: Any) -> None:
    raise ValueError("no")


def fail() -> None:
    with pytest.raises(ValueError, match="no"):
        fit(callbacks=st.on("exit_loss")(failing))


def pause() -> None:
    steps = fit(start=False).steps()
    for _ in range(9):  # within a batch
        next(steps)


ASIDE: dict[str, Callable[[], Any]] = {
    "tensors": fit,
    "torch alone": lambda: fit("plain"),
    "a dataset": lambda: fit(data=Rows()),
    "workers": lambda: fit(data=Rows(), dataloader_options={"num_workers": 1}),
    "a share and an evaluation": lambda: fit(valid=0.25, evaluations=st.Evaluation("test", (X, Y))),
    "a failure": fail,
    "a pause": pause,
    "evaluate": lambda: st.evaluate(made("plain"), (X, Y), loss=F.cross_entropy),
    "predict": lambda: st.predict(made("plain"), X),
    "lr_find": lambda: st.lr_find(
        made(), (X, Y), loss=F.cross_entropy, optimizer=torch.optim.SGD, steps=4
    ),
}


@pytest.mark.parametrize("work", ASIDE.values(), ids=ASIDE)
def test_the_hosts_generators_are_as_they_were(work: Callable[[], Any]) -> None:
    """Torch's, Python's and numpy's, whatever the run drew and however it ended."""
    right = host_draws()
    seed_host()
    work()
    assert draw() == right


def test_without_a_seed_a_run_draws_as_torch_would() -> None:
    """The order of the epochs, the loader's own number and dropout come from torch's generator."""
    torch.manual_seed(5)
    for _ in range(2):
        loader = torch.utils.data.DataLoader(Rows(), batch_size=16, shuffle=True)
        for inputs, _ in loader:
            F.dropout(inputs, 0.3)
    right = float(torch.rand(()))
    torch.manual_seed(5)
    fit("plain", seed=None)
    assert float(torch.rand(())) == right


def test_a_random_search_tries_another_value_each_time() -> None:
    """What it draws around runs with a seed is what it would draw without them."""
    seed_host()
    right = [draw() for _ in range(3)]
    seed_host()
    found = []
    for _ in range(3):
        found.append(draw())
        fit(epochs=1)
    assert found == right


def test_runs_that_take_turns_are_those_alone() -> None:
    """Two runs by turns of `steps()`, and an observer who draws between all transitions."""
    alone = [weights(fit(seed=seed)) for seed in (1, 2)]
    first, second = (fit(seed=seed, start=False) for seed in (1, 2))
    for _ in zip(first.steps(), second.steps(), strict=True):
        draw()
    assert [weights(first), weights(second)] == alone
    assert alone[0] != alone[1]


def test_a_run_within_a_run_changes_nothing() -> None:
    """A hook in the middle of a batch trains, evaluates and predicts."""

    class Busy(st.Callback):
        def on_enter_pred(self, ctx: Any) -> None:
            fit("plain", epochs=1, seed=3)
            st.evaluate(made("plain"), (X, Y), loss=F.cross_entropy)
            st.predict(made("plain"), X)

    assert weights(fit(callbacks=Busy())) == weights(fit())


@pytest.mark.parametrize("data", [(X, Y), Rows()], ids=["tensors", "a dataset"])
def test_runs_in_threads_are_those_alone(data: Any) -> None:
    """Eight runs in four threads, each with dropout and draws of Python and numpy."""
    alone = [weights(fit(data=data, seed=seed % 2)) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        jobs = [
            pool.submit(fit, data=data, seed=seed % 2, model=model)
            for seed, model in enumerate([made() for _ in range(8)])
        ]
        found = [weights(job.result(timeout=60)) for job in jobs]
    assert found == alone


def test_between_batches_a_thread_draws_the_hosts_numbers() -> None:
    """A run in another thread waits between two batches; the host draws on where it was."""
    drawn, resumed = threading.Event(), threading.Event()

    def batches() -> Iterator[Any]:
        for i in range(3):
            if i:
                drawn.set()
                assert resumed.wait(30)
                resumed.clear()
            yield X[:8], Y[:8]

    def draw() -> list[float]:
        return [float(torch.rand(())), random.random(), np.random.rand()]

    seed_host()
    right = [draw() for _ in range(3)]
    seed_host()
    found = [draw()]
    run = threading.Thread(
        target=fit, kwargs={"data": batches, "epochs": 1, "dataloader_options": None}
    )
    run.start()
    for _ in range(2):
        assert drawn.wait(30)
        drawn.clear()
        found.append(draw())
        resumed.set()
    run.join(30)
    assert found == right


def test_a_search_in_threads_gives_the_same_trial_the_same_value() -> None:
    """Optuna with `n_jobs=4`: each trial's value is that of a run alone, its model made by `fit`."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_categorical("lr", [0.01, 0.1])
        seed = trial.suggest_int("seed", 0, 1)
        run = fit(model=Noisy, valid=0.25, epochs=1, seed=seed, opt_hparams={"lr": lr})
        return float(run.history[-1]["valid_loss"])

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    study.optimize(objective, n_trials=12, n_jobs=4)
    values: dict[Any, set[float]] = {}
    for trial in study.trials:
        assert trial.value is not None
        values.setdefault(tuple(trial.params.items()), set()).add(trial.value)
    alone = {
        key: {objective(optuna.trial.FixedTrial(dict(key)))}  # type: ignore[arg-type]  # a trial, too
        for key in values
    }
    assert values == alone
    assert len(values) < len(study.trials)


@pytest.mark.parametrize(
    ("options", "alone"),
    [
        ({}, True),
        ({"callbacks": [st.KeepBest("train_loss"), st.EMA()]}, True),
        ({"loss": lambda pred, target: F.cross_entropy(pred, target)}, False),
        ({"metrics": {"own": lambda pred, target: pred.mean()}}, False),
        ({"callbacks": st.on("exit_loss")(lambda ctx: None)}, False),
        ({"kind": "noisy"}, False),
        ({"optimizer": type("Own", (torch.optim.SGD,), {})}, False),
    ],
    ids=["torch", "built in", "a loss", "a metric", "a function", "a model", "an optimizer"],
)
def test_generators_that_no_part_can_draw_from_are_left_alone(options: Any, alone: bool) -> None:
    """Only code of torch and of this package is known to draw from torch alone."""
    run = fit(**{"kind": "plain", **options})
    assert draws_from_torch_alone(run.ctx) is alone


def test_waiting_for_another_run_is_told(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """A run that waits long for a batch of another one says so, and goes on when it may."""
    monkeypatch.setattr("statetrain.compute.chance._PATIENCE", 0.05)

    class Slow(st.Callback):
        def on_enter_pred(self, ctx: Any) -> None:
            if ctx.batches == 1:
                other.start()
                other.join(0.2)

    other = threading.Thread(target=fit, kwargs={"seed": 5, "model": made()})
    fit(callbacks=Slow())
    other.join(30)
    assert not other.is_alive()
    assert "take turns with the global generators" in caplog.text


# ---------------------------------------------------------------- the state of a batch


def test_the_state_at_a_batch_depends_on_its_number_alone() -> None:
    """Whatever was drawn in the batches before, and whether there were any."""
    wanted: dict[int, list[float]] = {}
    for drawing in (lambda n: 0, lambda n: n % 3, lambda n: 5 * (n == 70)):
        found = {}
        held = Chance(torch.device("cpu"), torch_alone=False)
        held.begin()
        for number in range(150):
            held.seed((7, "batch"), number)
            if number % 7 == 0:
                found[number] = [random.random(), float(np.random.rand()), float(torch.rand(()))]
            for _ in range(drawing(number)):
                random.gauss(0, 1)
                np.random.randn()
            held.rest()
        held.end()
        wanted = wanted or found
        assert found == wanted
    assert len({value for values in wanted.values() for value in values}) == 3 * len(wanted)
    late = Chance(torch.device("cpu"), torch_alone=False)
    late.begin()
    late.seed((7, "batch"), 84)
    assert [random.random(), float(np.random.rand()), float(torch.rand(()))] == wanted[84]
    late.end()


def test_a_generator_that_was_exchanged_meanwhile_is_put_to_its_place() -> None:
    """A hook may seed the generators, or set a state of before; the next batch is as it would be."""

    def drawn(between: Callable[[], Any]) -> list[float]:
        held = Chance(torch.device("cpu"), torch_alone=False)
        held.begin()
        for number in range(3):
            held.seed((7, "batch"), number)
            between()
        held.seed((7, "batch"), 3)
        found = [random.random(), float(np.random.rand())]
        held.end()
        return found

    state = random.getstate(), np.random.get_state()
    plain = drawn(lambda: None)
    assert drawn(lambda: (random.seed(1), np.random.seed(1))) == plain
    assert drawn(lambda: (random.setstate(state[0]), np.random.set_state(state[1]))) == plain
