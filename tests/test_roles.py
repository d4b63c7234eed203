"""Roles: what a state is, whatever a phase or an evaluation calls it, and who listens to it."""

from __future__ import annotations

import ast
import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import statetrain as st
from statetrain.callback import hooks_of
from statetrain.lifecycle.difference import diff
from statetrain.lifecycle.registry import to_dict
from statetrain.standard.fusing import fuse
from statetrain.standard.reading import from_dict

BATCHES = [
    (torch.full((4, 2), float(i + 1)), torch.full((4, 1), float(10 * (i + 1)))) for i in range(3)
]
COMMON = {"loss": F.mse_loss, "optimizer": torch.optim.SGD, "opt_hparams": {"lr": 0.01}, "seed": 0}


def model():
    torch.manual_seed(3)
    return nn.Linear(2, 1)


def two_phases(first=2, **options):
    """Two phases of one table, the first with so many epochs."""
    pre = st.supervised(seeded=True, **options).prefixed("pre_")
    more = pre.between("pre_next_epoch", "pre_epoch")[0]
    return pre.alter(more, guard=~st.MinEpochs(first)).then(st.supervised(seeded=True, **options))


class Heard(st.Callback):
    """Remembers where its hooks were called."""

    def __init__(self, *hooks):
        self.calls = []
        for hook in hooks:
            setattr(self, hook, lambda ctx, hook=hook: self.calls.append((hook, ctx.state)))


# ---------------------------------------------------------------- the value


def test_a_role_is_the_name_unless_said():
    "A state is what it is called; a prefix changes the name alone, and evaluations are made of validation's roles."
    assert st.State("step").role == "step"
    assert st.State("step") == st.State("step", role="step") != st.State("step", role="other")
    life = st.supervised(evaluations={"test": st.Every(1, "epochs")})
    pre = life.prefixed("pre_")
    assert [state.role for state in pre.states] == [state.role for state in life.states]
    assert {state.name: state.role for state in life.states if "test" in state.name} == {
        "test": "valid",
        "next_test_batch": "next_valid_batch",
        "test_draw": "valid_draw",
        "test_batch": "valid_batch",
        "test_pred": "valid_pred",
        "test_loss": "valid_loss",
    }
    both = pre.then(life)
    assert [state.name for state in both.by_role("valid")] == [
        "pre_valid",
        "pre_test",
        "valid",
        "test",
    ]
    assert both.role("pre_test_draw") == "valid_draw"
    assert both.lies_in("pre_test_pred", "valid")
    assert not both.lies_in("pre_pred", "valid")


def test_an_evaluation_whose_name_is_part_of_other_words():
    "An evaluation called `e` does not turn `next_e_batch` into something else."
    life = st.supervised(evaluations={"e": st.Every(1, "epochs")}, valid_compute=lambda ctx: 0.0)
    assert life.role("next_e_batch") == "next_valid_batch"
    assert life.role("e_compute") == "valid_compute"


@pytest.mark.parametrize("role", ["two words", "", "failed", 3])
def test_a_role_is_named_like_a_state(role):
    "What could not be listened to is refused when the table is made."
    with pytest.raises(st.LifecycleError, match="role"):
        st.Lifecycle(
            "x",
            [st.State("a", role=role), st.State("end", final=True)],
            [st.Transition("a", "end")],
        )


def test_roles_are_kept_on_disk():
    "To JSON and back, in the fingerprint and in differences; a role that is the name is not written."
    life = two_phases(evaluations={"test": "end"})
    data = to_dict(life)
    assert from_dict(data) == life
    assert "role" not in next(state for state in data["states"] if state["name"] == "step")
    assert next(s for s in data["states"] if s["name"] == "pre_step")["role"] == "step"
    plain = st.supervised()
    other = plain.replace("draw", role="fetch")
    assert other.fingerprint != plain.fingerprint
    assert diff(plain, other) == ["state 'draw': role was draw, is fetch"]
    assert "role step" in str(two_phases())


# ---------------------------------------------------------------- who hears what


def test_a_hook_hears_all_states_of_its_role():
    "By a role, every phase and evaluation; by one state's name, that state alone."
    life = two_phases(evaluations={"test": st.Every(1, "epochs")})
    for hook, states in {
        "on_enter_step": ["pre_step", "step"],
        "on_enter_pre_step": ["pre_step"],
        "on_exit_valid": ["pre_valid", "pre_test", "valid", "test"],
        "on_exit_test": ["test"],
        "on_valid_begin": ["pre_valid", "pre_test", "valid", "test"],
    }.items():
        callback = Heard()
        setattr(callback, hook, lambda ctx: None)
        fired = [name.split("_", 2)[2] for name in hooks_of(callback, life)]
        assert sorted(fired) == sorted(states), hook


