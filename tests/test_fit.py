"""`fit` trains what a loop written by hand trains, bit by bit, and a run can go on."""

from __future__ import annotations

import collections
import math

import pytest
import torch
from reference import bits
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import statetrain as st

OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "momentum": lambda parameters: torch.optim.SGD(
        parameters, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3
    ),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1),
}


def loader(data, **options):
    return DataLoader(TensorDataset(*data), **{"batch_size": 32, "shuffle": True, **options})


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_plain_loop(name, digits, cnn):
    "Weights, batch norm's buffers, the optimizer's state and the losses are those of the loop that everyone writes."
    model = cnn()
    optimizer = OPTIMIZERS[name](model.parameters())
    losses = []
    for _ in range(2):
        model.train()
        total = 0.0
        for images, labels in loader(digits):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(images)
        losses.append(total / 230)

    run = st.fit(cnn(), loader(digits), loss=F.cross_entropy, optimizer=OPTIMIZERS[name], epochs=2)

    assert bits(run.model, run.ctx.opt) == bits(model, optimizer)
    assert run.history["train_loss"] == losses


def test_accumulation_over_full_windows(digits, cnn):
    "Four batches a step are what the usual division of the loss by four gives."
    model = cnn()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(2):
        model.train()
        for i, (images, labels) in enumerate(loader(digits)):  # 8 batches
            (F.cross_entropy(model(images), labels) / 4).backward()
            if i % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()

    run = st.fit(
        cnn(),
        loader(digits),
        loss=F.cross_entropy,
        optimizer=torch.optim.Adam,
        opt_hparams={"lr": 1e-2},
        accumulate=4,
        epochs=2,
    )

    assert bits(run.model, run.ctx.opt) == bits(model, optimizer)
    assert run.ctx.step == 4


@pytest.mark.parametrize("sized", [True, False], ids=["with len", "without len"])
@pytest.mark.parametrize("window", [3, 4, 5, 8, 20])
def test_accumulation_with_a_short_last_window(window, sized, digits, cnn):
    "What is left over at the end of an epoch makes a step, divided by its own length, whether or not the loader has a length."
    model = cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    batches = loader(digits, batch_size=30)  # 8 batches, the last one of 20

    def apply(pending):
        for parameter in model.parameters():
            parameter.grad /= pending
        optimizer.step()
        optimizer.zero_grad()
        return 0

    for _ in range(2):
        model.train()
        pending = 0
        for images, labels in batches:
            F.cross_entropy(model(images), labels).backward()
            pending += 1
            if pending == window:
                pending = apply(pending)
        if pending:
            apply(pending)

    made = cnn()
    run = st.fit(
        made,
        batches if sized else lambda: batches,
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD(made.parameters(), lr=0.1, momentum=0.9),
        accumulate=window,
        epochs=2,
    )

    assert run.ctx.length == (8 if sized else None)
    assert run.ctx.step == 2 * math.ceil(8 / window)
    assert bits(run.model, run.ctx.opt) == bits(model, optimizer)


class Gan(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.generator = torch.nn.Sequential(
            torch.nn.Linear(5, 16), torch.nn.ReLU(), torch.nn.Linear(16, 64)
        )
        self.critic = torch.nn.Sequential(
            torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1)
        )

    def forward(self, images):
        made = self.generator(torch.randn(len(images), 5))
        return {"real": self.critic(images), "made": self.critic(made)}


def is_real(logits):
    return F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))


def is_made(logits):
    return F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits))


