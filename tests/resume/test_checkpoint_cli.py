"""The commands that look into checkpoints, verify them, and compare two."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import statetrain as st
from statetrain.checkpoints import checkpoint
from statetrain.checkpoints.failure import command_line
from statetrain.checkpoints.origin import git_commit
from statetrain.commands import checkpoint as commands
from statetrain.commands.cli import main
from statetrain.commands.comparing import differences


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "A directory with the checkpoints of a short run."
    folder = tmp_path_factory.mktemp("runs") / "run"
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 3))
    data = (torch.randn(22, 4), torch.arange(22) % 3)
    st.fit(
        net,
        data,
        valid=data,
        loss=F.cross_entropy,
        optimizer=torch.optim.Adam,
        epochs=3,
        seed=7,
        verbose=False,
        callbacks=st.Checkpoint(folder, keep=3, monitor="valid_loss"),
        dataloader_options={"batch_size": 8},
    )
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    "A copy of it, to be spoilt."
    return Path(shutil.copytree(made, tmp_path / "run"))


def said(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    code = main(["checkpoint", *map(str, words)])
    streams = capsys.readouterr()
    return code, streams.out + streams.err


def test_a_directory_is_listed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each, in the order in which they were made, and what else lies there."""
    (run / "step-00000099-next_epoch").mkdir()
    (run / "step-00000009-next_epoch" / checkpoint.MANIFEST).write_text("{}")
    (run / "failure.json").write_text(
        json.dumps(
            {
                "error": "builtins.OSError",
                "message": "gone",
                "when": "2030",
                "command": "python \x1b[2J t.py",
            }
        )
    )
    code, text = said(capsys, "show", run)
    lines = text.splitlines()
    assert code == 0
    assert [line.split()[0] for line in lines[:4]] == [
        "step-00000009-next_epoch",
        "step-00000099-next_epoch",
        "step-00000003-next_epoch",
        "step-00000006-next_epoch",
    ]
    assert "broken: MANIFEST.json" in lines[0]
    assert "unfinished" in lines[1]
    assert "epoch 2  step 6  valid_loss " in lines[3]
    assert "the last run failed at 2030: builtins.OSError: gone" in text
    assert "\x1b" not in text


