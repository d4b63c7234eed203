"""The history: rows, columns, the best of them, and how it is shown."""

from __future__ import annotations

import math

import pytest

import statetrain as st

NAN = math.nan


@pytest.fixture
def history():
    return st.History(
        [
            {"epoch": 1, "step": 10, "train_loss": 0.9, "valid_loss": 0.8, "valid_accuracy": 0.5},
            {"epoch": 2, "step": 20, "train_loss": 0.5},
            {"epoch": 3, "step": 30, "train_loss": NAN, "valid_loss": 0.4, "valid_accuracy": 0.9},
            {"epoch": 4, "step": 40, "train_loss": 0.6, "valid_loss": 0.4, "valid_accuracy": 0.9},
        ]
    )


def test_rows_and_columns(history):
    "An index gives a row, a slice rows, a name the values of the rows that have it."
    assert len(history) == 4
    assert history[0]["epoch"] == 1
    assert history[-1]["step"] == 40
    assert [row["epoch"] for row in history[1:3]] == [2, 3]
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert history["valid_loss"] == [0.8, 0.4, 0.4]
    assert history.columns == ["epoch", "step", "train_loss", "valid_loss", "valid_accuracy"]


def test_an_unknown_column_names_the_nearest(history):
    "A misspelt column is an error, also where the best is asked for."
    with pytest.raises(
        KeyError, match="no row of the history has 'valid_los'; did you mean 'valid_loss'"
    ):
        history["valid_los"]
    with pytest.raises(KeyError, match="did you mean 'valid_loss'"):
        history.best("valid_los")


def test_the_best_row(history):
    "The first of the best, in either direction; a NaN never is."
    assert history.best("valid_loss")["epoch"] == 3
    assert history.best("train_loss")["epoch"] == 2
    assert history.best("valid_accuracy", mode="max")["epoch"] == 3
    assert st.History([{"a": -3.0}, {"a": 0.5}, {"a": 1.0}]).best("a", mode="zero") == {"a": 0.5}
    with pytest.raises(KeyError, match="no value of 'a' is a number"):
        st.History([{"a": NAN}]).best("a")


def test_the_metrics_of_a_set(history):
    "The last row that has any, or that of an epoch, by names without the set."
    assert history.metrics("valid") == {"loss": 0.4, "accuracy": 0.9}
    assert history.metrics("valid", epoch=1) == {"loss": 0.8, "accuracy": 0.5}
    assert history.metrics("valid", epoch=2) == {}
    assert history.metrics("train", epoch=2) == {"loss": 0.5}


def test_the_long_form():
    "table() has one row for each set, metric, epoch and optimizer."
    rows = [
        {
            "epoch": e,
            "step": 2 * e,
            "train_loss_d": 0.1 * e,
            "train_loss_g": 1.0 * e,
            "valid_size": 3.0,
        }
        for e in (1, 2)
    ]
    long = st.History(rows, optimizers=("d", "g")).table()
    assert [tuple(row.values()) for row in long] == [
        ("train", "loss", "d", 1, 2, 0.1),
        ("train", "loss", "d", 2, 4, 0.2),
        ("train", "loss", "g", 1, 2, 1.0),
        ("train", "loss", "g", 2, 4, 2.0),
        ("valid", "size", None, 1, 2, 3.0),
        ("valid", "size", None, 2, 4, 3.0),
    ]
    assert list(long[0]) == ["set", "metric", "optimizer", "epoch", "step", "value"]


def test_it_is_compared_by_its_rows(history):
    "Equal rows make equal histories; a list of rows is as good; it cannot be hashed, since it grows."
    assert st.History([{"a": 1}]) == st.History([{"a": 1}]) == [{"a": 1}]
    assert st.History([{"a": 1}]) != st.History([{"a": 2}])
    assert history != "history"
    with pytest.raises(TypeError, match="unhashable"):
        hash(history)


def test_it_is_shown_as_a_table(history):
    "str() is a table with aligned columns and empty cells where a row has no value; repr() is a line."
    lines = str(history).splitlines()
    assert lines[0].split() == ["epoch", "step", "train_loss", "valid_loss", "valid_accuracy"]
    assert lines[2].split() == ["2", "20", "0.5"]
    assert lines[3].split() == ["3", "30", "nan", "0.4", "0.9"]
    assert len({len(line) for line in lines}) == 1
    assert (
        repr(history) == "<History: 4 rows of epoch, step, train_loss, valid_loss, valid_accuracy>"
    )
    assert repr(st.History()) == "<History: 0 rows of nothing yet>"
    assert str(st.History()) == ""


def test_the_last_row() -> None:
    """Of an empty history it is empty, so that what is looked for in it is not there."""
    assert st.History().last == {}
    assert st.History([{"epoch": 1}, {"epoch": 2}]).last == {"epoch": 2}
