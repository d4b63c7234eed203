"""The device suite runs, as far as the CPU goes: in tiny sizes, with all that needs no CUDA."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import device
import pytest
import torch
from device import Armed, Block, Comparison
from device_loops import Way, by_hand, ours
from tasks import device_tasks

import statetrain as st

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("threads")


def block(name: str = "mlp", batches: int = 4) -> Block:
    task = device_tasks(small=True)[name]
    return Block(task, Way(CPU), task.data(batches))


@pytest.mark.parametrize(("name", "millions"), [("resnet", 11.2), ("decoder", 100.8)])
def test_the_models_have_their_sizes(name: str, millions: float) -> None:
    "Eleven million parameters, and a hundred; they are only counted here."
    with torch.device("meta"):
        model = device_tasks(small=False)[name].make()
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(
        millions, abs=0.05
    )


def test_a_decoder_sees_what_is_before_and_no_more() -> None:
    "A score depends on the tokens up to its place alone."
    model = device_tasks(small=True)["decoder"].model().eval()
    tokens = torch.arange(8).reshape(1, 8)
    changed = torch.where(tokens > 4, 0, tokens)
    same = (model(tokens) == model(changed)).all(1)[0]
    assert same.tolist() == [True] * 5 + [False] * 3


def test_all_that_needs_no_cuda_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    "The one command: each comparison ends with the same bits, the page has them all, and says by name what is left out."
    monkeypatch.setattr(
        sys, "argv", ["device.py", "--device", "cpu", "--quick", "--out", str(tmp_path)]
    )
    with pytest.raises(SystemExit) as ended:
        device.main()
    assert not ended.value.code
    page = (tmp_path / "DEVICE.md").read_text(encoding="utf-8")
    parts = device.parts()
    measured, left_out = page.split("## Left out, since it needs CUDA")
    for one in device.comparisons():
        assert (f"- {one.section}: {one.name}\n" in left_out) is one.cuda
        assert (f"| {one.name} |" in measured) is not one.cuda
    assert all((f"- {name}\n" in left_out) is cuda for name, (_, cuda, _) in parts.items())
    compared = sum(not one.cuda for one in device.comparisons())
    assert measured.count("| same bits |") == compared > 0
    assert "| resnet, prefetch=False |" in measured
    assert "How each was used" not in page
    assert f"written: {tmp_path / 'DEVICE.md'}" in capsys.readouterr().out


def test_without_cuda_the_command_says_what_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    "It does not pretend; and a part that is not there is named."
    if not torch.cuda.is_available():
        monkeypatch.setattr(sys, "argv", ["device.py"])
        with pytest.raises(SystemExit):
            device.main()
        assert "--device cpu --quick runs what needs none" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["device.py", "--device", "cpu", "--only", "no such part"])
    with pytest.raises(SystemExit):
        device.main()
    assert "no part 'no such part'; there are: Lean against" in capsys.readouterr().err


def test_weights_that_differ_are_told() -> None:
    "A way that trains otherwise has a difference."

    def slower(setting: Any, way: Way) -> None:
        by_hand(type(setting)(setting.task, setting.model, setting.feed, 1, setting.folder), way)

    # The clocks need three epochs, so the weights alone are compared.
    assert device.difference(block().weights(slower), block().weights(by_hand)) > 0
    assert device.difference(block().weights(ours), block().weights(by_hand)) == 0
    assert isinstance(device.comparisons()[0], Comparison)


# -------------------- waiting for the device, with a stand-in for torch's look for it


class Look:
    """In place of torch's function: notes when it is switched, and to what."""

    def __init__(self) -> None:
        self.mode, self.switched = "default", []

    def __call__(self, mode: str) -> None:
        self.mode = mode
        self.switched.append(mode)


class Places(st.Callback):
    """Notes in which states it is on."""

    def __init__(self, look: Look) -> None:
        self.look = look
        self.on: list[tuple[int, int, str]] = []

    def on_transition(self, ctx: Any) -> None:
        if self.look.mode != "default":
            self.on.append((ctx.epoch, ctx.iter, ctx.transition.dest))


def test_the_look_for_waiting_is_on_from_the_second_batch_to_the_last() -> None:
    "In the second epoch, and off before the row is written; every state of a batch is seen."
    look = Look()
    places, trained = Places(look), block()
    trained.train(
        lambda setting, way: ours(setting, way, callbacks=[Armed(4, "error", look), places])
    )
    assert {(epoch, iter_) for epoch, iter_, _ in places.on} >= {(2, 2), (2, 3), (2, 4)}
    assert {epoch for epoch, _, _ in places.on} == {2}
    assert (
        {"draw", "batch", "pred", "loss", "backward", "step"}
        <= {state for _, _, state in places.on}
        <= {"next_batch", "draw", "batch", "pred", "loss", "backward", "step"}
    )
    assert look.switched == ["error", "default", "default"]


def waiting(look: Look) -> Any:
    """A way that waits once in each batch, in an optimizer's hook of the user's, and so within the step of statetrain."""

    def hook(*_: Any) -> None:
        if look.mode == "error":
            raise RuntimeError("called a synchronizing CUDA operation")
        if look.mode == "warn":
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)

    def trains(setting: Any, way: Way, callbacks: Any = ()) -> Any:
        class Hooked(st.Callback):
            def on_enter_fit(self, ctx: Any) -> None:
                ctx.opt.register_step_post_hook(hook)

        return ours(setting, way, callbacks=[Hooked(), *callbacks])

    return trains


def test_where_a_run_waits_is_told() -> None:
    "With the innermost place of the package, and how often; a run that waits nowhere has no place, and other errors are passed on."
    look = Look()
    found = device.waits(block(), waiting(look), look)
    assert sum(found.values()) == 3
    (place,) = found
    assert place.startswith("statetrain/standard/actions/")
    assert "update_weights: ctx.opt.step()" in place
    row = device._proof("mlp", "lean", found, 3)
    assert (row.value, row.goal) == (3.0, 0.0)
    assert f"3 at {place}" in row.what
    assert look.mode == "default"
    assert device.waits(block(), ours, look) == {}

    def broken(setting: Any, way: Way, callbacks: Any = ()) -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        device.waits(block(), broken, look)
