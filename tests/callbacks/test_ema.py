"""EMA: the average of the weights, by torch's own means."""

from __future__ import annotations

import copy

import pytest
import torch
from reference import bits
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

import statetrain as st
from statetrain import testing


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), nn.Linear(6, 3))


def train(points, *callbacks, **more):
    given = {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1},
        "epochs": 2,
        "verbose": False,
        "seed": 1,
    }
    given |= {"dataloader_options": {"batch_size": 8}, "valid": points, "clock": lambda: 0.0}
    return st.fit(
        more.pop("model", None) or net(), points, callbacks=list(callbacks), **{**given, **more}
    )


class Weights(st.Callback):
    """The model's state after each step."""

    def __init__(self):
        self.steps = []

    def on_exit_step(self, ctx):
        self.steps.append(copy.deepcopy(ctx.model.state_dict()))


def averaged(steps, decay):
    "By hand: the first is copied, each next one moves the average; whole numbers are taken as they are."
    average = copy.deepcopy(steps[0])
    for n, step in enumerate(steps[1:], 1):
        for name, value in step.items():
            if not value.is_floating_point():
                average[name] = value
            elif decay is None:
                average[name] = average[name] + (value - average[name]) / (n + 1)
            else:
                average[name] = decay * average[name] + (1 - decay) * value
    return average


@pytest.mark.parametrize("decay", [0.9, 0.5, None])
def test_it_is_the_average_of_the_steps(decay, points):
    "Weights and statistics, exponential or plain; the model itself is trained as without it."
    ema, weights = st.EMA(decay), Weights()
    run = train(points, weights, ema)
    for name, value in averaged(weights.steps, decay).items():
        torch.testing.assert_close(ema.model.state_dict()[name], value)
    assert bits(run.model) == bits(train(points).model)
    assert not ema.model.training


def test_buffers_can_be_the_models_own(points):
    "buffers=False copies the statistics."
    ema = st.EMA(0.9, buffers=False)
    run = train(points, ema)
    assert torch.equal(ema.model[1].running_mean, run.model[1].running_mean)
    assert not torch.equal(ema.model[0].weight, run.model[0].weight)


def test_it_can_begin_later_and_be_updated_less_often(points):
    "Before the start it is a copy; then every so many steps."
    ema, weights = st.EMA(None, start=2, every=2), Weights()
    train(points, weights, ema)
    steps = weights.steps
    torch.testing.assert_close(
        ema.model[0].weight, (steps[3]["0.weight"] + steps[5]["0.weight"]) / 2
    )


def test_validation_can_look_at_the_average(points):
    "The row's validation loss is the average's, the training is the same, and so are the weights that hooks of training see."
    ema = st.EMA(0.5, valid=True)
    run = train(points, ema)
    assert bits(run.model) == bits(train(points).model)
    assert run.history[-1]["valid_loss"] == pytest.approx(
        st.evaluate(ema.model, points, loss=F.cross_entropy)["loss"]
    )
    assert run.history[-1]["valid_loss"] != pytest.approx(st.evaluate(run, points)["loss"])


def test_the_model_can_have_the_average_at_the_end(points):
    "With restore=True, after a run that did not fail."
    ema = st.EMA(0.5, valid=True, restore=True)
    run = train(points, ema)
    assert bits(run.model) == bits(ema.model)


@pytest.mark.parametrize("how", ["fails", "interrupts"])
def test_a_run_that_ends_within_a_validation_has_its_own_weights(how, points):
    "They are exchanged back on every path."

    class Ends(st.Callback):
        def on_enter_valid_pred(self, ctx):
            raise OSError("broken") if how == "fails" else KeyboardInterrupt

    before = []

    class Before(st.Callback):
        def on_exit_train(self, ctx):
            before.append(bits(ctx.model))

    if how == "fails":
        with pytest.raises(OSError, match="broken") as caught:
            train(points, st.EMA(0.5, valid=True), Before(), Ends())
        run = caught.value.run
    else:
        run = train(points, st.EMA(0.5, valid=True), Before(), Ends())
    assert bits(run.model) == before[0]


@pytest.mark.parametrize(
    "options", [{}, {"valid": True}, {"decay": None}, {"valid": True, "buffers": False}], ids=str
)
def test_a_run_goes_on_exactly(options, points):
    "Cut at any anchor, within a validation of the average too: the average and the weights end as the same bits."
    testing.assert_resumable(lambda: train(points, st.EMA(**options), start=False), anchors=8)


def test_a_fit_that_goes_on_goes_on_with_its_average(points):
    "Two epochs and two more are four."
    one, two = st.EMA(0.9), st.EMA(0.9)
    train(points, one).fit(2)
    train(points, two, epochs=4)
    assert bits(one.model) == bits(two.model)


