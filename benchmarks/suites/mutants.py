"""Rules broken on purpose: for each, a case of some suite has to notice."""

from __future__ import annotations

import importlib
import inspect
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from types import FunctionType
from typing import Any

from attrs import field, frozen

from suites.case import Case, listening, sampled
from suites.forking import forked
from suites.toy import Setting

TITLE = "mutants: rules broken on purpose"
GOAL = 15


@frozen
class Mutant:
    """A rule that does not hold any more.

    Attributes:
        rule: what is broken.
        place: `module:function` or `module:Class.method`.
        old: a part of its source.
        new: what stands there instead.
        cases: who should notice.
    """

    rule: str
    place: str
    old: str
    new: str
    cases: Callable[[], Sequence[Case]] = field(repr=False)


def source_of(mutant: Mutant) -> tuple[FunctionType, str]:
    """The function, and its source as it is."""
    module, _, path = mutant.place.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    function: FunctionType = inspect.unwrap(found)
    return function, textwrap.dedent(inspect.getsource(function))


def mutate(mutant: Mutant) -> None:
    """Puts the changed source in place, in this process."""
    function, source = source_of(mutant)
    assert mutant.old in source, f"{mutant.place} has no {mutant.old!r}"
    name, module = function.__name__, inspect.getmodule(function)
    made: dict[str, Any] = {}
    exec(
        "from __future__ import annotations\n" + source.replace(mutant.old, mutant.new),
        vars(module),
        made,
    )
    # Whoever has imported it has the changed one too
    function.__code__ = inspect.unwrap(made[name]).__code__


def _of(suite: str, word: str = "", most: int = 40) -> Callable[[], list[Case]]:
    def cases() -> list[Case]:
        module = importlib.import_module(f"suites.{suite}")
        found = [case for case in module.cases() if word in case.name]
        assert found, f"{suite} has no case with {word!r}"
        if hasattr(module, "straight") and not inspect.signature(module.straight).parameters:
            module.straight()  # how it is without the mutant
        return sampled(found, most)

    return cases