def test_the_name_of_a_state_goes_before_its_role():
    "A hook for one state is called there in place of the one for the role, so nothing is heard twice."
    heard = Heard("on_enter_epoch", "on_enter_pre_epoch")
    st.fit(
        model(), BATCHES, lifecycle=two_phases(validate=None), epochs=3, callbacks=heard, **COMMON
    )
    assert heard.calls == [("on_enter_pre_epoch", "pre_epoch")] * 2 + [("on_enter_epoch", "epoch")]


def test_the_context_says_where_it_is():
    "The state, its role, and which of the scopes with a role is open."
    seen = []

    @st.on("enter_valid_loss", "enter_loss")
    def look(ctx):
        seen.append(
            (ctx.state, ctx.role, ctx.scope("valid"), ctx.scope("fit"), ctx.scope("nothing"))
        )

    ctx = st.fit(
        model(),
        BATCHES[:1],
        lifecycle=two_phases(1, validate=None, evaluations={"test": st.Every(1, "epochs")}),
        evaluations=st.Evaluation("test", BATCHES[:1]),
        epochs=2,
        callbacks=look,
        debug=True,
        **COMMON,
    ).ctx
    assert seen == [
        ("pre_loss", "loss", None, "pre_fit", None),
        ("pre_test_loss", "valid_loss", "pre_test", "pre_fit", None),
        ("loss", "loss", None, "fit", None),
        ("test_loss", "valid_loss", "test", "fit", None),
    ]
    assert (ctx.state, ctx.role, ctx.scope("fit")) == ("end", "end", None)
    fresh = st.context_for(model(), BATCHES[0], loss=F.mse_loss).replace()
    fresh.place = (None, None)
    assert (fresh.role, fresh.scope("fit")) == (None, None)


def test_a_throttle_counts_the_events_of_all_phases():
    "One hook, one count, whatever the state that fires it is called; also where states are fused."
    life = two_phases(1, validate=None)
    fused = two_phases(1, validate=None, edits=[fuse], non_finite="ignore")
    for table in (life, fused):
        heard = Heard("on_exit_step")
        every = st.throttle(heard, "exit_step", every=2)
        st.fit(model(), BATCHES, lifecycle=table, epochs=2, callbacks=every, **COMMON)
        assert len(heard.calls) == 3


def test_a_hook_within_a_fused_state_is_refused_though_another_phase_has_it():
    "Hearing one phase of two would be silent; the error says what to do."
    life = st.supervised(edits=[fuse], non_finite="ignore").prefixed("pre_").then(st.supervised())
    for hook in ("on_exit_loss", "on_exit_pre_loss"):
        with pytest.raises(st.CallbackError, match="within the state 'pre_update'"):
            hooks_of(Heard(hook), life)


# ---------------------------------------------------------------- built-in callbacks


def clipped_by_hand(epochs, bound):
    """The weights of a plain loop that clips each step."""
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for _ in range(epochs):
        for x, y in BATCHES:
            loss = F.mse_loss(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), bound)
            optimizer.step()
    return net.state_dict()


def test_gradients_are_clipped_in_every_phase():
    "The weights are those of a loop by hand that clips all steps, bit for bit."
    run = st.fit(
        model(),
        BATCHES,
        lifecycle=two_phases(validate=None),
        epochs=4,
        callbacks=st.GradientClip(0.5),
        **COMMON,
    )
    for name, value in clipped_by_hand(4, 0.5).items():
        assert torch.equal(run.model.state_dict()[name], value)


@pytest.mark.parametrize("valid", [None, BATCHES[:1]], ids=["alone", "beside a validation"])
def test_evaluations_look_at_the_average(valid):
    "With `EMA(valid=True)`, an evaluation with a name gives the loss of the averaged weights."
    ema = st.EMA(0.9, valid=True)
    run = st.fit(
        model(),
        BATCHES,
        valid=valid,
        epochs=2,
        callbacks=ema,
        evaluations=st.Evaluation("test", BATCHES),
        **COMMON,
    )
    with torch.no_grad():
        losses = [F.mse_loss(ema.model(x), y).item() for x, y in BATCHES]
    assert run.history[-1]["test_loss"] == pytest.approx(sum(losses) / 3, rel=1e-6)
    with torch.no_grad():
        own = [F.mse_loss(run.model(x), y).item() for x, y in BATCHES]
    assert run.history[-1]["test_loss"] != pytest.approx(sum(own) / 3, rel=1e-3)