def test_two_optimizers(digits):
    "Two optimizers take turns as in a GAN's loop, and each loss fills its own parameters only."
    images = digits[0].flatten(1)
    batches = list(images.split(50))
    torch.manual_seed(0)
    model = Gan()
    opt_critic = torch.optim.Adam(model.critic.parameters(), lr=1e-2)
    opt_generator = torch.optim.SGD(model.generator.parameters(), lr=0.1, momentum=0.5)
    for _ in range(3):
        for real in batches:
            opt_critic.zero_grad()
            made = model.generator(torch.randn(len(real), 5)).detach()
            (is_real(model.critic(real)) + is_made(model.critic(made))).backward()
            opt_critic.step()

            opt_generator.zero_grad()
            made = model.generator(torch.randn(len(real), 5))
            is_real(model.critic(made)).backward()
            opt_generator.step()

    kept = []

    class Watch(st.Callback):
        "Whether a backward leaves the other's gradients as they were."

        def on_enter_backward(self, ctx):
            other = ctx.model.generator if ctx.opt_name == "critic" else ctx.model.critic
            self.before = [
                (p, None if p.grad is None else p.grad.clone()) for p in other.parameters()
            ]

        def on_exit_backward(self, ctx):
            kept.append(
                all(p.grad is g if g is None else torch.equal(p.grad, g) for p, g in self.before)
            )

    torch.manual_seed(0)
    run = st.fit(
        Gan(),
        batches,
        loss={
            "critic": lambda p, _: is_real(p["real"]) + is_made(p["made"]),
            "generator": lambda p, _: is_real(p["made"]),
        },
        optimizer={"critic": torch.optim.Adam, "generator": torch.optim.SGD},
        opt_hparams={"critic": {"lr": 1e-2}, "generator": {"lr": 0.1, "momentum": 0.5}},
        target="batch",
        epochs=3,
        callbacks=Watch(),
    )

    assert bits(run.model, *run.ctx.optimizers.values()) == bits(model, opt_critic, opt_generator)
    assert run.ctx.step == 15
    assert kept == [True] * 30
    assert run.history.columns[-2:] == ["train_loss_critic", "train_loss_generator"]


def test_clipping_by_a_callback(digits, cnn):
    "A callback that clips the gradients on the way into `step` does what the line before optimizer.step() does."
    model = cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    clipped = []
    for _ in range(2):
        model.train()
        for images, labels in loader(digits):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            clipped.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5) > 0.5)
            optimizer.step()

    class Clip(st.Callback):
        writes = {"grads"}

        def on_enter_step(self, ctx):
            torch.nn.utils.clip_grad_norm_(ctx.model.parameters(), 0.5)

    run = st.fit(
        cnn(),
        loader(digits),
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.5},
        epochs=2,
        callbacks=Clip(),
    )

    assert any(clipped)
    assert bits(run.model) == bits(model)


def test_a_nan_is_skipped(digits, cnn):
    "With non_finite='skip', a batch whose loss is NaN is left out, as by `continue`; the running statistics are those of before it."

    def loss_fn(logits, labels):
        return F.cross_entropy(logits, labels) * (math.nan if labels[0] == 3 else 1.0)

    model = cnn()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    skipped = 0
    for _ in range(2):
        model.train()
        for images, labels in loader(digits, batch_size=16):
            optimizer.zero_grad()
            before = [buffer.clone() for buffer in model.buffers()]
            loss = loss_fn(model(images), labels)
            if not torch.isfinite(loss):
                skipped += 1
                for buffer, old in zip(model.buffers(), before, strict=True):
                    buffer.copy_(old)
                continue
            loss.backward()
            optimizer.step()

    run = st.fit(
        cnn(),
        loader(digits, batch_size=16),
        loss=loss_fn,
        optimizer=torch.optim.Adam,
        opt_hparams={"lr": 1e-2},
        epochs=2,
        non_finite="skip",
    )

    assert skipped > 0
    assert run.ctx.step == 2 * 15 - skipped
    assert bits(run.model, run.ctx.opt) == bits(model, optimizer)
    assert all(math.isfinite(loss) for loss in run.history["train_loss"])


def validated(model, data):
    model.eval()
    total = count = 0
    with torch.no_grad():
        for images, labels in data:
            total += F.cross_entropy(model(images), labels).item() * len(images)
            count += len(images)
    model.train()
    return total / count


