"""Trials of Optuna that are pruned."""

import optuna
import pytest
import torch

import statetrain as st

optuna.logging.set_verbosity(optuna.logging.WARNING)


def objective(trial: optuna.Trial) -> float:
    """The loss of a line after ten epochs of gradient descent at a rate that the trial suggests."""
    rate = trial.suggest_float("lr", 1e-6, 0.5, log=True)
    pruning = st.Pruning(trial, "train_loss")
    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 32).unsqueeze(1)
    run = st.fit(
        torch.nn.Linear(1, 1),
        [(x, 3 * x - 1)],
        loss=torch.nn.functional.mse_loss,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": rate},
        epochs=10,
        stop=pruning.guard,
        callbacks=[pruning],
    )
    trial.set_user_attr("outcome", repr(run.outcome))
    return pruning.value(run)


def test_a_trial_that_lags_behind_ends_early():
    """After two good trials, one with a useless rate is pruned in its first epoch that can be judged, and the outcome says so."""
    study = optuna.create_study(
        pruner=optuna.pruners.MedianPruner(n_startup_trials=2), direction="minimize"
    )
    for rate in (0.4, 0.3, 1e-6):
        study.enqueue_trial({"lr": rate})
    study.optimize(objective, n_trials=3)
    good, second, useless = study.trials
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE", "PRUNED"]
    assert len(good.intermediate_values) == len(second.intermediate_values) == 10
    assert good.value == good.intermediate_values[10]
    assert len(useless.intermediate_values) < 10
    words = useless.user_attrs["outcome"]
    assert words.startswith("Stopped('trial 2 was pruned by its train_loss'")


def test_the_table_is_the_same_for_all_trials():
    """Trials differ in their number, not in their lifecycle, so a run of one can be compared with that of another."""
    study = optuna.create_study()
    first, second = (st.Pruning(study.ask(), "valid_loss").guard for _ in range(2))
    assert st.diff(st.supervised(stop=first), st.supervised(stop=second)) == []


def test_what_is_not_a_trial_is_refused():
    """A study in the place of a trial is said at once."""
    with pytest.raises(st.ConfigError, match="the trial that Optuna gives"):
        st.Pruning(optuna.create_study(), "valid_loss")


def test_a_column_that_nothing_writes_is_refused():
    """As with any monitor, the run does not begin."""
    trial = optuna.create_study().ask()
    pruning = st.Pruning(trial, "valid_lss")
    with pytest.raises(st.ConfigError, match="did you mean 'valid_loss'"):
        st.fit(
            torch.nn.Linear(1, 1),
            [(torch.ones(2, 1), torch.ones(2, 1))],
            valid=[(torch.ones(2, 1), torch.ones(2, 1))],
            loss=torch.nn.functional.mse_loss,
            optimizer=torch.optim.SGD,
            stop=pruning.guard,
            callbacks=[pruning],
        )