def test_several_optimizers_make_one_step_a_round(points):
    "Each round is averaged once."
    ema, weights = st.EMA(None), Weights()
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    optimizers = {
        name: torch.optim.SGD(model[i].parameters(), lr=0.1) for i, name in enumerate("ab")
    }
    train(points, weights, ema, model=model, optimizer=optimizers, opt_hparams=None)
    torch.testing.assert_close(ema.model.state_dict(), averaged(weights.steps[1::2], None))


@pytest.mark.parametrize(
    "options",
    [{"decay": 1.0}, {"decay": -0.1}, {"decay": True}, {"start": -1}, {"every": 0}, {"every": 1.5}],
)
def test_arguments_are_checked(options):
    "With what would do."
    with pytest.raises(st.ConfigError, match="EMA: "):
        st.EMA(**options)


def test_before_a_run_there_is_no_average():
    "The error says so."
    with pytest.raises(st.ConfigError, match="before a run has begun"):
        _ = st.EMA().model


# ---------------------------------------------------------------- the weights that are judged


def by_hand(model, points, decay, epochs, batch=8, every=1):
    "Plain SGD, and the average of all parameters after each step; until the first update the weights."
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average, count, step = None, 0, 0
    for _ in range(epochs):
        for x, y in zip(*(column.split(batch) for column in points), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            step += 1
            if step % every == 0:
                now = [p.detach().clone() for p in model.parameters()]
                if count:
                    now = [decay * a + (1 - decay) * b for a, b in zip(average, now, strict=True)]
                average, count = now, count + 1
    return average or [p.detach().clone() for p in model.parameters()]


def fixed(points, *callbacks, **more):
    "Three batches in their order, and a validation of all of them."
    batches = list(zip(*(column.split(8) for column in points), strict=True))
    return train(batches, *callbacks, **{"valid": [points], "dataloader_options": None, **more})


def put(model, values):
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), values, strict=True):
            parameter.copy_(value)
    return model


def plain(tied=False):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3))
    if tied:
        model[1].weight = model[0].weight
    return model


def shared():
    "One module under two names."
    torch.manual_seed(0)
    once = nn.Linear(4, 4)
    return nn.Sequential(once, nn.Tanh(), once, nn.Linear(4, 3))


@pytest.mark.parametrize("make", [lambda: plain(True), shared], ids=["weights", "module"])
def test_what_has_two_names_is_exchanged_once(make, points):
    "Tied weights and a module under two names: validation sees the average of a loop by hand, and training goes on with its own."
    ema, model, reference = st.EMA(0.9, valid=True), make(), make()
    run = fixed(points, ema, model=model)
    expected = put(copy.deepcopy(reference), by_hand(reference, points, 0.9, 2))
    loss = F.cross_entropy(expected(points[0]), points[1]).item()
    assert run.history[-1]["valid_loss"] == pytest.approx(loss, rel=1e-5)
    assert bits(model) == bits(reference)


@pytest.mark.parametrize("every", [4, 100])
def test_before_its_first_update_the_average_is_the_weights(every, points):
    "With an interval that is never reached, validation and restore have trained weights, not those of the start."
    ema, model = st.EMA(0.9, every=every, valid=True, restore=True), plain()
    run = fixed(points, ema, model=model)
    reference = plain()
    expected = put(copy.deepcopy(reference), by_hand(reference, points, 0.9, 2, every=every))
    loss = F.cross_entropy(expected(points[0]), points[1]).item()
    assert run.history[-1]["valid_loss"] == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(model.state_dict(), expected.state_dict(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ema.model.state_dict(), model.state_dict(), rtol=1e-5, atol=1e-6)


def test_only_statistics_are_averaged_among_the_buffers(points):
    "The vectors of a spectral norm stay unit vectors, and those of the model; buffers that are not saved are exchanged, too."

    class Norms(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3))
            self.register_buffer("calls", torch.zeros(()), persistent=False)

        def forward(self, x):
            if self.training:
                self.calls += 1.0
            return self.layer(x)

    ema, model = st.EMA(0.5, valid=True), Norms()
    fixed(points, ema, model=model)
    left = ema.model.layer.parametrizations.weight[0]._u
    torch.testing.assert_close(left.norm(), torch.tensor(1.0))
    assert torch.equal(left, model.layer.parametrizations.weight[0]._u)
    assert ema.model.calls == model.calls == 6.0


