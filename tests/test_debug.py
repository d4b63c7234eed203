"""Debug mode: components are held to what they declare, at every access."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.context.context import Context
from statetrain.contracts.debugging import View
from statetrain.contracts.declaring import access
from statetrain.errors import ContractError
from statetrain.guards.base import guard
from statetrain.machine.machine import Machine


def run(points, *callbacks, model=None, **options):
    """A short training in debug mode."""
    torch.manual_seed(0)
    common = {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1},
        "epochs": 2,
        "debug": True,
    }
    return st.fit(
        model or nn.Linear(4, 3),
        points,
        callbacks=callbacks,
        dataloader_options={"batch_size": 8},
        **{**common, **options},
    )


def listening(hook, function, **declared):
    """A callback with one hook."""
    return type(
        "Looks", (st.Callback,), {hook: lambda self, ctx: (function(ctx), None)[1], **declared}
    )()


def refused(points, *callbacks, **options):
    """What debug mode says."""
    with pytest.raises(ContractError) as raised:
        run(points, *callbacks, **options)
    return str(raised.value)


# ---------------------------------------------------------------- callbacks


def keep(ctx):
    """Reads and writes many fields."""
    ctx.buffers["pred"] = ctx.pred


def test_a_read_that_is_not_declared_is_refused(points):
    """The message names callback, hook and field, and what to declare."""
    message = refused(points, listening("on_exit_loss", lambda ctx: ctx.pred, reads={"loss"}))
    assert (
        message
        == "Callback 'Looks' on on_exit_loss reads 'pred', which it does not declare; add it: reads"
        " = {..., 'pred'} in Looks, or reads = {'on_exit_loss': {..., 'pred'}} for this hook"
        " alone"
    )


def test_a_write_that_is_not_declared_is_refused(points):
    """A field that is set, and an item within one of which only another part is declared."""
    assert "writes 'step_opt', which it does not declare; add it: writes" in refused(
        points, listening("on_enter_fit", lambda ctx: setattr(ctx, "step_opt", None), writes=())
    )
    assert "writes 'buffers.pred', which" in refused(
        points, listening("on_exit_pred", keep, reads={"pred"}, writes={"buffers.mine"})
    )


def test_what_is_declared_is_let_through(points):
    """Whole fields, parts of them, what is computed from them, and what a component writes it may read."""
    seen = {}

    def look(ctx):
        seen.update(
            loss=ctx.loss,
            same=ctx["loss"],
            rate=ctx.opt.param_groups[0]["lr"],
            device=ctx.device,
            epoch=ctx["epoch"],
            state=ctx.state,
        )
        ctx.buffers["mine"] = ctx.buffers.get("mine", 0) + 1
        assert "mine" in ctx.buffers

    result = run(
        points,
        listening(
            "on_exit_loss", look, reads={"loss_grad", "opt", "epoch"}, writes={"buffers.mine"}
        ),
    )
    assert result.ctx.buffers["mine"] == 6
    assert seen["loss"] is not None
    assert (seen["rate"], seen["epoch"], seen["state"]) == (0.1, 2, "loss")


def test_a_part_that_is_not_declared_is_refused(points):
    """A declaration that goes into a field is enforced there, by item, by attribute, and by path."""
    for inner in (
        lambda ctx: ctx.buffers["other"],
        lambda ctx: ctx.buffers.get("other"),
        lambda ctx: ctx["buffers.other"],
    ):
        looks = listening("on_exit_loss", inner, reads={"buffers.mine"})
        assert "reads 'buffers.other', which it does not declare" in refused(points, looks)
    assert "reads 'model.bias'" in refused(
        points,
        listening(
            "on_exit_loss", lambda ctx: (ctx.model.weight, ctx.model.bias), reads={"model.weight"}
        ),
    )


def test_columns_and_records_are_written_by_name(points):
    """`log_metric` writes a column of the history, `log` a record."""

    def log(ctx):
        ctx.log_metric("score", 1.0)
        ctx.log("score", 2.0)

    assert "writes 'history.train_score'" in refused(
        points, listening("on_exit_train", log, writes={"history.valid_score"})
    )
    assert "writes 'records.score'" in refused(
        points, listening("on_exit_train", log, writes={"history.train_score"})
    )
    result = run(
        points, listening("on_exit_train", log, writes={"history.train_score", "records.score"})
    )
    assert result.history["train_score"] == [1.0, 1.0]


def test_methods_read_what_they_read(points):
    """`get_metrics` reads the history, `defer` and `request_stop` are for everyone."""
    assert "reads 'history' (get_metrics()), which it does not declare" in refused(
        points, listening("on_exit_epoch", lambda ctx: ctx.get_metrics(), reads=())
    )
    result = run(
        points,
        listening("on_exit_epoch", lambda ctx: ctx.request_stop("enough"), reads=(), writes=()),
    )
    assert result.outcome.reason == "enough"


def test_clean_ups_have_a_declaration_of_their_own(points):
    """What a hook defers is held to what is declared under "defer"."""

    def later(ctx):
        ctx.defer(lambda: ctx.outcome)

    run(points, listening("on_enter_fit", later, reads={"defer": {"outcome"}}))
    with pytest.raises(
        ContractError, match=r"Callback 'Looks', in a clean-up, reads 'outcome'.*'defer'"
    ):
        run(points, listening("on_enter_fit", later, reads={"on_enter_fit": {"outcome"}}))


def test_reads_and_writes_are_enforced_apart(points):
    """A callback that declares what it writes, and nothing of what it reads, is free to read."""
    run(points, listening("on_enter_step", lambda ctx: ctx.model.parameters(), writes={"grads"}))


def test_a_callback_that_declares_only_what_it_reads_writes_nothing(points):
    """Neither a field nor a counter; one that declares only what it writes may read anything."""

    def move(ctx):
        ctx.max_epochs = 3

    only_reads = listening("on_exit_step", move, reads={"step", "max_epochs"})
    assert "writes 'max_epochs', which it does not declare" in refused(points, only_reads)

    def log(ctx):
        ctx.log("rate", ctx.opt.param_groups[0]["lr"])

    assert (
        run(points, listening("on_exit_step", log, writes={"records"})).ctx.get_log("rate") == 0.1
    )


def test_a_dotted_key_is_one_part(points):
    """What debug mode asks for is a path that keys read as the same thing."""

    def look(ctx):
        assert ctx.buffers["a.b"] == ctx["buffers['a.b']"] == 1
        ctx.buffers["a"]

    def put(ctx):
        ctx.buffers["a.b"] = 1

    message = refused(
        points,
        listening("on_enter_pred", put, writes={"buffers['a.b']"}),
        listening("on_exit_loss", look, reads={"buffers['a.b']"}),
    )
    assert "reads 'buffers.a', which it does not declare" in message
    message = refused(points, listening("on_enter_pred", put, reads=(), writes={"buffers.a.b"}))
    assert "writes \"buffers['a.b']\", which it does not declare" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_epochs", "3"),
        ("min_epochs", True),
        ("max_epochs", float("nan")),
        ("max_epochs", None),
        ("buffers", []),
        ("verbose", 1),
        ("opt_name", 0),
    ],
)
def test_a_field_is_not_assigned_what_it_cannot_be(points, name, value):
    """Debug mode and `replace` look at the kind of value: numbers, texts, containers."""

    def assign(ctx):
        setattr(ctx, name, value)

    with pytest.raises(st.ConfigError, match=f"ctx.{name} must be an? "):
        run(points, listening("on_exit_step", assign, reads=(), writes={name}))
    with pytest.raises(st.ConfigError, match=f"ctx.{name} must be an? "):
        Context().replace(**{name: value})
    assert Context().replace(max_epochs=3, buffers={}).max_epochs == 3


# ---------------------------------------------------------------- fields where they are not valid


@pytest.mark.parametrize(
    "hook",
    ["on_enter_pred", "on_enter_next_batch", "on_enter_record", "on_exit_train", "on_enter_fit"],
)
def test_a_prediction_cannot_be_read_before_or_after_its_batch(points, hook):
    """Nobody may, not even a callback that declares nothing: the value would be none, or an earlier batch's."""
    assert f"Callback 'Looks' on {hook} reads 'pred', and it cannot be there" in refused(
        points, listening(hook, lambda ctx: ctx.pred)
    )


