"""Evaluations with a name: other data, at its own times, as states that one sees."""

from __future__ import annotations

import pytest
import torch
from reference import bits
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.testing import walk
from statetrain.testing.resuming import assert_resumable


def accuracy(pred, target):
    return (pred.argmax(1) == target).float().mean()


def made():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.2), nn.Linear(6, 3))


def options(**more):
    return {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1},
        "epochs": 4,
        "dataloader_options": {"batch_size": 8, "shuffle": False},
        "metrics": {"right": accuracy},
        **more,
    }


def evaluated(run, data):
    """What `evaluate` gives, on the same batches."""
    return st.evaluate(run, data, dataloader_options={"batch_size": 8})


def when(run, column):
    """The epoch and the step of the rows that have a column."""
    return [(row["epoch"], row["step"]) for row in run.history if column in row]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (st.Every(2, "epochs"), [(2, 6), (4, 12)]),
        (st.Every(4, "steps"), [(2, 4), (3, 8), (4, 12)]),
        (st.Once(2, "epochs"), [(2, 6)]),
        (st.Once(5, "steps"), [(2, 5)]),
        ("end", [(4, 12)]),
        (st.Every(3, "epochs") | st.Once(2, "steps"), [(1, 2), (3, 9)]),
        (st.guard(lambda ctx: ctx.epoch == 3), [(3, 9)]),
    ],
    ids=str,
)
def test_when_it_is_made(points, condition, expected):
    "By epochs at their ends, by steps inside them, once, at the end, by any guard; and the training is what it is without."
    plain = st.fit(made(), points, valid=points, **options(seed=0))
    run = st.fit(
        made(),
        points,
        valid=points,
        evaluations=st.Evaluation("test", points, condition),
        **options(seed=0),
    )
    assert when(run, "test_loss") == expected
    assert when(run, "valid_loss") == [(1, 3), (2, 6), (3, 9), (4, 12)]
    assert all(
        torch.equal(a, b)
        for a, b in zip(run.model.parameters(), plain.model.parameters(), strict=True)
    )
    assert run.history["valid_loss"] == plain.history["valid_loss"]


def test_its_values_are_those_of_evaluate(points):
    "Loss and metrics are what evaluate gives, in the row of the epoch; its own metrics take the place of the run's."
    other = tuple(part[:9] for part in points)
    run = st.fit(
        made(),
        points,
        **options(),
        evaluations=[
            st.Evaluation("test", other),
            st.Evaluation(
                "other", other, "end", metrics={"size": lambda pred, target: float(len(pred))}
            ),
        ],
    )
    values = evaluated(run, other)
    row = run.history[-1]
    assert (row["test_loss"], row["test_right"]) == (values["loss"], values["right"])
    assert row["other_loss"] == values["loss"]
    assert row["other_size"] == pytest.approx((8 * 8 + 1) / 9)
    assert "other_right" not in row
    assert len(run.history) == 4
    assert run.ctx.get_metrics("test")["loss"] == values["loss"]
    assert {entry["set"] for entry in run.history.table()} == {"train", "test", "other"}


def test_it_follows_the_validation_in_the_table():
    "At the end of an epoch: validation, then each evaluation that is due, then one row."
    life = st.supervised(
        evaluations={"test": st.Every(1, "epochs"), "probe": st.Every(1, "epochs")}
    )
    trace = walk(
        life,
        {
            "more epochs": [True],
            "a batch was drawn": [False, True, False, False, False],
            "validation due": [True],
            "test due": [True],
            "probe due": [True],
        },
    )
    assert trace.states == [
        *("fit", "next_epoch", "epoch", "train", "next_batch", "draw"),
        *(
            "valid",
            "next_valid_batch",
            "valid_draw",
            "valid_batch",
            "valid_pred",
            "valid_loss",
            "next_valid_batch",
            "valid_draw",
        ),
        *(
            "test",
            "next_test_batch",
            "test_draw",
            "probe",
            "next_probe_batch",
            "probe_draw",
            "record",
            "next_epoch",
            "end",
        ),
    ]