def test_evaluations_see_the_average(points):
    "One with a name sees what validation sees, whether or not there is a validation."
    ema = st.EMA(0.5, valid=True)
    run = fixed(points, ema, model=plain(), valid=None, evaluations=st.Evaluation("test", [points]))
    average = F.cross_entropy(ema.model(points[0]), points[1]).item()
    assert run.history[-1]["test_loss"] == pytest.approx(average, rel=1e-6)


class Centers(nn.Module):
    "A loss with a parameter of its own."

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(0.3))

    def forward(self, pred, target):
        return F.cross_entropy(pred * self.shift, target)


def both(model, loss):
    return torch.optim.SGD([*model.parameters(), *loss.parameters()], lr=0.5)


def test_the_best_is_what_was_judged(points, tmp_path):
    "With EMA(valid=True), KeepBest and SaveWeights keep the average that was best, with a loss's parameters."
    model, loss = plain(), Centers()
    path = str(tmp_path / "{epoch}.safetensors")
    keep, save = st.KeepBest("valid_loss"), st.SaveWeights(path, monitor="valid_loss")
    run = fixed(
        points,
        st.EMA(0.5, valid=True),
        keep,
        save,
        model=model,
        loss=loss,
        optimizer=both(model, loss),
        opt_hparams=None,
        epochs=4,
    )
    best = min(run.history["valid_loss"])
    assert loss(model(points[0]), points[1]).item() == pytest.approx(best, rel=1e-6)
    saved = plain()
    st.load_weights(saved, str(save.saved[keep.best_epoch - 1]))
    assert bits(saved) == bits(model)


def test_the_parameters_of_a_loss_are_put_back_and_saved(points, tmp_path):
    "KeepBest gives the loss its best parameters, and a saved run has them."
    model, loss = plain(), Centers()
    keep = st.KeepBest("valid_loss", "max")  # the first row
    options = {"model": model, "loss": loss, "optimizer": both(model, loss), "opt_hparams": None}
    run = fixed(points, keep, **options, epochs=3)
    first = run.history["valid_loss"][keep.best_epoch - 1]
    assert loss(model(points[0]), points[1]).item() == pytest.approx(first, rel=1e-6)

    st.save(run, tmp_path / "run.safetensors")
    again, other = Centers(), plain()
    st.load(tmp_path / "run.safetensors").restore(other, loss=again)
    assert torch.equal(again.shift, loss.shift)
    assert bits(other) == bits(model)
    with pytest.raises(st.CheckpointError, match=r"no weights of the loss 'opt.a'; it has 'opt'"):
        st.load(tmp_path / "run.safetensors").restore(other, loss=st.Losses(a=st.Loss(again)))


def spectral():
    return nn.utils.spectral_norm(nn.Linear(4, 4))


def pruned():
    return prune.l1_unstructured(nn.Linear(4, 4), "weight", amount=0.5)


@pytest.mark.parametrize("make", [spectral, pruned])
def test_models_that_hold_what_they_computed_are_copied(make, points):
    "Torch's deep copy refuses such a weight; the average is that of the parameters, and helpers work on copies."
    torch.manual_seed(1)
    model = nn.Sequential(make(), nn.Linear(4, 3))
    how = {"loss": F.cross_entropy, "optimizer": torch.optim.SGD, "verbose": False}
    st.lr_find(model, points, steps=3, **how)
    st.overfit(model, points, batches=1, epochs=1, **how)
    seen, ema = Weights(), st.EMA(0.9, valid=True)
    train(points, seen, ema, st.SanityCheck(), model=model)
    right = averaged(seen.steps, 0.9)
    for name, mine in ema.model.named_parameters():
        torch.testing.assert_close(mine, right[name])


def test_a_checkpoint_gives_the_average(points, tmp_path):
    "load_checkpoint(average=True) gives what ema.model is; without it, the weights of the training, within a validation too."
    ema = st.EMA(0.5, valid=True)
    run = fixed(points, ema, st.Checkpoint(tmp_path / "a"), model=plain())
    weights, average = plain(), plain()
    st.load_checkpoint(weights, tmp_path / "a")
    st.load_checkpoint(average, tmp_path / "a", average=True)
    assert bits(weights) == bits(run.model)
    assert bits(average) == bits(ema.model)

    class Stops(st.Callback):
        def on_enter_valid_pred(self, ctx):
            ctx.request_stop("enough")

    ema = st.EMA(0.5, valid=True)
    run = fixed(points, ema, st.Checkpoint(tmp_path / "b"), Stops(), model=plain())
    st.load_checkpoint(weights, tmp_path / "b")
    st.load_checkpoint(average, tmp_path / "b", average=True)
    assert bits(weights) == bits(run.model)
    assert bits(average) == bits(ema.model)

    fixed(points, st.Checkpoint(tmp_path / "c"), model=plain())
    with pytest.raises(st.CheckpointError, match="has no average: no EMA was among the callbacks"):
        st.load_checkpoint(average, tmp_path / "c", average=True)