def test_one_is_shown(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where it was taken, what of, and the names and shapes of all weights."""
    code, text = said(capsys, "show", run / "step-00000006-next_epoch")
    assert code == 0
    for words in (
        "next_epoch, epoch 2, batch 3, step 6",
        "seed  7",
        "opt: Adam",
        "settings  opt: lr=",
        f"command  {command_line()}",
        "commit  ",
        "Checkpoint",
        "2 rows",
        "1.running_var  float32 (6,)",
        "76 numbers in 9 tensors",
    ):
        assert words in text


def test_the_commit_is_read_from_gits_own_files(tmp_path: Path) -> None:
    """A branch, a packed one, a detached head, a worktree, and none."""
    git, commit = tmp_path / ".git", "0123456789" * 4
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    assert git_commit(inside) is None
    (git / "packed-refs").write_text(f"# pack-refs with: peeled\n{commit} refs/heads/main\n")
    assert git_commit(inside) == commit
    (git / "refs" / "heads" / "main").write_text(commit[::-1] + "\n")
    assert git_commit(inside) == commit[::-1]
    own = git / "worktrees" / "a"
    own.mkdir(parents=True)
    (own / "HEAD").write_text("ref: refs/heads/main\n")
    (own / "commondir").write_text("../..\n")
    (tmp_path / "a" / ".git").write_text(f"gitdir: {own}\n")
    assert git_commit(inside) == commit[::-1]
    (own / "HEAD").write_text(commit)
    assert git_commit(inside) == commit
    (own / "HEAD").write_text("nonsense")
    assert git_commit(inside) is None


def test_all_are_verified(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0 if all are whole; those set aside and unfinished ones are named, and are no error."""
    (run / "step-00000099-next_epoch").mkdir()
    (run / "step-00000001-next_batch.corrupt-because").mkdir()
    code, text = said(capsys, "verify", run)
    assert code == 0
    assert text.count("ok  ") == 3
    assert "set aside  step-00000001-next_batch.corrupt-because" in text
    assert "unfinished" in text


@pytest.mark.parametrize("file", [checkpoint.TENSORS, checkpoint.STATE, checkpoint.MANIFEST])
def test_damage_is_found(file: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One bit; exit 1, with the file's name, for the directory and for the checkpoint alone; nothing is renamed."""
    path = run / "step-00000006-next_epoch" / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    for where in (run, path.parent):
        code, text = said(capsys, "verify", where)
        assert code == 1
        assert [line for line in text.splitlines() if line.startswith("broken") and file in line]
    assert path.exists()


def test_two_are_compared(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Equal ones exit 0; of others each difference is a line with its path; of a directory the newest is meant."""
    first, last = run / "step-00000003-next_epoch", run / "step-00000009-next_epoch"
    assert said(capsys, "diff", last, run) == (0, "no difference\n")
    code, text = said(capsys, "diff", first, last)
    assert code == 1
    assert "fields.epoch: 1, 3" in text
    assert "history: 1 entries, 3" in text
    assert "model.weights.0.weight: 24 of 24 numbers differ, by at most " in text


def test_many_differences_are_cut(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond so many lines, the last one counts those that were not printed."""
    first, last = run / "step-00000003-next_epoch", run / "step-00000009-next_epoch"
    differ = len(list(differences(checkpoint.read(first), checkpoint.read(last))))
    monkeypatch.setattr(commands, "_LINES", 3)
    code, text = said(capsys, "diff", first, last)
    assert code == 1
    assert text.splitlines()[3:] == [f"and {differ - 3} more"]


def test_arrays_are_compared_number_by_number() -> None:
    """A number in the middle of a large array counts, which the text of the array leaves out."""
    numpy = pytest.importorskip("numpy")
    one = numpy.zeros(5000)
    two = one.copy()
    two[2500] = 0.5
    assert repr(one) == repr(two)
    assert list(differences({"a": one}, {"a": two})) == [
        "a: 1 of 5000 numbers differ, by at most 0.5"
    ]
    assert list(differences(one, one.copy())) == []


def test_differences_are_exact() -> None:
    """NaN is NaN, 1 is not 1.0, bits count, and what is there once is named."""
    nan = float("nan")
    assert list(differences({"a": nan, "b": [1, (2,)]}, {"a": nan, "b": [1, (2,)]})) == []
    assert list(differences({"a": 1}, {"a": 1.0})) == ["a: 1, 1.0"]
    assert list(differences({"a": [1], "b": 1}, {"a": [1, 2], "c": 1})) == [
        "a: 1 entries, 2",
        "b: only in the first",
        "c: only in the second",
    ]
    assert list(differences(torch.tensor([1, 2]), torch.tensor([1, 3]), "t")) == [
        "t: 1 of 2 numbers differ"
    ]
    assert list(differences(torch.zeros(2), torch.zeros(3), "t")) == [
        "t: float32 (2,), float32 (3,)"
    ]
    assert list(differences(torch.tensor([nan, 1.0]), torch.tensor([nan, 1.5]), "t")) == [
        "t: 1 of 2 numbers differ, by at most 0.5"
    ]


@pytest.mark.parametrize(
    "words", [("show", "nowhere"), ("verify", "nowhere"), ("diff", "nowhere", "nowhere")]
)
def test_what_is_not_there(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2: the command cannot be done."""
    code, text = said(capsys, *words)
    assert code == 2
    assert "nowhere is not a directory" in text


def test_an_empty_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There is nothing to show; nothing whole to verify or to compare."""
    assert said(capsys, "show", tmp_path) == (0, f"no checkpoint in {tmp_path}\n")
    assert said(capsys, "verify", tmp_path)[0] == 1
    code, text = said(capsys, "diff", tmp_path, tmp_path)
    assert code == 1
    assert "there is no checkpoint in" in text


def test_the_other_commands_load_no_torch() -> None:
    """The commands on checkpoints are made when one is asked for."""
    import subprocess
    import sys

    code = (
        "import sys; from statetrain.commands.cli import main; main(['show', 'evaluation']);"
        " sys.exit('torch' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode
        == 0
    )