def test_the_best_of_an_evaluation_within_epochs_is_kept():
    "`KeepBest` judges each row of an evaluation, as it does those of the validation: the model ends with that loss."
    keep = st.KeepBest("test_loss")
    run = st.fit(
        model(),
        BATCHES,
        epochs=2,
        callbacks=keep,
        evaluations=st.Evaluation("test", BATCHES[:1], st.Every(1, "steps")),
        loss=F.mse_loss,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.35},  # it overshoots, so that a row within an epoch is best
    )
    losses = [row["test_loss"] for row in run.history if "test_loss" in row]
    best = min(range(len(losses)), key=losses.__getitem__)
    assert (keep.best, keep.best_step) == (losses[best], best + 1)
    assert keep.best_step % 3, "the best row was to be within an epoch"
    with torch.no_grad():
        x, y = BATCHES[0]
        assert F.mse_loss(run.model(x), y).item() == pytest.approx(losses[best], rel=1e-6)


def test_a_plateau_of_an_evaluation_within_epochs():
    "A schedule that watches an evaluation goes on with each of its rows: after two that are not better, a tenth."
    run = st.fit(
        model(),
        BATCHES,
        epochs=1,
        loss=F.mse_loss,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 1e-30},  # nothing ever gets better
        evaluations=st.Evaluation("test", BATCHES[:1], st.Every(1, "steps")),
        callbacks=st.LRScheduler(
            torch.optim.lr_scheduler.ReduceLROnPlateau,
            per="valid",
            monitor="test_loss",
            patience=0,
            eps=0.0,
        ),
    )
    assert run.ctx.opt.param_groups[0]["lr"] == pytest.approx(1e-32)


def test_a_schedule_waits_while_another_optimizer_trains():
    "The rate of the second phase's optimizer is halved for its own epochs only."
    from statetrain.standard import actions

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 1)

        def forward(self, x):
            return self.b(self.a(x))

    pre = st.supervised(validate=None).prefixed("pre_")
    pre = pre.alter(pre.between("pre_next_epoch", "pre_epoch")[0], guard=~st.MinEpochs(3))
    life = pre.then(st.supervised(validate=None), effect=actions.select_next)
    run = st.fit(
        Net(),
        BATCHES,
        lifecycle=life,
        loss=F.mse_loss,
        optimizer={"a": torch.optim.SGD, "b": torch.optim.SGD},
        opt_hparams={"lr": 0.001},
        epochs=5,
        callbacks=[
            st.LRScheduler(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5, optimizer=name)
            for name in ("a", "b")
        ],
    )
    rates = {name: opt.param_groups[0]["lr"] for name, opt in run.ctx.optimizers.items()}
    assert rates == {"a": pytest.approx(0.001 / 8), "b": pytest.approx(0.001 / 4)}


def test_a_run_that_is_cut_in_its_first_phase_goes_on_there(tmp_path):
    "`Checkpoint` saves in every phase: cut in the first and resumed, the weights are those of an uncut run."

    def fit(**more):
        return st.fit(
            model(), BATCHES, lifecycle=two_phases(validate=None), epochs=4, **COMMON, **more
        )

    @st.on("enter_step")
    def cut(ctx):
        if ctx.step == 4:
            raise RuntimeError("cut")

    whole = fit()
    every = st.Every(1, "steps")
    with pytest.raises(RuntimeError, match="cut"):
        fit(callbacks=[st.Checkpoint(tmp_path, every), cut])
    run = fit(callbacks=st.Checkpoint(tmp_path, every), resume="last")
    assert run.ctx.step == 12
    for name, value in whole.model.state_dict().items():
        assert torch.equal(run.model.state_dict()[name], value)


def test_lines_and_events_of_every_phase(tmp_path, capsys):
    "`Progress` prints the rows of both phases, and `Log` the phase that began."
    import json

    file = tmp_path / "log.jsonl"
    st.fit(
        model(),
        BATCHES,
        lifecycle=two_phases(1, validate=None),
        epochs=2,
        callbacks=[
            st.Progress("plain"),
            st.Log(file=file, format="json", transitions="step"),
            st.Logger(st.JSONLines(tmp_path / "rows.jsonl")),
        ],
        **COMMON,
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[:2]] == ["epoch 1/2", "epoch 2/2"]
    events = [json.loads(line) for line in file.read_text().splitlines()]
    kinds = [event["event"] for event in events if event["event"] != "transition"]
    assert kinds == ["fit started", "row recorded", "phase started", "row recorded", "fit ended"]
    taken = [event["dest"] for event in events if event["event"] == "transition"]
    assert taken == ["pre_step"] * 3 + ["step"] * 3
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 2