def _kills(setting: Setting) -> Callable[[], list[Case]]:
    def cases() -> list[Case]:
        from suites import kills

        last = len(kills.straight(setting).arrows)
        moments = [last * i // 8 for i in (3, 5, 6, 7)]
        return [
            Case(f"{setting}: transition {at}, after", partial(kills.killed, setting, at, "after"))
            for at in moments
        ]

    return cases


EACH = "each anchor"
WRITE, READ, BACK = (
    "statetrain.checkpoints.checkpoint",
    "statetrain.checkpoints.tensorfile",
    "statetrain.checkpoints.restoring",
)
FOLDER = "statetrain.checkpoints.directory"

_RENAMES = """\
    for file in files:
        os.rename(path / (file + _PART), path / file)
    _flush(path)
    os.rename(path / (MANIFEST + _PART), path / MANIFEST)
"""

MUTANTS = (
    Mutant(
        "files are flushed",
        f"{WRITE}:put",
        'with flushed(open_new(f"{path}{_PART}")) as file:',
        'for file in [open_new(f"{path}{_PART}")]:',
        _of("saves", "power lost, all"),
    ),
    Mutant(
        "directories are flushed",
        f"{WRITE}:_flush",
        "os.fsync(file)",
        "pass",
        _of("saves", "power lost", 120),
    ),
    Mutant(
        "the manifest comes last",
        f"{WRITE}:publish",
        _RENAMES,
        "".join(reversed(_RENAMES.partition("    _flush(path)\n"))),
        _of("saves", ", before"),
    ),
    Mutant(
        "what is deleted counts as unfinished first",
        f"{WRITE}:delete",
        "os.rename(path / MANIFEST, path / (MANIFEST + _PART))",
        "pass",
        _of("saves", "call", 60),
    ),
    Mutant(
        "unfinished ones are swept up",
        f"{FOLDER}:sweep",
        "if is_unfinished(path):",
        "if False:",
        _of("saves", ", before"),
    ),
    Mutant(
        "sums of files are compared",
        f"{WRITE}:verify",
        "sha.hexdigest() != digest.sha256",
        "False",
        _of("damage", "bit"),
    ),
    Mutant(
        "sums are compared while reading",
        f"{READ}:_read",
        "sha.hexdigest() != expected.sha256",
        "False",
        _of("fallbacks", "tensors.safetensors: bit", 20),
    ),
    Mutant(
        "the manifest has its own sum",
        f"{WRITE}:_parse_manifest",
        "hashlib.sha256(jsons.to_bytes(data)).hexdigest() != own",
        "False",
        _of("damage", "MANIFEST", 600),
    ),
    Mutant(
        "a checkpoint belongs to its name",
        f"{WRITE}:_read_manifest",
        'data["name"] != path.name',
        "False",
        _of("damage", "name:"),
    ),
    Mutant(
        "the one before is used",
        f"{FOLDER}:first_usable",
        "_report(saved.path, error, aside)",
        "raise",
        _of("fallbacks"),
    ),
    Mutant(
        "broken ones are kept",
        f"{FOLDER}:_set_aside",
        "os.rename(path, aside)",
        "__import__('shutil').rmtree(path)",
        _of("fallbacks"),
    ),
    Mutant(
        "two are always kept",
        "statetrain.callbacks.checkpointing.retention:Retention.find_superfluous",
        "max(_LATEST, ",
        "max(1, ",
        _of("saves", "power lost"),
    ),
    Mutant(
        "nobody is pushed out of a directory",
        "statetrain.checkpoints.lock:Lock.take",
        "if holder and _is_there(",
        "if False and _is_there(",
        _of("bad_inputs", "directory in use"),
    ),
    Mutant(
        "generators are put back",
        f"{BACK}:_restore_generators",
        "ctx.accelerator.set_run_states(ctx, states)",
        "pass",
        _kills(Setting(seeded=False)),
    ),
    Mutant(
        "the optimizer is put back",
        "statetrain.checkpoints.optimizers:restore_optimizer",
        "optimizer.load_state_dict(saved)",
        "return",
        _kills(Setting()),
    ),
    Mutant(
        "the scale is put back",
        f"{BACK}:_restore_optimizers",
        'ctx.scaler.load_state_dict(data["scaler"])',
        "pass",
        _kills(Setting(precision="scaled")),
    ),
    Mutant(
        "sums of an epoch are put back",
        "statetrain.checkpoints.tallies:restore_tally",
        "tally.losses.keys() & saved",
        "set() & saved",
        _kills(Setting()),
    ),
    Mutant(
        "callbacks' states are put back",
        f"{BACK}:_restore_callbacks",
        "callback.load_state_dict",
        "id",
        _kills(Setting(ema=True)),
    ),
    Mutant(
        "gradients of a window are put back",
        "statetrain.checkpoints.modules:restore_gradients",
        "if value is None:",
        "if True:",
        _kills(Setting(accumulate=3, saving="each anchor")),
    ),
    Mutant(
        "the position is the next batch",
        "statetrain.data.iterating:take_up",
        "_turn(ctx, set), drawn)",
        "_turn(ctx, set), drawn + 1)",
        _kills(Setting()),
    ),
    Mutant(
        "replay goes as far as the run did",
        "statetrain.data.iterating:_replay",
        "range(drawn)",
        "range(max(drawn - 1, 0))",
        _kills(Setting(seeded=False)),
    ),
    Mutant(
        "intervals remember",
        f"{BACK}:_restore_progress",
        "setattr(ctx, name, fields[name])",
        'name == "marks" or setattr(ctx, name, fields[name])',
        _kills(Setting(inside=True)),
    ),
    Mutant(
        "errors come out",
        "statetrain.machine.failing:fail",
        "raise _close(plan, ctx, error, work, ask)",
        "_close(plan, ctx, error, work, ask)",
        _of("exceptions", "OSError"),
    ),
    Mutant(
        "clean-ups run",
        "statetrain.machine.failing:clean_up",
        "ctx.deferred.pop()()",
        "ctx.deferred.pop()",
        _of("exceptions", "OSError"),
    ),
    Mutant(
        "notes say where",
        "statetrain.machine.failing:_close",
        "error.add_note(\n        f\"statetrain: {', '",
        "str(\n        f\"statetrain: {', '",
        _of("exceptions", "OSError"),
    ),
    Mutant(
        "StopIteration ends nothing",
        "statetrain.standard.actions.drawing:holds_its_length",
        'return hasattr(dataset, "__getitem__")',
        "return False",
        _of("exceptions", "StopIteration('enough') in a sample"),
    ),
    Mutant(
        "handlers are put back",
        "statetrain.machine.interrupts:heeded",
        "signal.signal(number, handler)",
        "pass",
        _of("signals"),
    ),
    Mutant(
        "a signal waits to be saved",
        "statetrain.machine.interrupts:_SignalFlag.hear",
        "if not self.ctx.saves:",
        "if True:",
        _of("signals", "SIGTERM at call", 200),
    ),
    Mutant(
        "a loss that is NaN is refused",
        "statetrain.guards.batch:_loss_not_finite",
        "value - value != 0.0",
        "False",
        _of("non_finite", "the loss, NaN, skip"),
    ),
    Mutant(
        "buffers are put back",
        "statetrain.standard.actions.refusing:put_buffers_back",
        "ctx.held.put_back()",
        "pass",
        _of("non_finite", "an input, NaN, skip"),
    ),
    Mutant(
        "only regular files are opened",
        f"{READ}:open_file",
        'getattr(os, "O_NOFOLLOW", 0)',
        "0",
        _of("hostile", "link"),
    ),
    Mutant(
        "no key is there twice",
        "statetrain.jsons:_read_object",
        "len(found) != len(pairs)",
        "False",
        _of("hostile", "a key twice"),
    ),
    Mutant(
        "shapes fit their bytes",
        f"{READ}:_entries",
        "offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize",
        "False",
        _of("hostile", "larger than"),
    ),
    Mutant(
        "words of a picture are escaped",
        "statetrain.diagram.as_mermaid:escape",
        "re.sub(",
        "(lambda *a, **k: text)(",
        _of("names", "pictures"),
    ),
    Mutant(
        "a cell is no formula",
        "statetrain.callbacks.csv_logger:_cell",
        'f"\'{text}"',
        "text",
        _of("names", "columns"),
    ),
)


def noticed(mutant: Mutant) -> str:
    """Breaks a rule in a process of its own; who noticed first."""

    def work() -> str:
        with listening():
            cases = mutant.cases()
            mutate(mutant)
            for case in cases:
                try:
                    case.check()
                except BaseException as error:
                    return f"{case.name}: {type(error).__name__}: {error}"
        return ""

    code, said = forked(work)
    assert code == 0, said[-600:]
    assert said, "nobody noticed"
    return said


def cases() -> list[Case]:
    """Each of them."""
    return [Case(mutant.rule, partial(noticed, mutant)) for mutant in MUTANTS]