def test_validation_after_each_epoch(digits, cnn):
    "Validation between epochs changes nothing in training and gives the values of a loop under no_grad, in eval mode."
    train, valid = [part[:160] for part in digits], [part[160:] for part in digits]
    model = cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    values = []
    for _ in range(3):
        model.train()
        for images, labels in loader(train):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
        values.append(validated(model, loader(valid, shuffle=False)))

    run = st.fit(
        cnn(),
        loader(train),
        valid=loader(valid, shuffle=False),
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.1, "momentum": 0.9},
        epochs=3,
    )

    assert bits(run.model, run.ctx.opt) == bits(model, optimizer)
    assert run.history["valid_loss"] == values


def test_validation_inside_an_epoch(digits, cnn):
    "Validation every 3 steps goes on with the same epoch's batches where it left them."
    train, valid = [part[:160] for part in digits], [part[160:] for part in digits]
    model = cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    values, step = [], 0
    for _ in range(2):
        model.train()
        for images, labels in loader(train):  # 5 batches
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            step += 1
            if step % 3 == 0:
                values.append(validated(model, loader(valid, shuffle=False)))

    run = st.fit(
        cnn(),
        loader(train),
        valid=loader(valid, shuffle=False),
        validate=st.Every(3, "steps"),
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.1},
        epochs=2,
    )

    assert bits(run.model) == bits(model)
    assert run.history["valid_loss"] == values
    assert [(row["epoch"], row["step"], row["epoch_complete"]) for row in run.history] == [
        (1, 3, False),
        (1, 5, True),
        (2, 6, False),
        (2, 9, False),
        (2, 10, True),
    ]


def test_a_computation_of_ones_own(digits, cnn):
    "A function in place of pred, loss and backward trains as the same lines in a loop."

    def consistent(model, images, labels):
        first, second = model(images), model(images.roll(1, -1))
        return F.cross_entropy(first, labels) + F.mse_loss(first, second)

    model = cnn()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(2):
        model.train()
        for images, labels in loader(digits):
            optimizer.zero_grad()
            consistent(model, images, labels).backward()
            optimizer.step()

    def compute(ctx):
        "two views of an image agree"
        loss = consistent(ctx.model, ctx.input, ctx.target)
        loss.backward()
        return loss

    run = st.fit(
        cnn(),
        loader(digits),
        compute=compute,
        optimizer=torch.optim.Adam,
        opt_hparams={"lr": 1e-2},
        epochs=2,
    )

    assert bits(run.model, run.ctx.opt) == bits(model, optimizer)
    assert "compute" in run.lifecycle.names
    assert not {"pred", "loss", "backward"} & set(run.lifecycle.names)


def test_a_scheduler_in_a_callback(digits, cnn):
    "A learning rate schedule of torch's own, stepped by a callback, gives what it gives in a loop."
    model = cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 16)
    for _ in range(2):
        model.train()
        for images, labels in loader(digits):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            schedule.step()

    class Cosine(st.Callback):
        def on_enter_fit(self, ctx):
            self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(ctx.opt, 16)

        def on_exit_step(self, ctx):
            self.schedule.step()

    run = st.fit(
        cnn(),
        loader(digits),
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.5},
        epochs=2,
        callbacks=Cosine(),
    )

    assert bits(run.model) == bits(model)


# -------------------- models, optimizers, losses as they come


def test_a_model_class_is_made_with_its_hparams(points):
    "A class is called with hparams, and the run remembers them."
    run = st.fit(
        torch.nn.Linear,
        points,
        hparams={"in_features": 4, "out_features": 3},
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.1},
        epochs=1,
    )
    assert isinstance(run.model, torch.nn.Linear)
    assert run.ctx.hparams == {"in_features": 4, "out_features": 3}
    assert run.ctx.opt_hparams == {"lr": 0.1}