def test_time_and_values_are_found_in_every_phase():
    "`Profile` knows where each phase waits for data, and `Tracing` the values of states with a role."
    from statetrain.testing import FakeClock

    profile = st.Profile(FakeClock(tick=1.0))
    tracing = st.Tracing(values={"loss": "loss_value"})
    st.fit(
        model(),
        BATCHES,
        lifecycle=two_phases(1, validate=None),
        epochs=2,
        callbacks=[profile, tracing],
        **COMMON,
    )
    spent = {row["state"]: row["seconds"] for row in profile.table() if not row["hook"]}
    assert profile.waiting == spent["pre_draw"] + spent["draw"] > 0
    trace = tracing.trace
    moments = zip(trace.transitions, trace.moments, strict=True)
    assert [arrow.source for arrow, moment in moments if moment.values] == ["pre_loss"] * 3 + [
        "loss"
    ] * 3


def test_a_note_about_data_names_the_evaluation():
    "An error while a batch of an evaluation is drawn says which batch of that data was due."

    class Broken(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, i):
            if i == 2:
                raise ValueError("broken")
            return torch.zeros(2), torch.zeros(1)

    with pytest.raises(ValueError, match="broken") as caught:
        st.fit(
            model(),
            BATCHES,
            epochs=1,
            evaluations=st.Evaluation("test", torch.utils.data.DataLoader(Broken(), 1)),
            **COMMON,
        )
    assert "batch 3 was due, of the samples 2" in "\n".join(caught.value.__notes__)


def test_evaluations_in_two_phases_are_checked_against_the_data():
    "The sets of a table are told by what its scopes evaluate, not by their names."
    life = two_phases(1, evaluations={"test": st.Every(1, "epochs")})
    common = {**COMMON, "lifecycle": life, "epochs": 2}
    run = st.fit(
        model(), BATCHES, valid=BATCHES, evaluations=st.Evaluation("test", BATCHES), **common
    )
    assert all("test_loss" in row and "valid_loss" in row for row in run.history)
    with pytest.raises(st.ConfigError, match="evaluates 'test', but there is no data"):
        st.fit(model(), BATCHES, valid=BATCHES, **common)
    with pytest.raises(st.ConfigError, match="no validation data"):
        st.fit(model(), BATCHES, evaluations=st.Evaluation("test", BATCHES), **common)
    assert copy.copy(run.history).set_of("test_loss") == "test"


# ---------------------------------------------------------------- the code asks for roles

PACKAGE = Path(st.__file__).parent
STATES = {
    *st.supervised(finite_check="late").names,
    *st.supervised(check_gradients=True).names,
    *st.halving(st.supervised(non_finite=st.RollBack())).names,
    *st.supervised(compute=len, valid_compute=len).names,
    *st.prediction().names,
}
LOOKUPS = {"state", "children", "inside", "arrows", "events", "between", "path", "crossing"}
PLACES = {"state", "name", "source", "dest"}


def names_asked_for(tree: ast.AST) -> list[str]:
    """Expressions that ask for a state by a literal name, in place of its role."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in LOOKUPS:
            asked = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            about = {getattr(side, "attr", "") for side in sides}
            literals = [c for side in sides for c in ast.walk(side) if isinstance(c, ast.Constant)]
            asked = [c.value for c in literals] if about & {*PLACES, "names"} else []
        else:
            continue
        if STATES.intersection(value for value in asked if isinstance(value, str)):
            found.append(ast.unparse(node))
    return found


def test_no_code_asks_for_a_state_by_its_name():
    "Outside of the tables, which are made in `standard/`, code asks for the role of a state."
    found = {
        str(path.relative_to(PACKAGE)): names_asked_for(ast.parse(path.read_text()))
        for path in PACKAGE.rglob("*.py")
        if path.parent != PACKAGE / "standard"
    }
    assert {path: asked for path, asked in found.items() if asked} == {}


@pytest.mark.parametrize(
    "code",
    [
        "ctx.state == 'step'",
        "life.state('valid')",
        "'compute' in life.names",
        "a.dest in ('record',)",
    ],
)
def test_a_name_that_is_asked_for_is_found(code):
    "Each of the ways in which code has done so before."
    assert names_asked_for(ast.parse(code)) == [code]