def test_two_that_put_weights_back_are_refused(points):
    "EMA(restore=True) and KeepBest: the error says what to do."
    with pytest.raises(st.ConfigError, match="would both give the model other weights at the end"):
        fixed(points, st.EMA(0.5, restore=True), st.KeepBest("valid_loss"), model=plain())


def test_stochastic_weight_averaging_is_torchs(points):
    "A mean from the fifth step on, SWALR, statistics computed again: as in a loop by hand with torch's own, bit for bit."
    from torch.optim.swa_utils import SWALR, AveragedModel, get_swa_multi_avg_fn, update_bn

    batches = [(points[0][i : i + 8], points[1][i : i + 8]) for i in range(0, 16, 8)]

    def going_over(optimizer):
        before = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        after = SWALR(optimizer, swa_lr=0.05, anneal_epochs=2)
        return torch.optim.lr_scheduler.SequentialLR(optimizer, [before, after], milestones=[2])

    model = net()
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    # Torch's other form, `avg_fn`, may differ in the last bit
    average = AveragedModel(model, multi_avg_fn=get_swa_multi_avg_fn())
    schedule, step = going_over(optimizer), 0
    for _ in range(4):
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            step += 1
            if step > 4:
                average.update_parameters(model)
        schedule.step()
    update_bn(batches, average)

    ema, own = st.EMA(None, start=4), net()
    torch.manual_seed(1)
    st.fit(
        own,
        batches,
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.1},
        epochs=4,
        callbacks=[ema, st.LRScheduler(going_over)],
    )
    update_bn(batches, ema.model)
    assert bits(own) == bits(model)
    for (name, mine), theirs in zip(
        ema.model.state_dict().items(), average.module.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs), name


# ---------------------------------------------------------------- frozen parameters


def frozen_net():
    model = net()
    model[0].requires_grad_(False)
    return model


@pytest.mark.parametrize("valid", [False, True])
def test_frozen_parameters_are_not_copied(valid, points):
    "The average has their memory and their values, its state leaves them out; the others are the average by hand."
    ema, weights = st.EMA(0.9, valid=valid), Weights()
    run = train(points, weights, ema, model=frozen_net())
    for name, value in averaged(weights.steps, 0.9).items():
        torch.testing.assert_close(ema.model.state_dict()[name], value)
    assert ema.model[0].weight.data_ptr() == run.model[0].weight.data_ptr()
    assert ema.model[3].weight.data_ptr() != run.model[3].weight.data_ptr()
    assert "0.0.weight" not in ema.state_dict()["average"]
    assert bits(run.model) == bits(train(points, model=frozen_net()).model)
    assert run.history[-1]["valid_loss"] == pytest.approx(
        st.evaluate(ema.model if valid else run, points, loss=F.cross_entropy)["loss"]
    )


@pytest.mark.parametrize("decay", [0.5, None])
def test_what_is_trained_later_is_averaged_from_then_on(decay, points):
    "Its average is that of the steps that train it, exponential or plain; that of the others is of all steps."
    ema, weights = st.EMA(decay), Weights()
    run = train(points, st.Freeze("0", until=1), weights, ema)
    half = len(weights.steps) // 2
    late, whole = averaged(weights.steps[half:], decay), averaged(weights.steps, decay)
    assert torch.equal(weights.steps[half - 1]["0.weight"], net()[0].weight)
    assert not torch.equal(run.model[0].weight, net()[0].weight)
    for name, value in ema.model.state_dict().items():
        wanted = late if name.startswith("0.") else whole
        torch.testing.assert_close(value, wanted[name])
    assert ema.model[0].weight.data_ptr() != run.model[0].weight.data_ptr()


@pytest.mark.parametrize("decay", [0.5, None])
def test_a_run_with_frozen_parameters_goes_on_exactly(decay, points):
    "Cut before, at and after the epoch from which they are trained."
    testing.assert_resumable(
        lambda: train(
            points, st.Freeze("0", until=1), st.EMA(decay, valid=True), epochs=3, start=False
        ),
        anchors=8,
    )


def test_a_checkpoint_gives_the_average_with_the_frozen_parameters(tmp_path, points):
    "The whole averaged model comes out of it, though it holds the frozen ones once."
    ema = st.EMA(0.5)
    train(points, ema, st.Checkpoint(tmp_path), model=frozen_net())
    model = net()
    model[0].weight.data.zero_()
    st.load_checkpoint(model, tmp_path, average=True)
    assert bits(model) == bits(ema.model)
