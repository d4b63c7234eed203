"""The page for people who know luz: everything of luz's has a row, and every row a test that is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from attrs import frozen

from statetrain.callback import ALIASES

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "coming-from-luz.md"

# Everything that luz offers. A row of the page may take several of them together.
INVENTORY = {
    "functions": """
        setup() setup(loss) setup(optimizer) setup(metrics) setup(backward) set_hparams() set_opt_hparams()
        fit() fit(epochs) fit(callbacks) fit(valid_data) fit(accelerator) fit(verbose) fit(dataloader_options)
        evaluate() evaluate(metrics) evaluate(callbacks) evaluate(accelerator) evaluate(verbose) evaluate(dataloader_options)
        predict() predict(stack) predict(callbacks) predict(accelerator) predict(verbose) predict(dataloader_options)
        get_metrics(fitted) get_metrics(evaluation) print(fitted) print(evaluation) plot(fitted)
        lr_finder() lr_finder(steps) lr_finder(start_lr) lr_finder(end_lr) lr_finder(log_spaced_intervals) plot(lr_finder)
        luz_save() luz_load() luz_save_model_weights() luz_load_model_weights() luz_load_checkpoint()
        as_dataloader() nn_mixup_loss() nnf_mixup()
    """,
    "methods of a module": "forward() loss() set_optimizers() step() predict(x) device",
    "fields of the context": """
        ctx$buffers ctx$records ctx$device ctx$callbacks ctx$iter ctx$batch ctx$input ctx$target ctx$min_epochs ctx$max_epochs
        ctx$hparams ctx$opt_hparams ctx$train_data ctx$valid_data ctx$data ctx$accelerator ctx$optimizers ctx$verbose ctx$handlers
        ctx$epoch_handlers ctx$training ctx$model ctx$pred ctx$opt ctx$opt_name ctx$loss_fn ctx$loss ctx$loss_grad ctx$epoch
        ctx$metrics ctx$step_opt
    """,
    "methods of the context": """
        ctx$log() ctx$log_metric() ctx$get_log() ctx$get_metrics() ctx$get_metric() ctx$get_formatted_metrics() ctx$get_metrics_df()
        ctx$set_verbose() ctx$clean() ctx$call_callbacks() ctx$state_dict() ctx$unsafe_set_records()
    """,
    "breakpoints": """
        on_fit_begin on_epoch_begin on_train_begin on_train_batch_begin on_train_batch_after_pred on_train_batch_after_loss
        on_train_batch_before_backward on_train_batch_before_step on_train_batch_after_step on_train_batch_end on_train_end
        on_valid_begin on_valid_batch_begin on_valid_batch_after_pred on_valid_batch_after_loss on_valid_batch_end on_valid_end
        on_epoch_end on_fit_end on_predict_begin on_predict_batch_begin on_predict_batch_end on_predict_end
        on_early_stopping on_interrupt
    """,
    "conditions": "early_stopping break_epoch interrupt",
    "callbacks": """
        luz_callback() luz_callback(initialize) luz_callback(inherit) luz_callback(weight) luz_callback(state_dict)
        luz_callback(load_state_dict)
        luz_callback_profile() luz_callback_train_valid() luz_callback_metrics() luz_callback_progress() luz_callback_interrupt()
        luz_callback_early_stopping() luz_callback_early_stopping(monitor) luz_callback_early_stopping(patience)
        luz_callback_early_stopping(min_delta) luz_callback_early_stopping(mode) luz_callback_early_stopping(baseline)
        luz_callback_model_checkpoint() luz_callback_model_checkpoint(path) luz_callback_model_checkpoint(monitor)
        luz_callback_model_checkpoint(mode) luz_callback_model_checkpoint(min_delta) luz_callback_model_checkpoint(save_best_only)
        luz_callback_keep_best_model() luz_callback_keep_best_model(monitor) luz_callback_keep_best_model(mode)
        luz_callback_keep_best_model(min_delta)
        luz_callback_auto_resume() luz_callback_auto_resume(path)
        luz_callback_resume_from_checkpoint() luz_callback_resume_from_checkpoint(path)
        luz_callback_resume_from_checkpoint(restore_model_state) luz_callback_resume_from_checkpoint(restore_records)
        luz_callback_resume_from_checkpoint(restore_optimizer_state) luz_callback_resume_from_checkpoint(restore_callbacks_state)
        luz_callback_lr_scheduler() luz_callback_lr_scheduler(call_on) luz_callback_lr_scheduler(opt_name)
        luz_callback_csv_logger() luz_callback_gradient_clip() luz_callback_gradient_clip(max_norm)
        luz_callback_gradient_clip(norm_type) luz_callback_mixed_precision()
        luz_callback_mixup() luz_callback_mixup(alpha) luz_callback_mixup(run_valid) luz_callback_mixup(auto_loss)
        luz_callback_tfevents() luz_callback_tfevents(histograms)
    """,
    "metrics": """
        luz_metric() luz_metric(abbrev) luz_metric(format) luz_metric_set() luz_metric_accuracy() luz_metric_binary_accuracy()
        luz_metric_binary_accuracy_with_logits() luz_metric_mae() luz_metric_mse() luz_metric_rmse() luz_metric_binary_auroc()
        luz_metric_multiclass_auroc()
    """,
    "accelerator and options": """
        accelerator() accelerator(cpu) accelerator(cuda_index) accelerator(device_placement) accelerator$prepare()
        luz.show_progress_bar_eta luz.force_progress_bar LUZ_DISABLE_MPS
    """,
}
DEFECTS = 20  # surprises of luz's that are decided one by one


@frozen
class Row:
    section: str
    luz: str
    here: str
    tests: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """What of luz it is about."""
        return re.findall(r"`([^`]+)`", self.luz)


def rows() -> list[Row]:
    found, section = [], ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not line.startswith("|") or cells[0] in ("luz", "---"):
            continue
        assert len(cells) == 4, f"a row of {section!r} has {len(cells)} cells: {line}"
        found.append(Row(section, cells[0], cells[1], tuple(re.findall(r"`([^`]+)`", cells[3]))))
    return found


ROWS = rows()
LAST = "What was wrong and is not any more"


def collected_from(path: Path) -> dict[str, ast.FunctionDef]:
    """The tests that pytest collects from a file, by name."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    body += [part for node in body if isinstance(node, ast.ClassDef) and node.name.startswith("Test") for part in node.body]
    return {node.name: node for node in body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize("section", INVENTORY)
def test_everything_that_luz_offers_has_a_row(section: str) -> None:
    """Each function, field, breakpoint, callback, metric and option is named in the first column of one table."""
    named = [name for row in ROWS if row.section != LAST for name in row.names]
    assert [name for name in INVENTORY[section].split() if name not in named] == []


def test_every_row_is_about_something_of_luzs() -> None:
    """No name in the first column is misspelt, or named twice."""
    named = [name for row in ROWS if row.section != LAST for name in row.names]
    known = {name for names in INVENTORY.values() for name in names.split()}
    assert set(named) <= known
    assert sorted(named) == sorted(set(named))


def test_every_row_names_a_test_that_is_run() -> None:
    """The file is there, pytest would collect the function, and nothing marks it as one to be skipped."""
    files = {path: collected_from(ROOT / path) for row in ROWS for path in {name.partition("::")[0] for name in row.tests}}
    for row in ROWS:
        assert row.tests, f"no test: {row.luz}"
        for name in row.tests:
            path, _, function = name.partition("::")
            assert path.startswith("tests/"), name
            assert function in files[path], f"{row.luz} names {name}, which is not there"
            marks = [ast.unparse(mark) for mark in files[path][function].decorator_list]
            assert not [mark for mark in marks if "skip" in mark or "xfail" in mark], f"{name} is not run: {marks}"


def test_the_breakpoints_are_the_aliases() -> None:
    """The table of breakpoints says what the code says: each alias, and the hook that it stands for."""
    table = {name: row.here.strip("`") for row in ROWS if row.section == "Breakpoints" for name in row.names}
    assert {name: hook for name, hook in table.items() if name in ALIASES} == ALIASES
    assert set(table) - set(ALIASES) == {"on_early_stopping", "on_interrupt"}


def test_every_surprise_has_a_row() -> None:
    """luz's defects are counted, and each says what is so here."""
    numbers = [int(row.luz.partition(".")[0]) for row in ROWS if row.section == LAST]
    assert numbers == list(range(1, DEFECTS + 1))