def test_the_loss_of_an_earlier_batch_is_poisoned_though_its_number_is_kept(points):
    """`loss_value` stays in the context when its batch closes; reading it there is a mistake."""
    assert "reads 'loss_value', and it cannot be there" in refused(
        points, listening("on_enter_draw", lambda ctx: ctx.loss_value)
    )
    assert "reads 'loss', and it cannot be there" in refused(
        points, listening("on_enter_draw", lambda ctx: ctx.loss)
    )


def test_what_somebody_undeclared_writes_is_poisoned_no_more(points):
    """A field that a callback without declarations sets may be read after it; nobody can say from where on."""
    a = listening("on_enter_pred", lambda ctx: setattr(ctx, "grad_norm", 1.0))
    b = listening("on_enter_loss", lambda ctx: ctx.grad_norm)
    run(points, a, b)
    assert "reads 'grad_norm'" in refused(points, b)


# ---------------------------------------------------------------- actions and guards


def test_an_action_is_held_to_its_declaration(points):
    """The message names the state, the function, and the declaration to mend."""

    @access(reads={"input", "model"}, writes={"pred"})
    def forward(ctx):
        ctx.pred = ctx.model(ctx.input)
        ctx.buffers["target"] = ctx.target

    life = st.supervised(validate=None).replace("pred", action=forward)
    message = refused(points, lifecycle=life)
    assert message.startswith("the action of 'pred' (test_debug.")
    assert (
        "reads 'buffers', which it does not declare; add it to @access(...) of" in message
        or "reads 'target'" in message
    )


