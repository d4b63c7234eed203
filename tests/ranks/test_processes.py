"""Several processes, started by torchrun: one job runs all scenarios, and its ranks are compared here."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from launching import HERE, torchrun

Found = list[dict[str, Any]]  # by rank, what each scenario found


def found_by(folder: Path, ranks: int) -> Found:
    """What each rank of a job wrote down."""
    return [json.loads((folder / f"{ranks}-{rank}.json").read_text()) for rank in range(ranks)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the job of two ranks writes."""
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def ranks(folder) -> Found:
    """What the two ranks of one job found, for all scenarios."""
    done = torchrun(HERE / "scenarios.py", str(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    return found_by(folder, 2)


@pytest.fixture(scope="module")
def three(ranks, folder) -> Found:
    """What three ranks find, where two have been."""
    names = ("few_samples", "continued", "windows", "windows_of_two")
    names += ("sharded_continued", "sharded_loaded")
    done = torchrun(HERE / "scenarios.py", str(folder), *names, ranks=3)
    assert done.returncode == 0, done.stderr[-3000:]
    return found_by(folder, 3)


@pytest.fixture(scope="module")
def alone():
    """The scenarios as one process runs them."""
    assert "RANK" not in os.environ
    importlib.import_module("sharded")
    return importlib.import_module("scenarios")


# Scenarios in which two ranks also train as one process does
EQUAL = [
    "compiled",
    "compiled_if_free",
    "unequal",
    "unequal_computation",
    "own_computation",
    "own_loss",
    "several_optimizers",
    "several_optimizers_clipped",
    "several_optimizers_skip",
    "merged_metric_goes_on",
    "torchmetrics_object",
    "plain",
    "samples",
    "few_samples",
    "accumulated",
    "gradients_checked",
    "nan_skip",
]
SAME = [
    *EQUAL,
    "norm",
    "nan_stop",
    "nan_in_a_window",
    "asks_signal",
    "asks_stop",
    "asks_skip",
    "asks_epoch",
    "asks_fit",
    "early_stopping",
    "time_limit",
    "own_data",
    "own_computation_asks",
    "phases",
    "unused",
    "cut",
    "continued",
    "uncut",
]


@pytest.mark.parametrize("name", SAME)
def test_all_ranks_take_one_way(ranks, name):
    """Trace, outcome, history and weights are the same on both ranks, whatever one of them met with."""
    first, other = ranks[0][name], ranks[1][name]
    for what in ("trace", "outcome", "rows", "bits", "steps"):
        assert first[what] == other[what], what


@pytest.mark.parametrize("name", [*EQUAL, "nan_in_a_window", "asks_skip"])
def test_two_ranks_train_as_one_process_does(ranks, alone, name, tmp_path):
    """The same steps, samples and weights, within the rounding of float32; uneven parts, windows and skips included."""
    if name.startswith("merged"):
        alone.SCENARIOS["merged_metric"](tmp_path)
    mine, theirs = alone.SCENARIOS[name](tmp_path), ranks[0][name]
    assert theirs.get("scores") == pytest.approx(mine.get("scores"))
    assert theirs["steps"] == mine["steps"]
    assert theirs["outcome"] == mine["outcome"]
    assert theirs["weights"] == pytest.approx(mine["weights"], abs=1e-5)
    for row, own in zip(theirs["rows"], mine["rows"], strict=True):
        assert row == pytest.approx(own, rel=1e-5)


def test_the_parameters_of_a_loss_are_trained_as_one_process_does(ranks, alone, tmp_path):
    """They are not the model's, so DDP knows nothing of them."""
    mine, theirs, other = (
        alone.SCENARIOS["trained_loss"](tmp_path),
        *(one["trained_loss"] for one in ranks),
    )
    assert theirs["scale"] == other["scale"]
    assert theirs["scale"] == pytest.approx(mine["scale"], abs=1e-6)
    assert theirs["weights"] == pytest.approx(mine["weights"], abs=1e-6)
    assert "such as those of a loss, cannot be trained with st.FSDP" in theirs["refused"]
    assert theirs["refused"] == other["refused"]


@pytest.mark.parametrize("name", ["half_precision", "sharded_half_precision"])
def test_a_gradient_that_overflows_on_one_rank_is_skipped_by_all(ranks, alone, name, tmp_path):
    """Steps, the scale of the loss and weights are those of one process, which meets with the same overflow."""
    mine = alone.SCENARIOS[name](tmp_path)
    first, other = ranks[0][name], ranks[1][name]
    assert first["bits"] == other["bits"]
    assert first["scale"] == other["scale"] == mine["scale"]
    assert (first["steps"], first["outcome"]) == (mine["steps"], mine["outcome"])


def test_a_replicas_model_is_compiled(ranks):
    """The backend has got the model's graph on both ranks, and the state dict has the model's names."""
    for found in (rank["compiled"] for rank in ranks):
        assert found["graphs"] > 0
        assert found["keys"] == ["0.bias", "0.weight", "2.bias", "2.weight"]


def test_batch_norm_is_not_synchronized_on_the_cpu(ranks):
    """Torch has it for GPUs alone, which is said before anything else."""
    for found in ranks:
        assert "torch synchronizes batch norm on GPUs only" in found["synchronized_norm"]["refused"]


def test_the_same_samples_with_the_same_augmentation_at_every_step(ranks, alone, tmp_path):
    """The parts of both ranks are the samples of one process, bit for bit, none twice and none left out."""
    mine = alone.SCENARIOS["samples"](tmp_path)["seen"]
    for step, own in mine.items():
        parts = [tuple(one) for rank in ranks for one in rank["samples"]["seen"][str(step)]]
        assert sorted(parts) == sorted(own), step


def test_the_reason_names_the_rank(ranks):
    """A NaN, a request and an event of rank 1 end the run on both ranks, and say whose it was."""
    assert ranks[0]["nan_stop"]["outcome"] == "Stopped('the loss is nan (rank 1)', epoch=1)"
    assert ranks[0]["asks_stop"]["outcome"] == "Stopped('the disk is full (rank 1)', epoch=1)"
    assert ranks[0]["asks_fit"]["outcome"] == "Stopped('so (rank 1)', epoch=1)"
    assert ranks[0]["asks_signal"]["outcome"] == "Interrupted('SIGTERM', epoch=1)"
    assert ranks[0]["nan_skip"]["refused"] == ["the loss is nan (rank 1)"]
    assert "the loss is nan (rank 1)" in ranks[0]["nan_raise"]["failed"]
    assert ranks[0]["nan_raise"] | {"took": 0} == ranks[1]["nan_raise"] | {"took": 0}


def test_an_epoch_that_one_rank_ends_is_ended_by_all_and_the_next_one_is_whole(ranks):
    """SkipEpoch on one rank cuts that epoch alone."""
    rows = ranks[0]["asks_epoch"]["rows"]
    assert [row["epoch_complete"] for row in rows] == [True, True]
    assert rows[0]["batch"] < 7
    assert rows[1]["batch"] - rows[0]["batch"] == 7


def test_events_that_the_data_of_one_rank_raises_act_on_all(ranks):
    """The batch that was to come is left out by both ranks; the epoch or the run ends behind it."""
    mine, other = ({k: v for k, v in one["data_asks"].items() if k != "took"} for one in ranks)
    for found, theirs in zip(mine.values(), other.values(), strict=True):
        assert found | {"first": 0} == theirs | {"first": 0}
    assert mine["skip"]["steps"] == 2 * 9 - 1
    assert [row["epoch_complete"] for row in mine["epoch"]["rows"]] == [True, True]
    assert (mine["epoch"]["rows"][0]["step"], mine["epoch"]["steps"]) == (1, 1 + 9)
    assert mine["fit"]["outcome"] == "Stopped('so (rank 1)', epoch=1)"
    assert mine["fit"]["steps"] == 1


def test_the_clock_is_rank_0s(ranks):
    """A time limit acts by rank 0's clock, though rank 1's is a hundred times as fast."""
    assert ranks[1]["time_limit"]["steps"] > 3


def test_data_of_its_own_ends_for_all_with_the_first_that_has_none_left(ranks):
    """Rank 1 has a batch more, which is not trained on."""
    assert [row["batch"] for row in ranks[1]["own_data"]["rows"]] == [6, 12]


def test_what_is_wrong_is_said_by_all_ranks_alike(ranks):
    """The same data twice, other arguments, what is not supported: one message, on all ranks."""
    assert "same first batch" in ranks[0]["same_data"]["failed"]
    assert "rank 1 was given another epochs" in ranks[0]["other_arguments"]["failed"]
    for what, words in (
        ("lbfgs", "LBFGS"),
        ("late", "finite_check='late'"),
        ("compile", "compile='step' compiles the whole step"),
        ("metric", "'mine' is a Mine"),
        ("not_synced", "without sync_on_compute=False"),
    ):
        assert words in ranks[0]["refused"][what]
        assert ranks[0]["refused"][what] == ranks[1]["refused"][what]


def test_evaluation_and_prediction_are_divided_and_the_same_everywhere(ranks, alone):
    """Means are over all samples, each once; predictions are in the data's order, on every rank."""
    import torch
    from torch.nn import functional as F

    first, other = ranks[0]["evaluated"], ranks[1]["evaluated"]
    assert first["preds"] == other["preds"]
    preds = torch.tensor(first["direct"])
    assert torch.allclose(torch.tensor(first["preds"]), preds, atol=1e-6)
    assert first["batches"] == [17, 17, 16]
    assert first["scores"] == other["scores"]
    _, y = alone.points(50)
    assert first["scores"]["loss"] == pytest.approx(F.cross_entropy(preds, y).item(), rel=1e-5)
    right = (preds.argmax(1) == y).double().mean().item()
    assert first["scores"]["accuracy"] == pytest.approx(right, rel=1e-6)
    assert first["module"]["loss"] == pytest.approx(first["scores"]["loss"], rel=1e-5)


def test_metric_objects_count_what_every_rank_sees_once(ranks, alone, tmp_path):
    """A confusion matrix holds each sample once, whether ranks divide the data or all go through it."""
    mine = alone.SCENARIOS["counted_once"](tmp_path)
    assert sum(map(sum, mine["every_rank"])) == 50
    for found in (rank["counted_once"] for rank in ranks):
        assert {name: found[name] for name in mine} == mine


def test_metric_objects_refuse_validation_data_that_is_the_same_on_all_ranks(
    ranks, alone, tmp_path
):
    """It would count twice, which means do not mind; data of each rank's own adds up."""
    for found in (rank["same_valid_data"] for rank in ranks):
        words = "DataError: ranks 0 and 1 have the same first batch of the valid data"
        assert found["counts"].startswith(words)
        assert found["beside"].startswith(words.replace("valid", "far"))
        assert sum(map(sum, found["own"])) == 17 + 16
    mine = alone.SCENARIOS["same_valid_data"](tmp_path)["means"]
    assert ranks[0]["same_valid_data"]["means"]["rows"][-1] == pytest.approx(
        mine["rows"][-1], rel=1e-5
    )


def test_output_is_rank_0s(ranks):
    """Rank 0 writes files; `run.first` is true there alone; weights keep their names."""
    assert ranks[0]["output"]["lines"] == 3
    assert [rank["plain"]["first"] for rank in ranks] == [True, False]
    assert ranks[0]["plain"]["keys"][0] == "layers.0.bias"


def test_batch_norms_buffers_are_rank_0s(ranks):
    """Running statistics are the same on both ranks."""
    assert ranks[0]["norm"]["buffers"] == ranks[1]["norm"]["buffers"]


def test_a_profile_shows_which_rank_the_others_wait_for(ranks, alone, tmp_path):
    """Rank 1 is 20 ms late for each of 9 backward passes, in which rank 0 waits; alone there are no meetings."""
    found = ranks[0]["waited"]
    first, last = found["waited"]["reduce the gradients"]
    assert first > 9 * 0.02 * 0.5
    assert first > last
    assert "seconds in meetings" in found["shown"]
    assert ranks[1]["waited"]["waited"] == {}
    assert alone.SCENARIOS["waited"](tmp_path)["waited"] == {}


def test_traces_of_all_ranks_say_how_long_each_waited_and_the_report_draws_it(ranks, folder):
    """Each rank's file has its own times, and the waits of both; the report has a bar for each."""
    mine, other = (one["waited"] for one in ranks)
    assert [mine["file"], other["file"]] == ["of-2.jsonl", "of-2.rank1.jsonl"]
    assert mine["traced"] == other["traced"]
    both = [one["reduce the gradients"] for one in mine["traced"]]
    assert both == pytest.approx(mine["waited"]["reduce the gradients"], abs=1e-6)
    assert other["seconds"]["pred"] > 9 * 0.02 > mine["seconds"]["pred"]
    page = (folder / "report-2.html").read_text()
    drawn = page.partition("<h2>Ranks</h2>")[2].partition("</section>")[0]
    assert "<h3>reduce the gradients</h3>" in drawn
    assert f"<td>{both[0]:.3g} s</td>" in drawn
    assert f"<td>{both[1]:.3g} s</td>" in drawn


def test_a_batch_costs_no_message_of_its_own(ranks):
    """Three times as many batches in an epoch send exactly as many messages: the gradients carry the news."""
    few, many = ranks[0]["collectives"]["counts"]
    assert few == many


# ---------------------------------------------------------------- sharded weights

SHARDED = [
    "sharded_plain",
    "sharded_own_computation",
    "sharded_few_samples",
    "sharded_accumulated",
    "sharded_clipped_values",
    "sharded_averaged",
    "sharded_best",
    "sharded_nan_skip",
    "sharded_nan_in_a_window",
    "sharded_rolled_back",
    "sharded_gradients_checked",
    "sharded_given_optimizer",
]


MESHES = ["mesh_1x2", "mesh_2x1"]


@pytest.mark.parametrize("name", [*SHARDED, *MESHES])
def test_sharded_weights_are_trained_as_one_process_does(ranks, alone, name, tmp_path):
    """The same steps and rows, and weights within 1e-6: with windows, clipping, averages, skips and going back."""
    mine, theirs, other = (one[name] for one in ({name: alone.SCENARIOS[name](tmp_path)}, *ranks))
    assert theirs["steps"] == mine["steps"]
    assert theirs["outcome"] == mine["outcome"]
    assert theirs["weights"] == pytest.approx(mine["weights"], abs=1e-6)
    for row, own in zip(theirs["rows"], mine["rows"], strict=True):
        assert row == pytest.approx(own, rel=1e-5)
    for what in ("trace", "outcome", "rows", "bits", "steps"):
        assert theirs[what] == other[what], what


def test_sharded_weights_are_those_of_replicas(ranks):
    """One and the same run with FSDP and with DDP."""
    for name in ("few_samples", "accumulated", "nan_in_a_window"):
        shards, replicas = ranks[0][f"sharded_{name}"], ranks[0][name]
        assert shards["weights"] == pytest.approx(replicas["weights"], abs=1e-6), name


def test_ranks_with_parts_write_whole_files_together(ranks, folder, alone):
    """`save` and `save_weights` give what one process reads; `load_weights` gives each rank its part."""
    import torch

    import statetrain as st

    net = alone.Net()
    st.load_weights(net, folder / "weights.safetensors")
    weights = torch.cat([p.detach().flatten() for p in net.parameters()]).tolist()
    found = ranks[0]["sharded_saved"]
    assert weights == found["weights"] == found["loaded"] == ranks[1]["sharded_saved"]["loaded"]
    restored = st.load(folder / "run.safetensors").restore(alone.Net())
    assert torch.cat([p.flatten() for p in restored.parameters()]).tolist() == weights
    score = st.evaluate(net, alone.points(50), loss=torch.nn.CrossEntropyLoss())["loss"]
    for scores in (rank["sharded_saved"]["scores"] for rank in ranks):
        assert [one["loss"] for one in scores] == pytest.approx([score] * 2, rel=1e-6)


def test_a_cut_sharded_run_goes_on_bit_for_bit(ranks):
    """Cut in a window of accumulated gradients, with momentum, an average and the best weights."""
    assert ranks[0]["sharded_cut"]["outcome"] == "Interrupted('SIGTERM', epoch=2)"
    assert ranks[0]["sharded_continued"]["bits"] == ranks[0]["sharded_uncut"]["bits"]
    assert ranks[0]["sharded_continued"]["rows"] == ranks[0]["sharded_uncut"]["rows"]


def test_any_number_of_ranks_or_replicas_continue_what_shards_began(ranks, three, alone, folder):
    """Three ranks, one process and replicas end with the same weights; and shards continue what replicas began."""
    whole = ranks[0]["sharded_uncut"]
    found = [
        three[0]["sharded_continued"],
        alone.SCENARIOS["sharded_continued"](folder),
        ranks[0]["sharded_by_replicas"]["replicas"],
    ]
    for one in found:
        assert one["weights"] == pytest.approx(whole["weights"], abs=1e-6)
        assert one["rows"][-1] == pytest.approx(whole["rows"][-1], rel=1e-5)
    other = ranks[0]["sharded_by_replicas"]["shards"]
    assert other["weights"] == pytest.approx(ranks[0]["uncut"]["weights"], abs=1e-6)


def test_the_samples_are_the_same_when_another_number_continues(ranks, three):
    """With a share for validation and random augmentation, three ranks see what two would have seen."""
    for step in map(str, range(6, 13)):
        parts = [tuple(one) for rank in three for one in rank["sharded_continued"]["seen"][step]]
        whole = [tuple(one) for rank in ranks for one in rank["sharded_uncut"]["seen"][step]]
        assert sorted(parts) == sorted(whole), step


def test_one_process_loads_weights_and_average_of_shards(ranks, three, alone, folder):
    """`load_checkpoint` puts the parts together, however many read them."""
    mine = alone.SCENARIOS["sharded_loaded"](folder)
    for found in (ranks[0], ranks[1], three[2]):
        assert found["sharded_loaded"] | {"took": 0} == mine | {"took": 0}


def test_torchs_own_checkpoints_hold_the_same_bits(ranks):
    """What torch.distributed.checkpoint gives back is what ours does: weights, and the optimizer's states."""
    found = ranks[0]["sharded_reference"]
    assert found["ours"] == found["theirs"]
    assert [len(row) for row in found["ours"]] == [4] * 4


def test_a_full_disk_fails_all_ranks_alike(ranks):
    """One message, whichever rank it was; what was saved before is whole, and nothing is half written."""
    replicas, shards = (ranks[0]["full_disk"][what] for what in ("replicas", "shards"))
    assert replicas["failed"] == "OSError: [Errno 28] No space left on device"
    assert shards["failed"].endswith("OSError: [Errno 28] No space left on device (rank 1)")
    other = ranks[1]["full_disk"]
    assert other["replicas"]["failed"] == (
        "CheckpointError: OSError: [Errno 28] No space left on device (rank 0)"
    )
    assert other["shards"]["failed"] == "OSError: [Errno 28] No space left on device"
    assert len(replicas["there"]) == 1
    assert len(shards["there"]) >= 1


@pytest.mark.parametrize("name", MESHES)
def test_a_mesh_of_two_dimensions_saves_and_resumes(ranks, name):
    """Cut in a window, it goes on bit for bit; the checkpoint has one file for each rank."""
    cut, whole = ranks[0][f"{name}_continued"], ranks[0][name]
    assert cut["cut"] == "Interrupted('SIGTERM', epoch=2)"
    assert cut["bits"] == whole["bits"]
    assert cut["rows"] == whole["rows"]
    assert cut["files"] == [
        "tensors-00001-of-00002.safetensors",
        "tensors-00002-of-00002.safetensors",
    ]


def test_what_cannot_be_sharded_is_refused_by_name(ranks):
    """One message on all ranks."""
    for what, words in (
        ("class", "shard takes classes of modules, got 3"),
        ("absent", "names GRU"),
        ("used", "an optimizer that has made steps"),
        ("alone", "SaveWeights listens on rank 0 alone and reads 'loss_fns'"),
        ("compile", "compile="),
        ("thread", "background=True"),
    ):
        assert words in ranks[0]["sharded_refused"][what], what
        assert ranks[0]["sharded_refused"][what] == ranks[1]["sharded_refused"][what]


# ---------------------------------------------------------------- checkpoints


def test_a_cut_run_goes_on_bit_for_bit(ranks):
    """SIGTERM on one rank, saved by rank 0, continued by as many ranks: the bits of the run that was not cut."""
    assert ranks[0]["cut"]["outcome"] == "Interrupted('SIGTERM', epoch=2)"
    assert ranks[0]["continued"]["bits"] == ranks[0]["uncut"]["bits"]
    assert ranks[0]["continued"]["rows"][-1] == ranks[0]["uncut"]["rows"][-1]
    for row, whole in zip(ranks[0]["continued"]["rows"], ranks[0]["uncut"]["rows"], strict=True):
        assert row == pytest.approx(whole, rel=1e-12)


def test_three_ranks_continue_what_two_began(ranks, three):
    """Another number of ranks, of which none divides the batch, sees the same samples and ends with the same weights."""
    found = three
    for step in map(str, range(14, 28)):
        parts = [tuple(one) for rank in found for one in rank["continued"]["seen"][step]]
        whole = [tuple(one) for rank in ranks for one in rank["uncut"]["seen"][step]]
        assert sorted(parts) == sorted(whole), step
    for name, other in (("continued", "uncut"), ("few_samples", "few_samples")):
        assert found[0][name]["weights"] == pytest.approx(ranks[0][other]["weights"], abs=1e-5)


def test_a_window_that_was_begun_goes_on_bit_for_bit(ranks, three):
    """Gradients that are not reduced yet are each rank's own, also of three ranks, whose sums depend on their order."""
    for found in (ranks, three):
        one = found[0]["windows"]
        assert one["pending"] == 1
        assert one["again"]["bits"] == one["whole"]["bits"]
        assert one["again"]["rows"][-1] == pytest.approx(one["whole"]["rows"][-1], rel=1e-12)


def test_another_number_of_ranks_goes_on_with_a_window(ranks, three, alone, folder):
    """Three ranks, and one process, take the mean of what two have gathered."""
    whole = ranks[0]["windows"]["whole"]
    for found in (three[0]["windows_of_two"], alone.SCENARIOS["windows_of_two"](folder)):
        assert found["weights"] == pytest.approx(whole["weights"], abs=1e-6)


def test_the_example_runs_on_two_ranks(ranks):
    """The example of the documentation gives the same score on both."""
    assert ranks[0]["example"]["accuracy"] == ranks[1]["example"]["accuracy"] > 0.3


def test_one_process_continues_what_two_ranks_began(ranks, alone, folder):
    """Exactly the samples that the uncut run would have seen, and its weights within rounding."""
    mine = alone.SCENARIOS["continued"](folder)
    for step, own in mine["seen"].items():
        parts = [tuple(one) for rank in ranks for one in rank["uncut"]["seen"][str(step)]]
        assert sorted(parts) == sorted(own), step
    assert mine["weights"] == pytest.approx(ranks[0]["uncut"]["weights"], abs=1e-5)
    assert mine["rows"][1]["train_loss"] == pytest.approx(
        ranks[0]["uncut"]["rows"][1]["train_loss"], rel=1e-6
    )
