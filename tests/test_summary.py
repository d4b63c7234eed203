"""The summary of a model: modules, shapes, parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import statetrain as st


class Net(nn.Module):
    """A shared layer called twice, a frozen one, batch norm and dropout."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.twice = nn.Linear(8, 8)
        self.tied = nn.Linear(8, 8)
        self.tied.weight = self.twice.weight
        self.unused = nn.Linear(2, 2)
        self.body[0].weight.requires_grad_(False)

    def forward(self, x, scale=1.0):
        return {"y": self.tied(self.twice(self.twice(self.body(x)))) * scale, "x": x}


def test_rows_are_what_one_forward_says():
    "Counted by hand: 32 + 8 of the first layer (32 frozen), 16 of the norm, 64 + 8, and 8 beside the shared 64."
    summary = st.ModelSummary(Net(), torch.zeros(5, 4))
    rows = {row.name: row for row in summary.rows}
    assert [row.name for row in summary.rows] == [name for name, _ in Net().named_modules()]
    assert (rows["body.0"].parameters, rows["body.0"].trained) == (40, 8)
    assert rows["body"].parameters == 56
    assert (rows["twice"].calls, rows["twice"].shapes) == (2, ((5, 8),))
    assert rows["tied"].parameters == 72
    assert (rows["unused"].calls, rows["unused"].shapes) == (0, ())
    assert rows[""].shapes == ((5, 8), (5, 4))
    assert (summary.parameters, summary.trained, summary.frozen) == (142, 110, 32)
    # Of five samples, 4 * 8 products for the first layer and 8 * 8 for three others, each with a sum
    assert summary.flops == 2 * 5 * (4 * 8 + 3 * 8 * 8)
    # 142 parameters, and of the norm 16 numbers of float32 and one of int64
    assert summary.mebibytes == pytest.approx((4 * (142 + 16) + 8) / 2**20)


def test_the_model_is_as_it_was():
    "Modes, statistics, hooks and generators; also if the model fails."
    model = Net()
    model.body[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    st.ModelSummary(model, torch.ones(5, 4))
    with pytest.raises(RuntimeError):
        st.ModelSummary(model, torch.ones(5, 3))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [m.training for m in model.body] == [True, True, False]
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "given", [(torch.zeros(5, 4), 2.0), {"x": torch.zeros(5, 4), "scale": 2.0}]
)
def test_arguments_go_by_position_or_by_name(given):
    "A tuple and a mapping."
    assert st.ModelSummary(Net(), given).rows[0].shapes == ((5, 8), (5, 4))


def test_it_is_printed_as_a_table_to_a_depth():
    "Of depth 1, the inner modules are left out; a name of brackets is only a name."
    text = str(st.ModelSummary(Net(), torch.zeros(5, 4), depth=1))
    assert "BatchNorm1d" not in text
    assert "142 parameters, 110 of them trained, 32 frozen" in text
    line = next(line for line in text.splitlines() if line.lstrip().startswith("twice"))
    assert line.split() == ["twice", "Linear", "(5,", "8)", "x", "2", "72"]
    model = nn.Sequential()
    model.add_module("[red]", nn.Linear(1, 1))
    assert "[red]" in str(st.ModelSummary(model))
    assert "<td" in st.ModelSummary(model)._repr_html_()


def test_without_an_input_nothing_is_called():
    "No column of shapes; a lazy layer has no parameters, and with an input those that it gets."
    lazy = nn.Sequential(nn.LazyLinear(3))
    assert "output" not in str(st.ModelSummary(lazy))
    assert st.ModelSummary(lazy).parameters == 0
    assert st.ModelSummary(lazy).flops is None
    assert st.ModelSummary(lazy, torch.zeros(1, 2)).parameters == 9
    assert isinstance(lazy[0], nn.LazyLinear)


def test_what_is_no_module_is_refused():
    "A class, for one."
    with pytest.raises(st.ConfigError, match="takes a module, got type"):
        st.ModelSummary(Net)