def test_a_guard_is_held_to_its_declaration_and_writes_nothing(points):
    """Also one that declares nothing may not write."""
    life = st.supervised(validate=None)
    nosy = guard(lambda ctx: ctx.pred is None, reads={"step"}).named("nosy")
    writing = guard(lambda ctx: setattr(ctx, "step_opt", None) is not None).named("writing")
    for bad, message in (
        (nosy, "reads 'pred', which it does not declare; add it to the guard's reads"),
        (writing, "writes 'step_opt'"),
    ):
        edited = life.add(st.Transition("pred", "next_batch", bad), first=True)
        assert f"the guard [{bad.label}] of pred -> next_batch {message}" in refused(
            points, lifecycle=edited
        )


def test_a_function_that_declares_nothing_is_refused_nothing(points):
    """A computation of the user's own works in debug mode as without."""

    def compute(ctx):
        ctx.pred = ctx.model(ctx.input)
        loss = F.cross_entropy(ctx.pred, ctx.target)
        loss.backward()
        return loss

    assert run(
        points, compute=compute, metrics={"mean": lambda pred, target: pred.mean()}
    ).outcome.ok


# ---------------------------------------------------------------- on and off


class Replay(nn.Module):
    """A model with two parts, for two optimizers."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, inputs):
        return self.b(self.a(inputs))


RUNS = {
    "plain": {},
    "validation": {"valid": 0.4},
    "validation inside": {"valid": 0.4, "validate": st.Every(2, "steps")},
    "accumulation": {"accumulate": 2},
    "skipping": {"non_finite": "skip"},
    "stopping at a loss that is not finite": {
        "non_finite": "stop",
        "loss": lambda pred, target: F.cross_entropy(pred, target) * float("nan"),
    },
    "norms": {"check_gradients": True},
    "two optimizers": {"optimizer": {"a": torch.optim.SGD, "b": torch.optim.SGD}, "valid": 0.4},
    "closure": {"optimizer": torch.optim.LBFGS},
    "bf16": {"precision": "bf16", "valid": 0.4},
    "fp16": {"precision": "fp16"},
    "seeded": {"seed": 1, "valid": 0.4},
    "stop guards": {
        "valid": 0.4,
        "stop": st.EarlyStopping("valid_loss", 1) | st.TimeLimit(minutes=5),
        "epochs": 3,
    },
    "steps": {"max_steps": 3},
    "metrics": {
        "metrics": {"accuracy": lambda pred, target: (pred.argmax(1) == target).float().mean()},
        "valid": 0.4,
    },
}


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
def test_what_ships_keeps_to_its_declarations(points, options, tmp_path):
    """Under all options, with callbacks on board, no action, guard or callback does what it does not declare; results are those without."""

    def made():
        several = isinstance(options.get("optimizer"), dict)
        schedule = [] if several else [st.LRScheduler(torch.optim.lr_scheduler.StepLR, step_size=1)]
        clip = [] if options.get("optimizer") is torch.optim.LBFGS else [st.GradientClip(1.0)]
        best = (
            [st.KeepBest(), st.SaveWeights(tmp_path / "w-{epoch}")]
            if "valid" in options
            else [st.KeepBest("train_loss")]
        )
        best = best if not several else []
        return [
            *clip,
            *schedule,
            *best,
            st.CSVLogger(tmp_path / "rows.csv"),
            st.Tracing(),
            st.Profile(),
            st.Log(file=tmp_path / "log"),
        ]

    torch.manual_seed(0)
    held = run(points, *made(), model=Replay(), **options)
    torch.manual_seed(0)
    free = run(points, *made(), model=Replay(), **{**options, "debug": False})
    assert held.outcome == free.outcome
    assert len(held.history) == len(free.history)
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            held.model.state_dict().values(), free.model.state_dict().values(), strict=True
        )
    )


def refused_at(*batches):
    """A loss that is not a number in some batches, counted from 1."""
    counted = iter(range(1, 1000))
    return lambda pred, target: (
        F.cross_entropy(pred, target) * (float("nan") if next(counted) in batches else 1.0)
    )


def recording(ctx):
    """Writes a record and a column."""
    ctx.log("epochs", ctx.epoch)
    ctx.log_metric("seen", float(ctx.samples), "train")


ABOARD = {
    "ema": lambda path: {
        "callbacks": [
            st.EMA(0.9, valid=True, restore=True),
            st.EMA(None, start=2, every=2, buffers=False),
        ],
        "valid": 1 / 3,
    },
    "watch": lambda path: {
        "callbacks": [
            st.Watch("exit_loss", loss="loss", largest=lambda ctx: ctx.pred.max(), reads=["pred"])
        ]
    },
    "captured": lambda path: {
        "callbacks": [
            st.Watch(
                "exit_step",
                norm="grad_norms.a.weight",
                change="updates.**",
                out="interms.a",
                weight="params.a.weight",
            )
        ]
    },
    "schedules": lambda path: {
        "callbacks": [
            st.Schedule("opt.lr", {0: 0.1, 2: 0.05}, column="lr"),
            st.Schedule("loss.size.weight", 0.5, per="epoch", column="weight"),
        ],
        "loss": st.Losses(
            label=F.cross_entropy,
            size=st.Loss(lambda hidden: hidden.square().mean(), hidden="interms.a"),
        ),
    },
    "conditions": lambda path: {
        "callbacks": [
            st.only_if(st.Every(2, "steps"), st.Watch("exit_step", weight="params.a.weight")),
            st.throttle(st.Watch("exit_loss", loss="loss"), "on_exit_loss", every=2),
            st.throttle(
                st.Watch("exit_pred", pred="pred"), "on_exit_pred", every=st.Every(1, "minutes")
            ),
        ]
    },
    "metrics by keys": lambda path: {
        "loss": st.Loss(
            F.cross_entropy, input="pred", target="target", weight=lambda ctx: 1.0 + ctx.step
        ),
        "train_metrics": {
            name: st.Metric(lambda w: w.norm(), w=f"{name}.a.weight")
            for name in ("grads", "updates")
        },
    },
    "loggers": lambda path: {
        "callbacks": [
            st.Logger(
                st.JSONLines(path / "log"),
                what=[st.LearningRate(), st.Records(), st.HyperParameters()],
                every=st.Every(2, "steps"),
            ),
            st.Logger(st.CSVLogger(path / "log.csv"), every=st.Every(1, "epochs")),
            st.on("exit_epoch", writes={"records.epochs", "history.train_seen"})(recording),
        ]
    },
    "tensorboard": lambda path: {
        "callbacks": st.Logger(
            st.TensorBoard(path / "events"),
            what=[st.Histograms(), st.Summaries({"a": ("interms.a", st.Histogram)})],
            every=st.Every(2, "steps"),
        )
    },
    "progress": lambda path: {
        "callbacks": [st.Progress(mode, file=io.StringIO()) for mode in ("plain", "rich")],
        "valid": 1 / 3,
    },
    "sanity": lambda path: {
        "callbacks": st.SanityCheck(),
        "valid": 1 / 3,
        "trace": path / "trace.jsonl",
    },
    "plateau": lambda path: {
        "callbacks": st.LRScheduler(
            torch.optim.lr_scheduler.ReduceLROnPlateau, monitor="train_loss"
        )
    },
    "evaluations": lambda path: {
        "valid": 1 / 3,
        "evaluations": [
            st.Evaluation(name, (torch.ones(5, 4), torch.ones(5).long()), when)
            for name, when in {
                "test": st.Every(1, "epochs"),
                "probe": st.Every(2, "steps"),
                "once": st.Once(2, "steps"),
                "last": "end",
            }.items()
        ],
        "callbacks": [
            st.Progress("plain", file=io.StringIO()),
            st.Log(file=io.StringIO(), transitions=["step"]),
            st.KeepBest("test_loss"),
            st.Profile(),
        ],
    },
    "rolling back": lambda path: {
        "non_finite": st.RollBack(every=st.Every(1, "steps")),
        "loss": refused_at(2),
        "callbacks": st.LRScheduler(torch.optim.lr_scheduler.StepLR, step_size=1),
    },
    "spikes": lambda path: {
        "spike": st.Spike(4, least=1),
        "non_finite": "skip",
        "optimizer": {"a": torch.optim.SGD, "b": torch.optim.SGD},
    },
    "masked steps": lambda path: {
        "finite_check": "late",
        "non_finite": "skip",
        "loss": refused_at(2),
        "opt_hparams": {"lr": 0.1, "fused": True},
        "accumulate": 2,
    },
    "masked, read on the host": lambda path: {
        "finite_check": "late",
        "non_finite": "stop",
        "loss": refused_at(2),
        "optimizer": torch.optim.Adagrad,
        "seed": 1,
    },
    "saved aside": lambda path: {
        "callbacks": st.Checkpoint(
            path / "run", st.Every(2, "steps"), background=True, monitor="train_loss"
        )
    },
    "criteria": lambda path: {
        "valid": 1 / 3,
        "stop": (
            st.GL("valid_loss", 1e9)
            | st.PQ(alpha=1e9)
            | st.UP(n=9)
            | st.Threshold("valid_loss", -1.0)
            | st.NumberLimit("train_loss", 9)
            | st.InvalidValue("train_loss")
            | st.Warmup(st.EarlyStopping("valid_loss"), 2)
            | st.Never()
            | st.MaxSteps(99)
            | st.Deadline.after(hours=1)
        ),
    },
}


@pytest.mark.parametrize("name", ABOARD)
def test_all_that_goes_along_keeps_to_its_declarations(name, points, tmp_path):
    """Callbacks, loggers, evaluations, policies and criteria do what they declare and nothing else; results are those without debug mode."""
    runs = []
    for debug in (True, False):
        options = ABOARD[name](tmp_path / str(debug))
        callbacks = options.pop("callbacks", ())
        torch.manual_seed(0)
        aboard = callbacks if isinstance(callbacks, list | tuple) else [callbacks]
        runs.append(
            run(points, *aboard, **{"model": Replay(), "debug": debug, "epochs": 3, **options})
        )
    held, free = runs
    assert type(held.outcome) is type(free.outcome)
    assert held.history.columns == free.history.columns
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            held.model.state_dict().values(), free.model.state_dict().values(), strict=True
        )
    )


def test_evaluating_and_predicting_can_be_held_to_declarations_too(points):
    """`evaluate` and `predict` take `debug=`, also through a run."""
    done = run(points)
    looks = {
        "valid_loss": lambda data, **more: done.evaluate(data, **more),
        "predict_pred": lambda data, **more: st.predict(done, data[0], **more),
    }
    for state, call in looks.items():
        nosy = [
            listening(f"on_exit_{state}", lambda ctx: ctx.pred, reads={"input"}) for _ in range(2)
        ]
        call(points, callbacks=nosy[0])
        with pytest.raises(ContractError, match="reads 'pred', which it does not declare"):
            call(points, callbacks=nosy[1], debug=True)
        call(points, debug=True)


def test_runs_that_are_saved_and_continued(points, tmp_path):
    """Checkpoints, resuming and mixing samples keep to their declarations too."""
    checkpoint = st.Checkpoint(tmp_path / "run")
    run(
        points,
        checkpoint,
        st.CollectGarbage(),
        st.Mixup(per="batch"),
        st.KeepBest("train_loss"),
        seed=1,
    )
    again = run(
        points,
        st.Checkpoint(tmp_path / "run"),
        st.Mixup(per="batch"),
        st.KeepBest("train_loss"),
        seed=1,
        epochs=3,
        resume="last",
    )
    assert len(again.history) == 3


def test_debug_mode_holds_under_both_engines(points):
    """The reference engine calls the same views."""
    for engine in ("table", "transitions"):
        start = run(points, start=False)
        machine = Machine(
            start.machine.lifecycle,
            [listening("on_exit_loss", lambda ctx: ctx.pred, reads={"loss"})],
            engine=engine,
            debug=True,
        )
        with pytest.raises(ContractError, match="reads 'pred', which it does not declare"):
            machine.run(start.ctx)


def test_off_nothing_of_it_is_there(points):
    """Without debug mode the machine calls actions, hooks and guards themselves."""
    seen = []
    looks = listening("on_exit_loss", lambda ctx: seen.append(type(ctx)), reads={"loss"})
    machine = Machine(st.supervised(), [looks])
    works = [
        work.function
        for arrow in machine.lifecycle.transitions
        for work in machine.plan.works(arrow, arrow.source)
    ]
    assert looks.on_exit_loss in works
    places = [getattr(function, "__code__", None) for function in works]
    assert not any("debugging" in place.co_filename for place in places if place is not None)
    run(points, looks, debug=False)
    run(points, looks)
    assert set(seen) == {st.Context, View}


def test_a_view_says_what_it_is(points):
    """For whoever prints a context in a debugger; and a slip is the error that it is without."""
    said = []

    def look(ctx):
        said.append(repr(ctx))
        ctx.los  # noqa: B018  # the slip

    with pytest.raises(AttributeError, match="los"):
        run(points, listening("on_exit_loss", look))
    assert said[0].startswith("<what Callback 'Looks' on on_exit_loss sees of <Context: loss")