def test_an_evaluation_has_the_states_of_the_validation():
    "One function makes both: the same states and arrows under another name."
    life = st.supervised(evaluations={"test": st.Every(1, "epochs")})
    assert [name.replace("test", "valid") for name in life.names if "test" in name] == [
        name for name in life.names if "valid" in name
    ]

    def loop(name):
        return {
            (t.source.replace(name, "x"), t.dest.replace(name, "x"), t.event)
            for t in life.transitions
            if name in t.source and name in t.dest
        }

    assert loop("test") == loop("valid")


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"stop": st.EarlyStopping("valid_loss", 1, min_delta=9.0)}, "has not improved"),
        ({"max_steps": 4}, "4 steps made"),
        ({"stop": st.guard(lambda ctx: ctx.step >= 4, prompt=True)}, ""),
    ],
    ids=["early stopping", "steps", "prompt"],
)
def test_at_the_end_however_the_training_ends(points, more, reason):
    "A run that is stopped is evaluated at its end, once, and ends for the same reason."
    run = st.fit(
        made(),
        points,
        valid=points,
        evaluations=st.Evaluation("test", points, "end"),
        **options(**more),
    )
    assert isinstance(run.outcome, st.Stopped)
    assert reason in run.outcome.reason
    assert len(when(run, "test_loss")) == 1
    assert run.history[-1]["test_loss"] == evaluated(run, points)["loss"]


@pytest.mark.parametrize(
    ("steps", "condition"),
    [
        (4, st.Every(4, "steps")),
        (6, st.Every(2, "epochs")),
        (6, st.Every(6, "steps")),
        (6, "end"),
        (4, "end"),
    ],
    ids=str,
)
@pytest.mark.parametrize("validate", [st.Every(1, "epochs"), st.Every(2, "steps"), None], ids=str)
def test_one_that_is_due_at_the_last_of_a_number_of_steps(points, steps, condition, validate):
    "It is made, once; where the limit ends an epoch, the history is the one of as many epochs, and where it breaks one off, nothing else is new."
    both = {
        "valid": points,
        "validate": validate,
        "evaluations": st.Evaluation("test", points, condition),
    }
    run = st.fit(made(), points, **both, **options(max_steps=steps))
    assert when(run, "test_loss") == [(2, steps)]
    whole = st.fit(made(), points, **both, **options(epochs=2))
    assert run.ctx.epoch_complete == (steps == 6)
    if steps == 6:
        assert untimed(run) == untimed(whole)
    elif condition != "end":
        assert untimed(run) == untimed(whole)[: len(run.history)]


def untimed(run):
    """The history but for its seconds."""
    return [
        {name: value for name, value in row.items() if name != "seconds"} for row in run.history
    ]


def test_not_when_it_is_interrupted(points):
    "Ctrl-C ends the run at once; what was begun is dropped."

    class Press(st.Callback):
        anywhere = True

        def __init__(self, state):
            setattr(self, f"on_enter_{state}", self._press)

        def _press(self, ctx):
            ctx.interrupt = "SIGINT"
            ctx.request_stop("SIGINT")

    for state in ("step", "test_batch"):
        run = st.fit(
            made(),
            points,
            evaluations=st.Evaluation("test", points, "end"),
            callbacks=Press(state),
            **options(epochs=1),
        )
        assert isinstance(run.outcome, st.Interrupted)
        assert when(run, "test_loss") == []


def test_going_on_evaluates_again(points):
    "Each fit of a run has its end."
    run = st.fit(
        made(), points, evaluations=st.Evaluation("test", points, "end"), **options(epochs=1)
    )
    run.fit(2)
    assert when(run, "test_loss") == [(1, 3), (3, 9)]


def test_events_in_an_evaluation(points):
    "SkipEpoch drops it, SkipBatch leaves a batch out; the epoch is complete all the same."

    class Skip(st.Callback):
        def on_enter_test_batch(self, ctx):
            if ctx.epoch == 1:
                raise st.SkipEpoch("enough")
            if ctx.valid_iter == 2:
                raise st.SkipBatch("not this")

    run = st.fit(
        made(),
        points,
        valid=points,
        evaluations=st.Evaluation("test", points, metrics={"n": lambda p, t: float(len(p))}),
        callbacks=Skip(),
        **options(epochs=2),
    )
    assert when(run, "test_loss") == [(2, 6)]
    assert run.history[-1]["test_n"] == pytest.approx((8 * 8 + 6 * 6) / 14)
    assert run.history["epoch_complete"] == [True, True]


def test_its_columns_can_be_monitored(points):
    "Early stopping and KeepBest know them; a misspelt one is an error before training."
    best = st.KeepBest("test_loss")
    run = st.fit(
        made(),
        points,
        evaluations=st.Evaluation("test", points),
        callbacks=best,
        stop=st.EarlyStopping("test_loss", 2, min_delta=9.0),
        **options(),
    )
    assert run.outcome.epoch == 3
    assert best.best == min(run.history["test_loss"])
    with pytest.raises(
        st.ConfigError, match="nothing writes the monitor 'tst_loss'; did you mean 'test_loss'"
    ):
        st.fit(
            made(),
            points,
            evaluations=st.Evaluation("test", points),
            stop=st.EarlyStopping("tst_loss"),
            **options(),
        )