def test_the_forms_of_an_optimizer_train_alike(points, net):
    "An instance, a class with opt_hparams, a function and a mapping of one name make the same weights."
    start = {name: value.clone() for name, value in net.state_dict().items()}
    adam = torch.optim.Adam
    forms = (
        lambda: {"optimizer": adam(net.parameters(), lr=0.01)},
        lambda: {"optimizer": adam, "opt_hparams": {"lr": 0.01}},
        lambda: {"optimizer": lambda parameters: adam(parameters, lr=0.01)},
        lambda: {"optimizer": {"opt": adam(net.parameters(), lr=0.01)}},
    )
    ends = []
    for form in forms:
        net.load_state_dict(start)
        torch.manual_seed(0)
        ends.append(bits(st.fit(net, points, loss=F.cross_entropy, epochs=2, **form()).model))
    assert all(end == ends[0] for end in ends)


def test_frozen_parameters_stay(points, net):
    "An optimizer that is made here leaves out what requires no gradient."
    net[0].requires_grad_(False)
    before = net[0].weight.clone()
    run = st.fit(
        net,
        points,
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.1, "weight_decay": 0.1},
        epochs=1,
    )
    assert torch.equal(net[0].weight, before)
    assert [len(group["params"]) for group in run.ctx.opt.param_groups] == [2]


def test_the_models_own_loss_is_used(points):
    "Without loss=, the model's method `loss` is asked, with prediction and target."

    class Own(torch.nn.Linear):
        def loss(self, pred, target):
            return F.cross_entropy(pred, target) * 2

    run = st.fit(Own(4, 3), points, optimizer=torch.optim.SGD, opt_hparams={"lr": 0.0}, epochs=1)
    with torch.no_grad():
        expected = 2 * F.cross_entropy(run.model(points[0]), points[1]).item()
    assert run.history["train_loss"] == [pytest.approx(expected, rel=1e-6)]
    assert st.evaluate(run.model, points)["loss"] == pytest.approx(expected, rel=1e-6)


def test_a_loss_module_with_parameters_is_called(points, net):
    "A loss that is a module works like a function."
    run = st.fit(
        net,
        points,
        loss=torch.nn.CrossEntropyLoss(weight=torch.ones(3)),
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.1},
        epochs=1,
    )
    assert run.outcome == st.Completed(1)


def test_the_same_seed_gives_the_same_run(points, net):
    "With seed=, the validation share and the order of the data do not depend on torch's global generator."
    start = {name: value.clone() for name, value in net.state_dict().items()}
    net[2].p = 0.0  # dropout draws from the global generator
    ends = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        net.load_state_dict(start)
        run = st.fit(
            net,
            points,
            valid=0.3,
            seed=7,
            loss=F.cross_entropy,
            optimizer=torch.optim.SGD,
            opt_hparams={"lr": 0.1},
            epochs=2,
        )
        ends.append((bits(net), run.history["valid_loss"]))
    assert ends[0] == ends[1]


# ---------------------------------------------------------------- going on


def options(**more):
    return {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.Adam,
        "opt_hparams": {"lr": 0.01},
        **more,
    }


def test_going_on_is_like_having_asked_for_more(points, net):
    "Two epochs and three more are five, bit by bit, in one history."
    start = {name: value.clone() for name, value in net.state_dict().items()}
    torch.manual_seed(0)
    run = st.fit(net, points, epochs=2, **options())
    assert run.fit(epochs=3) is run
    assert run.outcome == st.Completed(5)
    assert run.history["epoch"] == [1, 2, 3, 4, 5]
    parts = bits(net, run.ctx.opt)

    net.load_state_dict(start)
    torch.manual_seed(0)
    whole = st.fit(net, points, epochs=5, **options())
    assert bits(net, whole.ctx.opt) == parts
    assert whole.history["train_loss"] == run.history["train_loss"]


