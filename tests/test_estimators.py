"""Estimators for scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import statetrain as st


class Net(torch.nn.Module):
    """Scores of three classes from four numbers."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        layers = (torch.nn.Linear(4, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, 3))
        self.layers = torch.nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Line(torch.nn.Module):
    """One value from two numbers, shape (batch, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.line(x)


X, Y = load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])[Y]
OPTIONS = {"epochs": 8, "opt_hparams": {"lr": 0.05}}


def test_a_pipeline_learns_names():
    """Behind a scaler, labels that are words come back as words, and probabilities sum to one."""
    pipeline = make_pipeline(StandardScaler(), st.Classifier(Net, **OPTIONS)).fit(X, NAMES)
    assert pipeline.score(X, NAMES) > 0.9
    assert set(pipeline.predict(X)) == set(NAMES)
    shares = pipeline.predict_proba(X)
    assert shares.shape == (150, 3)
    assert np.allclose(shares.sum(axis=1), 1.0)
    assert list(pipeline[-1].classes_) == ["setosa", "versicolor", "virginica"]


def test_the_weights_are_those_of_fit():
    """An estimator is `fit` with other words: the same seed gives the same weights."""
    estimator = st.Classifier(Net, seed=3, **OPTIONS).fit(X, Y)
    run = st.fit(
        Net,
        (torch.tensor(X, dtype=torch.float32), torch.tensor(Y)),
        loss=torch.nn.functional.cross_entropy,
        optimizer=torch.optim.Adam,
        opt_hparams={"lr": 0.05},
        epochs=8,
        seed=3,
    )
    for ours, theirs in zip(estimator.run_.model.parameters(), run.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_search_reaches_into_the_hyperparameters():
    """A grid over entries of `hparams` and `opt_hparams` finds the one that can learn at all."""
    search = GridSearchCV(
        st.Classifier(Net, epochs=4),
        {"hparams__hidden": [8], "opt_hparams__lr": [1e-7, 0.05]},
        cv=3,
    )
    search.fit(X, Y)
    assert search.best_params_ == {"hparams__hidden": 8, "opt_hparams__lr": 0.05}
    assert search.best_estimator_.hparams == {"hidden": 8}


def test_a_copy_is_untrained_and_leaves_the_original():
    """`clone` copies the settings, `set_params` changes the copy's dictionaries only."""
    first = st.Classifier(Net, hparams={"hidden": 4}, **OPTIONS)
    copy = clone(first).set_params(hparams__hidden=16, epochs=1)
    assert (first.hparams, first.epochs) == ({"hidden": 4}, 8)
    assert (copy.hparams, copy.epochs) == ({"hidden": 16}, 1)
    with pytest.raises(NotFittedError, match=r"call fit\(X, y\)"):
        copy.predict(X)


def test_a_line_is_found():
    """A linear regressor trained by gradients scores as the closed form does, under cross-validation."""
    points = np.random.default_rng(0).normal(size=(120, 2))
    values = points @ [2.0, -1.0] + 0.5
    ours = st.Regressor(Line, epochs=60, opt_hparams={"lr": 0.05})
    scores = cross_val_score(ours, points, values, cv=3)
    assert scores == pytest.approx(
        cross_val_score(LinearRegression(), points, values, cv=3), abs=1e-3
    )


def test_options_reach_fit():
    """Whatever else `fit` takes goes into `options`, early stopping for one."""
    stopping = {"valid": 0.2, "stop": st.EarlyStopping("valid_loss", 1)}
    estimator = st.Classifier(Net, epochs=300, opt_hparams={"lr": 0.1}, options=stopping)
    assert isinstance(estimator.fit(X, Y).run_.outcome, st.Stopped)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: st.Classifier(Net).fit(X, np.zeros(150)), "at least two classes"),
        (lambda: st.Classifier(Net, epochs=1).fit(X, Y).predict(X[:, :2]), "X has 2 features"),
        (lambda: st.Classifier(Net).set_params(module__hidden=3), "hparams__hidden"),
        (lambda: st.Classifier(Net).set_params(epoch=3), "Invalid parameter 'epoch'"),
    ],
)
def test_what_cannot_be_is_said(wrong, words):
    """Mistakes get an error that says what was got and what to do."""
    with pytest.raises(ValueError, match=words):
        wrong()