@pytest.mark.parametrize(
    "more",
    [
        {"seed": 3, "precision": "bf16"},
        {"optimizer": {"0": torch.optim.SGD, "2": torch.optim.SGD}},
        {"accumulate": 2, "check_gradients": True, "non_finite": "skip"},
        {"finite_check": "late", "non_finite": "skip"},
        {
            "loss": st.Losses(
                label=F.cross_entropy, size=st.Loss(lambda p: p.abs().mean(), p="interms.0")
            )
        },
    ],
    ids=["precision", "optimizers", "accumulation", "late", "keys"],
)
def test_with_other_options(points, more):
    "Precision, seeds, several optimizers, accumulation and losses by keys evaluate as validation does."
    run = st.fit(
        made(),
        points,
        valid=points,
        evaluations=[st.Evaluation("test", points), st.Evaluation("last", points, "end")],
        **options(**more),
    )
    row = run.history[-1]
    validated = {
        name.removeprefix("valid_"): value
        for name, value in row.items()
        if name.startswith("valid_")
    }
    for name in ("test", "last"):
        assert {
            column.removeprefix(f"{name}_"): value
            for column, value in row.items()
            if column.startswith(f"{name}_")
        } == validated


def test_with_a_computation_of_ones_own(points):
    "valid_compute serves evaluations too, also without a validation."

    def compute(ctx):
        ctx.pred = ctx.model(ctx.input)
        return F.cross_entropy(ctx.pred, ctx.target) * 2

    run = st.fit(
        made(),
        points,
        evaluations=st.Evaluation("test", points),
        valid_compute=compute,
        **options(),
    )
    assert run.history[-1]["test_loss"] == pytest.approx(
        2 * st.evaluate(run.model, points, loss=F.cross_entropy)["loss"]
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda data: st.Evaluation("two words", data),
            "so it is a word such as 'test', got 'two words'",
        ),
        (
            lambda data: st.Evaluation("test", data, 3),
            r"when a guard holds, such as Every\(2, \"epochs\"\)",
        ),
        (lambda data: st.Evaluation("test", data, "ned"), "or at the 'end', got 'ned'"),
        (
            lambda data: [st.Evaluation("test", data), st.Evaluation("test", data)],
            "two evaluations are called 'test'",
        ),
        (
            lambda data: st.Evaluation("valid", data),
            "cannot be called 'valid': 'next_valid_batch' is taken",
        ),
        (lambda data: st.Evaluation("train", data), "cannot be called 'train'"),
        (lambda data: {"test": data}, r"made with their name: Evaluation\("),
        (lambda data: st.Evaluation("test", iter([data])), "can be read once"),
        (lambda data: st.Evaluation("test", 3), "test must be a DataLoader"),
    ],
)
def test_what_makes_no_evaluation_is_refused(points, make, words):
    "Names that are no words or are taken, conditions that are none, data that can be read once."
    with pytest.raises(st.ConfigError, match=words):
        st.fit(made(), points, evaluations=make(points), **options())


def test_a_lifecycle_of_ones_own_has_to_have_it(points):
    "Scopes without data and data without scopes are errors; together they run."
    life = st.supervised(validate=None, evaluations={"test": "end"})
    run = st.fit(
        made(), points, lifecycle=life, evaluations=st.Evaluation("test", points), **options()
    )
    assert when(run, "test_loss") == [(4, 12)]
    with pytest.raises(st.ConfigError, match="evaluates 'test', but there is no data for it"):
        st.fit(made(), points, lifecycle=life, **options())
    with pytest.raises(
        st.ConfigError, match=r"has no evaluation 'test'; make it with supervised\(evaluations="
    ):
        st.fit(
            made(),
            points,
            lifecycle=st.supervised(validate=None),
            evaluations=st.Evaluation("test", points),
            **options(),
        )


def test_it_can_be_written_down_and_drawn():
    "Such a lifecycle comes back from plain data with the same fingerprint, and has a picture and a dry run."
    life = st.supervised(
        evaluations={"test": st.Every(2, "epochs"), "probe": st.Once(3, "steps"), "last": "end"}
    )
    assert st.Lifecycle.from_dict(life.to_dict()).fingerprint == life.fingerprint
    assert "next_probe_batch" in life.mermaid()
    from statetrain.testing import simulate

    assert [
        len(simulate(life, epochs=4).of(name)) for name in ("valid", "test", "probe", "last")
    ] == [4, 2, 1, 1]