def test_going_on_after_early_stopping_looks_at_the_new_rows_only(points, net):
    "Patience begins anew with a new fit: it stops after as many rows again, not at once."
    run = st.fit(
        net,
        points,
        epochs=50,
        **options(opt_hparams={"lr": 0.0}),
        stop=st.EarlyStopping("train_loss", patience=2, min_delta=10.0),
    )
    assert run.outcome == st.Stopped(3, "train_loss has not improved for 2 rows")
    run.fit(epochs=50)
    assert run.outcome == st.Stopped(6, "train_loss has not improved for 2 rows")
    assert len(run.history) == 6


def test_going_on_after_a_request(points, net):
    "A request to stop holds for the fit that it was made in."

    class Once(st.Callback):
        def on_exit_step(self, ctx):
            if ctx.step == 2:
                ctx.request_stop("two are enough")

    run = st.fit(
        net, points, epochs=3, dataloader_options={"batch_size": 8}, callbacks=Once(), **options()
    )
    assert run.outcome == st.Stopped(1, "two are enough")
    assert run.history[-1]["epoch_complete"] is False
    run.fit(epochs=2)
    assert run.outcome == st.Completed(3)
    assert [row["step"] for row in run.history] == [2, 5, 8]


def test_going_on_after_a_failure_forgets_the_broken_epoch(points, net):
    "What a failed epoch had summed up is not counted for the next one, and its gradients do not linger."
    broken = [True]

    def loss(pred, target):
        if broken and len(target) == 6:
            broken.clear()
            raise OSError("the last batch of the first epoch")
        return F.cross_entropy(pred, target)

    with pytest.raises(OSError, match="the last batch") as caught:
        st.fit(
            net,
            [tuple(part[i : i + 8] for part in points) for i in (0, 8, 16)],
            epochs=1,
            accumulate=3,
            **options(loss=loss),
        )
    run = caught.value.run
    assert run.outcome.state == "loss"
    assert len(run.history) == 0
    assert run.ctx.step == 0
    run.model.eval()
    with torch.no_grad():
        expected = F.cross_entropy(run.model(points[0]), points[1]).item()
    run.model[2].p = 0.0
    run.fit(epochs=1)
    assert run.outcome == st.Completed(2)
    assert run.ctx.step == 1
    # The one step came last
    assert run.history["train_loss"] == [pytest.approx(expected, rel=1e-6)]
    assert run.history[0]["samples"] == 44


def test_no_epochs_is_an_empty_run(points, net):
    "epochs=0 trains nothing, and is no error."
    before = bits(net)
    run = st.fit(net, points, epochs=0, **options())
    assert run.outcome == st.Completed(0)
    assert len(run.history) == 0
    assert bits(net) == before


def test_epochs_without_end_are_ended_by_a_guard(points, net):
    "epochs=None goes on until something stops it."
    run = st.fit(net, points, epochs=None, max_steps=5, **options())
    assert run.outcome == st.Stopped(5, "5 steps made")
    assert run.ctx.step == 5


def test_a_limit_of_steps_counts_anew_when_a_fit_goes_on(points, net):
    "max_steps is a fit's: run.fit goes on by as many again, and its epochs end it before that if they are fewer."
    run = st.fit(net, points, max_steps=2, epochs=9, **options())
    assert (run.outcome, run.ctx.step) == (st.Stopped(2, "2 steps made"), 2)
    assert run.fit(5).outcome == st.Stopped(4, "2 steps made")
    assert run.ctx.step == 4
    assert run.fit(1).outcome == st.Completed(5)
    assert run.ctx.step == 5


def test_several_optimizers_and_a_lifecycle_for_one(points):
    "The second would never step, and nobody would notice; the error says how to make the lifecycle."
    model = torch.nn.Sequential(
        collections.OrderedDict(first=torch.nn.Linear(4, 4), second=torch.nn.Linear(4, 3))
    )
    both = {
        "optimizer": {"first": torch.optim.SGD, "second": torch.optim.SGD},
        "lifecycle": st.supervised(validate=None),
    }
    with pytest.raises(
        st.ConfigError,
        match=r"only the first would ever step; make it with supervised\(optimizers=2\)",
    ):
        st.fit(model, points, **options(**both))
    mine = both["lifecycle"].replace("step", action=step_both)
    before = model.second.weight.detach().clone()
    st.fit(model, points, **options(**{**both, "lifecycle": mine}))
    assert not torch.equal(model.second.weight, before)


