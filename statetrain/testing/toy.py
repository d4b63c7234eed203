"""A problem small enough for tests: a line through the origin, whose slope is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from statetrain.validators import check_whole

if TYPE_CHECKING:
    import torch

    from statetrain.training.run import Run


@frozen(repr=False)
class Toy:
    """The model `y = slope * x`, data on such a line, and the slope that training has to find.

    Attributes:
        model: a `Linear(1, 1)` without bias; its weight is `slope`.
        train, valid: batches, each a pair of tensors of shape (batch_size, 1). The points of both
            lie on the same line.
        optimum: the slope of the data. There the loss is 0.
        lr: a learning rate with which SGD on the mean squared error halves the distance at least,
            in each epoch.
    """

    model: torch.nn.Module
    train: list[tuple[torch.Tensor, torch.Tensor]]
    valid: list[tuple[torch.Tensor, torch.Tensor]]
    optimum: float
    lr: float = field(default=0.1, kw_only=True)

    @property
    def slope(self) -> float:
        """What the model has found so far."""
        return float(next(self.model.parameters()).item())

    @property
    def distance(self) -> float:
        """How far the slope is from the optimum."""
        return abs(self.slope - self.optimum)

    def fit(self, **options: Any) -> Run:
        """Trains the model with `statetrain.fit`: mean squared error, SGD, 2 epochs, on the CPU.

        Args:
            **options: any of `fit`'s, in place of these; `valid=None` trains without validation.
        """
        import torch

        import statetrain

        given: dict[str, Any] = {
            "valid": self.valid,
            "loss": torch.nn.functional.mse_loss,
            "epochs": 2,
            "device": "cpu",
            "verbose": False,
        }
        if "optimizer" not in options:
            given |= {"optimizer": torch.optim.SGD, "opt_hparams": {"lr": self.lr}}
        return statetrain.fit(self.model, self.train, **{**given, **options})

    def __repr__(self) -> str:
        return f"<Toy: slope {self.slope:.3f} of {self.optimum:g}, {len(self.train)} batches>"


def toy_problem(
    optimum: float = 3.0,
    *,
    batches: int = 4,
    valid_batches: int = 2,
    batch_size: int = 8,
    seed: int = 0,
) -> Toy:
    """A model, data and a known optimum, to test a lifecycle or a callback in milliseconds.

        toy = toy_problem()
        run = toy.fit(epochs=5, callbacks=MyCallback())
        assert toy.distance < 0.1

    The same arguments make the same problem, whatever random numbers were drawn before, and draw
    none of torch's own.

    Args:
        optimum: the slope of the line that the data lies on. The model begins at a slope between 0
            and 1.
        batches: of training data, at least 1.
        valid_batches: of validation data, at least 1.
        batch_size: points in a batch, at least 1; inputs lie between -2 and 2.
        seed: of the inputs and the first slope.

    Raises:
        ConfigError: a number is out of range.
    """
    import torch

    for name, value in (
        ("batches", batches),
        ("valid_batches", valid_batches),
        ("batch_size", batch_size),
    ):
        check_whole(f"toy_problem: {name}", value)
    generator = torch.Generator().manual_seed(seed)

    def line(n: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        inputs = [torch.rand(batch_size, 1, generator=generator) * 4 - 2 for _ in range(n)]
        return [(x, optimum * x) for x in inputs]

    model = torch.nn.utils.skip_init(torch.nn.Linear, 1, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.rand(1, 1, generator=generator))
    return Toy(model, line(batches), line(valid_batches), float(optimum))