@pytest.mark.parametrize(
    "more", [{}, {"seed": 5, "validate": st.Every(2, "steps")}], ids=["states", "keys"]
)
def test_runs_with_evaluations_can_be_resumed(points, more):
    "Cut at any anchor, those inside evaluations among them, and continued, to the last bit."

    def build():
        evaluations = [
            st.Evaluation("test", points, st.Every(2, "steps")),
            st.Evaluation("last", points, "end"),
        ]
        given = {
            **options(epochs=2, **more),
            "dataloader_options": {"batch_size": 8, "shuffle": True},
        }
        return st.fit(made(), points, valid=points, evaluations=evaluations, start=False, **given)

    assert assert_resumable(build, anchors=12) == 12


# ---------------------------------------------------------------- a loss of its own


class Scaled(nn.Module):
    """A loss with a mode and a number of its own."""

    def __init__(self, factor):
        super().__init__()
        self.register_buffer("factor", torch.tensor(factor))
        self.modes = []

    def forward(self, pred, target):
        self.modes.append(self.training)
        return self.factor * F.cross_entropy(pred, target)


@pytest.mark.parametrize("condition", [st.Every(2, "steps"), "end"], ids=str)
def test_a_loss_of_its_own(points, condition):
    "Its column has that loss; training, validation and the run's loss stay as they are without it."
    smooth, plain = nn.CrossEntropyLoss(label_smoothing=0.2), Scaled(3.0)
    common = options(seed=0, loss=smooth, valid=points, debug=True)
    without = st.fit(made(), points, **common)
    run = st.fit(
        made(),
        points,
        evaluations=[st.Evaluation("test", points, condition, loss=plain)],
        **common,
    )
    assert run.history["valid_loss"] == without.history["valid_loss"]
    assert bits(run.model) == bits(without.model)
    model = run.model.eval()
    with torch.no_grad():
        expected = 3 * F.cross_entropy(model(points[0]), points[1])
    assert run.history[-1]["test_loss"] == pytest.approx(float(expected), rel=1e-5)
    assert set(plain.modes) == {False}
    assert plain.training
    assert run.ctx.loss_fn is smooth


def test_a_loss_by_keys_reads_other_parts_than_the_runs(points):
    "Data that the run's loss cannot be computed of is evaluated by what it has; a guard may read its column."
    x, y = points
    twice = st.Loss(
        lambda logits, label: 2 * F.cross_entropy(logits, label), logits="pred", label="batch.label"
    )
    run = st.fit(
        made(),
        {"x": x, "y": y},
        **options(metrics=None, stop=st.Threshold("test_loss", 100.0)),
        target=None,
        evaluations=st.Evaluation("test", {"x": x, "label": y}, loss=twice),
    )
    model = run.model.eval()
    with torch.no_grad():
        expected = 2 * F.cross_entropy(model(x), y)
    assert run.history[-1]["test_loss"] == pytest.approx(float(expected), rel=1e-5)
    assert len(run.history) == 1


def test_a_run_is_cut_within_an_evaluation_with_a_loss_of_its_own(points):
    "It is resumed exactly, and the run's own loss, which is trained, is what it was."

    class Weighed(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, pred, target):
            return F.cross_entropy(pred * self.weight, target)

    def build():
        model, loss = made(), Weighed()
        return st.fit(
            model,
            points,
            **options(
                seed=0,
                loss=loss,
                optimizer=torch.optim.SGD([*model.parameters(), *loss.parameters()], lr=0.1),
                opt_hparams=None,
                epochs=2,
                start=False,
            ),
            evaluations=st.Evaluation("test", points, loss=Scaled(2.0)),
        )

    assert_resumable(build)


def test_a_loss_of_its_own_is_checked(points):
    "It is a function; and for one optimizer."
    with pytest.raises(st.ConfigError, match="loss must be a function"):
        st.fit(made(), points, **options(), evaluations=st.Evaluation("test", points, loss=3))
    model = made()
    with pytest.raises(st.ConfigError, match=r"'test': loss= is for one optimizer"):
        st.fit(
            model,
            points,
            **options(
                optimizer={
                    "a": torch.optim.SGD(model[0].parameters(), lr=0.1),
                    "b": torch.optim.SGD(model[2].parameters(), lr=0.1),
                },
                opt_hparams=None,
            ),
            evaluations=st.Evaluation("test", points, loss=F.cross_entropy),
        )