def step_both(ctx):
    "step both"
    for name in ("first", "second"):
        ctx.optimizers[name].step()
    ctx.step += 1
    ctx.pending = 0


def test_an_optimizer_that_is_not_there(points, net):
    "An action that asks for another name hears which ones there are."

    def misnamed(ctx):
        "step the generator"
        ctx.optimizers["generator"].step()

    with pytest.raises(KeyError, match="this run has no optimizer 'generator'") as caught:
        st.fit(
            net,
            points,
            **options(lifecycle=st.supervised(validate=None).replace("step", action=misnamed)),
        )
    assert str(caught.value).endswith("known: opt")


def test_at_least_so_many_epochs(points, net):
    "epochs=(4, 9) lets early stopping act after the fourth epoch only."
    never_better = st.EarlyStopping("train_loss", patience=1, baseline=-1.0)
    assert st.fit(net, points, epochs=(4, 9), stop=never_better, **options()).outcome.epoch == 4
    assert st.fit(net, points, epochs=9, stop=never_better, **options()).outcome.epoch == 1


def test_a_run_says_what_it_is(points, net):
    "The repr names lifecycle, outcome and last losses in a line; str shows the history."
    run = st.fit(net, points, valid=0.2, epochs=2, **options())
    assert repr(run).startswith("<Run 'supervised': Completed(epoch=2), 2 rows, train_loss=")
    assert "valid_loss=" in repr(run)
    assert str(run).splitlines()[0].startswith("Completed(epoch=2) after 2 steps and ")
    assert str(run).endswith(str(run.history))
    assert run.best() == run.history.best("valid_loss")


def test_a_trace_is_there_if_one_was_asked_for(points, net):
    "trace=True records the transitions; without it, run.trace says how to get one."
    run = st.fit(net, points, epochs=1, trace=True, **options())
    assert (
        " ".join(run.trace.states)
        == "fit next_epoch epoch train next_batch draw batch pred loss backward step next_batch"
        " draw record next_epoch end"
    )
    with pytest.raises(st.ConfigError, match=r"fit\(\.\.\., trace=True\)"):
        _ = st.fit(net, points, epochs=0, **options()).trace


def test_a_run_inside_its_own_callback_is_refused(points, net):
    "run.fit from a callback of that run is an error, and the run goes on unharmed if the callback takes it."
    refusals = []

    class Inside(st.Callback):
        def on_exit_step(self, ctx):
            try:
                run.fit(epochs=1)
            except st.MachineError as error:
                refusals.append(str(error))

    run = st.fit(
        net, points, epochs=0, callbacks=Inside(), dataloader_options={"batch_size": 8}, **options()
    )
    run.fit(epochs=2)
    assert run.outcome == st.Completed(2)
    assert run.ctx.step == len(refusals) == 6
    assert "this run is under way, in state 'step'" in refusals[0]


def test_steps_train_like_fit(points, net):
    "A run that is walked one transition at a time ends with the same bits."
    start = {name: value.clone() for name, value in net.state_dict().items()}
    torch.manual_seed(0)
    run = st.fit(net, points, epochs=2, valid=0.3, **options())
    at_full_speed = bits(net, run.ctx.opt)

    net.load_state_dict(start)
    torch.manual_seed(0)
    watched = st.fit(net, points, epochs=0, valid=0.3, **options())
    watched.ctx.max_epochs = 2
    for _ in watched.machine.steps(watched.ctx):
        pass
    assert watched.outcome == st.Completed(2)
    assert bits(net, watched.ctx.opt) == at_full_speed
