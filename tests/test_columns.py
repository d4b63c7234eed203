"""Values of several numbers: one column a number in the history, shown, logged, monitored and plotted as any other."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as strategies
from torch.nn import functional as F

import statetrain as st
from statetrain.context.columns import as_columns
from statetrain.context.history import History


def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(40, 4, generator=generator), torch.randint(0, 3, (40,), generator=generator)


def fit(**options):
    torch.manual_seed(0)
    X, y = data()
    given = {"loss": F.cross_entropy, "optimizer": torch.optim.SGD, "opt_hparams": {"lr": 0.1}}
    batches = list(zip(X.split(8), y.split(8), strict=True))
    return st.fit(
        torch.nn.Linear(4, 3), batches, **{**given, "epochs": 2, "valid": [(X, y)], **options}
    )


def pred_of(run):
    with torch.no_grad():
        return run.model(data()[0])


# ---------------------------------------------------------------- what becomes of a value

numbers = strategies.integers(-5, 5) | strategies.floats(allow_nan=False)
values = strategies.recursive(
    numbers,
    lambda parts: strategies.dictionaries(strategies.text("abc", min_size=1), parts, max_size=3),
)


def leaves(value):
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in leaves(part)]
    return [value]


@given(values)
def test_each_number_has_a_column(value):
    "However deep a mapping is: its numbers are the columns' values, unless two names are one when joined."
    columns = as_columns("m", value)
    if len(columns) == len(leaves(value)):
        assert list(columns.values()) == leaves(value)
    assert all(name == "m" or name.startswith("m_") for name in columns)


def test_what_tensors_become():
    "One element is a number, a short vector some columns; what is larger is kept whole, without its graph."
    assert as_columns("a", torch.tensor([[2.0]])) == {"a": 2.0}
    assert as_columns("a", torch.tensor([1.0, 2.0])) == {"a_0": 1.0, "a_1": 2.0}
    assert as_columns("a", (torch.tensor(1.0), 2)) == {"a_0": 1.0, "a_1": 2}
    matrix = torch.eye(2, requires_grad=True) * 1.0
    kept = as_columns("a", matrix)["a"]
    assert torch.equal(kept, torch.eye(2))
    assert not kept.requires_grad
    assert list(as_columns("a", torch.zeros(21))) == ["a"]


# ---------------------------------------------------------------- metrics


def extremes(pred, target):
    return {"low": pred.min(1).values.mean(), "high": pred.max(1).values.mean()}


def test_a_function_of_several_values():
    "Each is averaged over samples, as a function of its own would be; an early stop may monitor one."
    run = fit(metrics=extremes, stop=st.EarlyStopping("valid_extremes_high", 5), epochs=1)
    pred = pred_of(run)
    row = run.history[-1]
    assert row["valid_extremes_low"] == pytest.approx(pred.min(1).values.mean().item(), rel=1e-6)
    assert row["valid_extremes_high"] == pytest.approx(pred.max(1).values.mean().item(), rel=1e-6)
    assert set(st.evaluate(run, [data()])) == {"loss", "extremes_low", "extremes_high"}


class Counts:
    "A metric object that gives a mapping, a vector or a matrix."

    def __init__(self, kind):
        self.kind = kind
        self.reset()

    def reset(self):
        self.counts = torch.zeros(3, 3)

    def update(self, pred, target):
        for p, t in zip(pred.argmax(1), target, strict=True):
            self.counts[t, p] += 1

    def compute(self):
        matrix = self.counts
        return {"matrix": matrix, "vector": matrix.sum(1), "mapping": {"sum": matrix.sum()}}[
            self.kind
        ]


def test_objects_of_several_values(tmp_path):
    "A vector and a mapping are columns, a matrix is kept, and shown by its shape; all can be logged, saved and plotted."
    metrics = {kind: Counts(kind) for kind in ("matrix", "vector", "mapping")}
    run = fit(metrics=metrics, callbacks=st.JSONLines(tmp_path / "log.jsonl"))
    row = run.history[-1]
    pred, target = pred_of(run).argmax(1), data()[1]
    assert [row[f"valid_vector_{i}"] for i in range(3)] == target.bincount(minlength=3).tolist()
    assert row["valid_mapping_sum"] == 40
    expected = torch.zeros(3, 3)
    for p, t in zip(pred, target, strict=True):
        expected[t, p] += 1
    assert torch.equal(row["valid_matrix"], expected)
    assert "of shape (3, 3)" in str(run.history)

    logged = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert logged["valid_matrix"] == expected.tolist()
    assert logged["valid_vector_0"] == row["valid_vector_0"]
    assert [panel.get_title() for panel in run.plot().axes if panel.get_visible()] == [
        "loss",
        "vector_0",
        "vector_1",
        "vector_2",
        "mapping_sum",
    ]
    with pytest.raises(st.ConfigError, match="'matrix' is not a number, so it has no curve"):
        run.plot("matrix")
    st.save(run, tmp_path / "run")
    assert torch.equal(st.load(tmp_path / "run").history[-1]["valid_matrix"], expected)


def test_a_cut_within_an_epoch_keeps_the_sums(tmp_path):
    "A function of several values is resumed exactly."
    st.testing.assert_resumable(
        lambda: fit(metrics={"e": extremes, "n": Counts("vector")}, epochs=1, start=False, seed=1),
        anchors=3,
    )


@pytest.mark.parametrize(
    ("metrics", "monitor", "words"),
    [
        (extremes, "valid_extremes", "nothing writes the monitor 'valid_extremes'; did you mean"),
        (extremes, "valid_extremes_hihg", "did you mean 'valid_extremes_high'"),
        ({"m": Counts("matrix")}, "valid_m", "'valid_m' is not a number but has shape"),
        ({"m": Counts("vector")}, "valid_m", "the set 'valid' has valid_loss, valid_m_0"),
    ],
)
def test_a_monitor_that_only_a_value_can_refuse(metrics, monitor, words):
    "What nobody can know before is refused in the first row, by its name; never silently ignored."
    with pytest.raises(st.ConfigError, match=words) as found:
        fit(metrics=metrics, stop=st.EarlyStopping(monitor, 5))
    assert len(found.value.run.history) == 0


# ---------------------------------------------------------------- torchmetrics


def test_a_collection_has_a_column_for_each_metric():
    "By the names in it; under a name of its own these begin with that. The values are those by hand."
    tm = pytest.importorskip("torchmetrics")
    kind = {"task": "multiclass", "num_classes": 3}
    collection = tm.MetricCollection(
        {"acc": tm.Accuracy(**kind), "each": tm.Recall(**kind, average=None)}
    )
    monitor = st.EarlyStopping("valid_acc", 3, mode="max")
    run = fit(metrics=collection, stop=monitor, callbacks=st.KeepBest("valid_each_1", "max"))
    named = fit(metrics={"m": collection.clone(postfix="!")})
    assert run.history.columns[-6:] == [
        "train_each_2",
        "valid_loss",
        "valid_acc",
        "valid_each_0",
        "valid_each_1",
        "valid_each_2",
    ]
    assert named.history["valid_m_acc!"] == run.history["valid_acc"]
    got = st.evaluate(run, [data()])
    pred = pred_of(run).argmax(1)
    assert got["acc"] == pytest.approx((pred == data()[1]).float().mean().item())
    ones = data()[1] == 1
    assert got["each_1"] == pytest.approx((pred[ones] == 1).float().mean().item())


def test_a_monitor_that_is_no_number_is_refused_before_training():
    "torchmetrics' objects say what they give: a matrix and a vector are refused by name before the first batch."
    tm = pytest.importorskip("torchmetrics")
    kind = {"task": "multiclass", "num_classes": 3}
    metrics = {"cm": tm.ConfusionMatrix(**kind), "f1": tm.F1Score(**kind, average=None)}
    seen = st.on("enter_batch")(lambda ctx: pytest.fail("a batch was trained on"))
    with pytest.raises(st.ContractError, match=r"'valid_cm' is not a number: .* shape \(3, 3\)"):
        fit(metrics=metrics, stop=st.EarlyStopping("valid_cm", 2), callbacks=seen)
    with pytest.raises(st.ContractError, match="in the columns valid_f1_0, valid_f1_1"):
        fit(metrics=metrics, stop=st.EarlyStopping("valid_f1", 2, mode="max"), callbacks=seen)
    with pytest.raises(st.ConfigError, match="MinMaxMetric, which compares values over epochs"):
        fit(metrics={"best": tm.MinMaxMetric(tm.Accuracy(**kind))}, callbacks=seen)
    wrapped = tm.ClasswiseWrapper(tm.Recall(**kind, average=None), labels=["a", "b", "c"])
    run = fit(metrics={"w": wrapped}, stop=st.EarlyStopping("valid_w_multiclassrecall_b", 5))
    assert len(run.history["valid_w_multiclassrecall_a"]) == 2


# ---------------------------------------------------------------- columns never collide


def one(pred, target):
    return 1.0


def two_optimizers(**options):
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 3))
    optimizers = {"a": torch.optim.SGD(model[0].parameters(), 0.1)}
    optimizers["b"] = torch.optim.SGD(model[1].parameters(), 0.1)
    return st.fit(model, [data()], loss=F.cross_entropy, optimizer=optimizers, epochs=1, **options)


def logs(name, **more):
    return st.on("exit_train")(lambda ctx: ctx.log_metric(name, 1.0, **more))


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (
            lambda: fit(
                evaluations=[
                    st.Evaluation("a", [data()], metrics={"b_loss": one}),
                    st.Evaluation("a_b", [data()]),
                ]
            ),
            "'a_b_loss' of the set 'a' reads as one of the set 'a_b'",
        ),
        (
            lambda: fit(
                valid_metrics={"x_loss": one}, evaluations=st.Evaluation("valid_x", [data()])
            ),
            "'valid_x_loss' of the set 'valid' reads as one of the set 'valid_x'",
        ),
        (
            lambda: fit(evaluations=st.Evaluation("epoch", [data()], metrics={"complete": one})),
            "'epoch_complete', which is a counter of every row",
        ),
        (lambda: two_optimizers(metrics={"loss_a": one}), "'train_loss_a', which the set has"),
        (
            lambda: fit(metrics={"a": lambda p, t: {"b": p.mean()}, "a_b": one}),
            "'train_a_b', which the set has already",
        ),
        (lambda: fit(callbacks=logs("step", set="")), "'step' is a counter of every row"),
        (lambda: fit(callbacks=logs("loss")), "'train_loss' is written by the run"),
        (
            lambda: fit(metrics=extremes, callbacks=logs("extremes_low")),
            "'train_extremes_low' was logged and is written by the run",
        ),
    ],
)
def test_two_writers_of_a_column_are_refused(run, words):
    "No value is lost without a word: the error names the column, and what to do."
    with pytest.raises((st.ConfigError, st.MachineError)) as found:
        run()
    assert words in str(found.value)


def test_sets_whose_names_begin_alike():
    "The metrics of `test` are not those of `test_ood`, in the history, the context and the long form; also of a saved run."
    evaluations = [
        st.Evaluation("test", [data()]),
        st.Evaluation("test_ood", [data()], metrics={"one": one}),
    ]
    run = fit(evaluations=evaluations, epochs=1)
    assert list(run.history.metrics("test")) == ["loss"]
    assert list(run.history.metrics("test_ood")) == ["loss", "one"]
    assert run.ctx.format_metrics("test").count(":") == 1


def test_a_saved_history_keeps_its_sets(tmp_path):
    "The long form is the same before and after."
    run = two_optimizers(evaluations=st.Evaluation("test", [data()]))
    st.save(run, tmp_path / "run")
    assert st.load(tmp_path / "run").history.table() == run.history.table()
    assert ("test", "loss", "b") in {
        (row["set"], row["metric"], row["optimizer"]) for row in run.history.table()
    }


def test_rates_are_in_the_long_form_and_have_a_curve():
    "A column that belongs to no set, such as the learning rate, is in the frame and in the plot, as evaluations are."
    halves = st.LRScheduler(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    run = fit(callbacks=halves, evaluations=st.Evaluation("test", [data()]))
    rates = [row["value"] for row in run.history.table() if row["metric"] == "lr"]
    assert rates == [0.1, 0.05]
    shown = [[line.get_label() for line in panel.lines] for panel in run.plot().axes]
    assert shown[:2] == [["train", "valid", "test"], ["lr"]]
    assert History(run.history.rows, sets=run.history.sets).split("lr") == ("", "lr", None)


def test_a_logged_tensor_is_a_number():
    "Its value when it was logged, also where the tensor changes afterwards; several are columns."

    @st.on("exit_batch", "exit_epoch")
    def log(ctx):
        total = ctx.buffers.setdefault("total", torch.zeros(()))
        total += 1
        where = "late" if ctx.state == "next_epoch" or ctx.epoch_complete else "train"
        if where == "train":
            ctx.log_metric("total", total, set="train")
            ctx.log_metric("pair", torch.stack([total, -total]), set="")
        else:
            ctx.log_metric("late", total, set="train")
            total += 100

    run = fit(callbacks=log, epochs=1)
    row = run.history[-1]
    assert (row["train_total"], row["pair_0"], row["pair_1"]) == (5.0, 5.0, -5.0)
    assert row["train_late"] == 6.0
    assert isinstance(row["train_late"], float)
