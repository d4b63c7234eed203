"""Retrying: a batch that could not be drawn is drawn again, and nothing of the data is lost."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.standard.retrying import retrying
from statetrain.testing import FakeClock


class Flaky(torch.utils.data.Dataset):
    """Eight samples, some of which fail so many times before they are there."""

    def __init__(self, fails):
        self.fails = dict(fails)

    def __len__(self):
        return 8

    def __getitem__(self, i):
        if self.fails.get(i, 0):
            self.fails[i] -= 1
            raise OSError(f"sample {i} is not there")
        return torch.full((2,), float(i)), torch.full((1,), float(i))


def fit(data, lifecycle, **more):
    torch.manual_seed(0)
    return st.fit(
        nn.Linear(2, 1),
        data,
        loss=F.mse_loss,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.01},
        epochs=2,
        lifecycle=lifecycle,
        **more,
    )


LIFE = st.supervised(validate=None, seeded=True)


def weights(run):
    return [parameter.detach().clone() for parameter in run.model.parameters()]


@pytest.mark.parametrize("fails", [{0: 1}, {3: 2}, {7: 3}, {1: 1, 2: 2, 5: 3}], ids=str)
def test_a_run_with_tries_is_the_run_without_errors(fails):
    "The same batches in the same order: the weights are equal bit for bit."
    loader = {"batch_size": 2}
    whole = fit(Flaky({}), LIFE, seed=1, dataloader_options=loader)
    run = fit(Flaky(fails), retrying(LIFE, 6), seed=1, dataloader_options=loader)
    assert (run.ctx.step, run.ctx.samples) == (whole.ctx.step, whole.ctx.samples) == (8, 16)
    for mine, theirs in zip(weights(run), weights(whole), strict=True):
        assert torch.equal(mine, theirs)


def test_after_the_last_try_the_error_ends_the_run():
    "Each batch has its own tries; the error is the dataset's."
    loader = {"batch_size": 2}
    fit(Flaky({1: 2, 6: 2}), retrying(LIFE, 2), seed=1, dataloader_options=loader)
    with pytest.raises(OSError, match="sample 3 is not there"):
        fit(Flaky({3: 3}), retrying(LIFE, 2), seed=1, dataloader_options=loader)


class Stream:
    """Three batches from a generator, which raises once before the second and cannot go on then."""

    def __init__(self):
        self.failed = False

    def __iter__(self):
        for i in range(3):
            if i == 1 and not self.failed:
                self.failed = True
                raise OSError("no answer")
            yield torch.full((4, 2), float(i)), torch.zeros(4, 1)


def test_a_generator_is_iterated_again_up_to_the_batch():
    "Three batches each epoch, and the second is not lost."
    run = fit(Stream(), retrying(st.supervised(validate=None)))
    assert (run.ctx.step, run.ctx.samples) == (6, 24)


def test_a_generator_that_is_asked_again_after_an_error_does_not_pass_for_exhausted():
    "An arrow of one's own that only draws again would lose the rest of the epoch: it is an error that says what to do."
    life = st.supervised(validate=None)
    life = life.add(st.Transition("draw", "draw", event=OSError))
    with pytest.raises(st.DataError, match=r"says that it has ended.*retrying"):
        fit(Stream(), life)


def test_data_that_goes_on_after_an_error_is_asked_again():
    "An iterator that can continue does, and ends where it ends."

    class Going:
        def __iter__(self):
            self.i, self.failed = 0, False
            return self

        def __next__(self):
            if self.i == 1 and not self.failed:
                self.failed = True
                raise OSError("no answer")
            if self.i == 3:
                raise StopIteration
            self.i += 1
            return torch.zeros(4, 2), torch.zeros(4, 1)

    life = st.supervised(validate=None)
    run = fit(lambda: Going(), life.add(st.Transition("draw", "draw", event=OSError)))
    assert run.ctx.step == 6


@pytest.mark.parametrize("errors", [OSError("x"), "OSError", (OSError, 3)])
def test_what_is_not_a_class_of_exceptions(errors):
    "It is refused with what was got."
    with pytest.raises(st.ConfigError, match="errors are classes of exceptions, got"):
        retrying(LIFE, errors=errors)


def test_every_phase_gets_the_arrows():
    "By the role of the states that draw; an error that another one covers needs no arrow."
    life = retrying(LIFE.prefixed("pre_").then(LIFE), 2, errors=(OSError, TimeoutError, KeyError))
    assert [str(arrow) for arrow in life.events("pre_draw")][-2:] == [
        "pre_draw -> pre_draw OSError [fewer than 2 tries] / resume the data where it was",
        "pre_draw -> pre_draw KeyError [fewer than 2 tries] / resume the data where it was",
    ]


def test_the_wait_before_another_try_doubles_by_the_runs_clock():
    "Three failures of one sample: 2, 4 and 8 seconds pass before the next try, and the run is the one without errors."
    clock = FakeClock()

    @st.on("enter_draw_wait")
    def time_passes(ctx):
        waits.append(clock.now)
        clock.advance(1)

    waits, loader = [], {"batch_size": 2}
    whole = fit(Flaky({}), LIFE, seed=1, dataloader_options=loader)
    life = retrying(LIFE, 3, wait=2.0)
    run = fit(
        Flaky({3: 3}), life, seed=1, dataloader_options=loader, clock=clock, callbacks=[time_passes]
    )
    assert len(waits) == 2 + 4 + 8
    for mine, theirs in zip(weights(run), weights(whole), strict=True):
        assert torch.equal(mine, theirs)


def test_a_request_to_stop_is_heard_while_it_waits():
    "The run ends in order, long before the wait is over."

    @st.on("enter_draw_wait")
    def stop(ctx):
        ctx.request_stop("no patience")

    run = fit(Flaky({3: 9}), retrying(LIFE, 5, wait=1000.0), seed=1, callbacks=[stop])
    assert run.outcome == st.Stopped(1, "no patience")
    with pytest.raises(st.ConfigError, match="wait must be a number of seconds"):
        retrying(LIFE, wait=-1)
