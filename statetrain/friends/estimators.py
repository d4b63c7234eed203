"""Estimators for scikit-learn: a model trained by `fit`.

For pipelines, searches and cross-validation.

What an estimator is made with is what `fit` takes; `fit(X, y)` trains a new model of the class, so
it can be cloned, searched over and cross-validated. The names of a search reach into dictionaries:
`GridSearchCV(Classifier(Net), {"hparams__hidden": [8, 32], "opt_hparams__lr": [1e-2, 1e-3]})`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

import torch

from statetrain.errors import ConfigError
from statetrain.training.fitting import fit
from statetrain.training.predicting import predict

if TYPE_CHECKING:
    import numpy as np

    from statetrain.training.run import Run

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
except ImportError as error:
    raise ImportError(
        "estimators need scikit-learn; install it with: pip install 'statetrain[sklearn]'"
    ) from error


class Estimator(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """What `Classifier` and `Regressor` share.

    Args:
        model: a class of modules, of which each `fit` makes a new one with `hparams`.
        hparams: arguments for it.
        loss: a function of prediction and target; None is cross-entropy for a classifier and the
            mean squared error for a regressor.
        optimizer: a class of optimizers, or a function of the parameters.
        opt_hparams: arguments for it.
        epochs: how many.
        batch_size: samples.
        seed: for initial weights, order and dropout; None draws from the global generators.
        options: anything else that `statetrain.fit` takes, by name, such as `valid`, `stop` or
            `callbacks`.
    """

    def __init__(
        self,
        model: type[torch.nn.Module],
        *,
        hparams: Mapping[str, Any] | None = None,
        loss: Callable[..., Any] | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        opt_hparams: Mapping[str, Any] | None = None,
        epochs: int = 10,
        batch_size: int = 32,
        seed: int | None = 0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.hparams = hparams
        self.loss = loss
        self.optimizer = optimizer
        self.opt_hparams = opt_hparams
        self.epochs = epochs
        self.batch_size = batch_size
        self.seed = seed
        self.options = options

    def set_params(self, **params: Any) -> Self:
        """Sets parameters; `hparams__hidden` sets one entry of a dictionary."""
        set_params(self, super().set_params, params)
        return self


class Classifier(ClassifierMixin, Estimator):  # type: ignore[misc]  # scikit-learn has no types
    """A classifier. The model returns a score for each class, shape (batch, classes).

    It is made with the arguments of `Estimator`.

    Attributes:
        run_: the run of the last `fit`: outcome, history, model.
        classes_: the labels, sorted, in the order of the scores.
        n_features_in_: columns of the training data.
    """

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803  # scikit-learn's words
        """Trains a new model.

        Args:
            X: an array or a frame, shape (samples, features) or more dimensions.
            y: labels of any kind, shape (samples,).
        """
        import numpy as np

        self.classes_, indices = np.unique(np.asarray(y), return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"Classifier needs at least two classes to tell apart, got {len(self.classes_)}"
            )
        if self.loss is None:
            loss = torch.nn.functional.cross_entropy
        else:
            loss = self.loss
        self.run_ = train(self, X, torch.as_tensor(indices), loss)
        return self

    def predict_proba(self, X: Any) -> np.ndarray[Any, Any]:  # noqa: N803
        """The probability of each class, shape (samples, classes)."""
        scores = scores_of(self, X)
        return scores.softmax(dim=1).numpy()

    def predict(self, X: Any) -> np.ndarray[Any, Any]:  # noqa: N803
        """The most probable class of each sample, shape (samples,)."""
        best = scores_of(self, X).argmax(dim=1).numpy()
        return self.classes_[best]  # type: ignore[no-any-return]


class Regressor(RegressorMixin, Estimator):  # type: ignore[misc]  # scikit-learn has no types
    """A regressor.

    The model returns one value or several for each sample, shape (batch,) or (batch, values).

    It is made with the arguments of `Estimator`.

    Attributes:
        run_: the run of the last `fit`.
        n_features_in_: columns of the training data.
    """

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803
        """Trains a new model.

        Args:
            X: an array or a frame, shape (samples, features) or more dimensions.
            y: numbers, shape (samples,) or (samples, values).
        """
        loss = mean_squared_error
        if self.loss is not None:
            loss = self.loss
        self.run_ = train(self, X, as_floats(y), loss)
        return self

    def predict(self, X: Any) -> np.ndarray[Any, Any]:  # noqa: N803
        """The values of each sample, shape (samples,), or (samples, values) for several."""
        values = scores_of(self, X)
        if values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        return values.numpy()


def mean_squared_error(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The mean squared error; a lone column of predictions is compared with a vector of targets."""
    if pred.ndim == target.ndim + 1 and pred.shape[-1] == 1:
        pred = pred[..., 0]
    return torch.nn.functional.mse_loss(pred, target)


def as_floats(data: Any) -> torch.Tensor:
    """An array, a frame or a tensor as float32."""
    if not isinstance(data, torch.Tensor):
        import numpy as np

        data = torch.as_tensor(np.asarray(data, dtype="float32"))
    floats: torch.Tensor = data.float()
    return floats


def train(
    estimator: Estimator,
    X: Any,  # noqa: N803
    target: torch.Tensor,
    loss: Callable[..., Any],
) -> Run:
    """The run of a new model on these samples."""
    inputs = as_floats(X)
    estimator.n_features_in_ = 1
    if inputs.ndim > 1:
        estimator.n_features_in_ = inputs.shape[1]
    options = dict(estimator.options or {})
    if "dataloader_options" not in options:
        options["dataloader_options"] = {"batch_size": estimator.batch_size}
    return fit(
        estimator.model,
        (inputs, target),
        hparams=estimator.hparams or {},
        loss=loss,
        optimizer=estimator.optimizer,
        opt_hparams=estimator.opt_hparams,
        epochs=estimator.epochs,
        seed=estimator.seed,
        **options,
    )


def scores_of(estimator: Estimator, X: Any) -> torch.Tensor:  # noqa: N803
    """What the trained model returns for these samples, on the host."""
    if not hasattr(estimator, "run_"):
        from sklearn.exceptions import NotFittedError

        raise NotFittedError(
            f"this {type(estimator).__name__} has not been trained; call fit(X, y)"
        )
    inputs = as_floats(X)
    columns = 1
    if inputs.ndim > 1:
        columns = inputs.shape[1]
    if columns != estimator.n_features_in_:
        raise ValueError(
            f"X has {columns} features, and {type(estimator).__name__} was trained with"
            f" {estimator.n_features_in_} features as input"
        )
    scores: torch.Tensor = predict(estimator.run_, inputs)
    return scores.cpu()


def set_params(estimator: Any, own: Callable[..., Any], params: Mapping[str, Any]) -> None:
    """Sets parameters by name, those with `__` as entries of the dictionary before it."""
    plain: dict[str, Any] = {}
    for name, value in params.items():
        head, found, entry = name.partition("__")
        if not found:
            plain[name] = value
            continue
        if head not in ("hparams", "opt_hparams", "options"):
            raise ConfigError(
                f"{type(estimator).__name__} has no parameter {name!r}; entries of hparams,"
                f" opt_hparams and options are set as 'hparams__{entry}'"
            )
        before = plain.get(head, getattr(estimator, head))
        plain[head] = {**(before or {}), entry: value}
    own(**plain)
