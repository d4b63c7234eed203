"""What other libraries' arguments are called here."""

from __future__ import annotations

_CLIP = "callbacks=[GradientClip(...)]"
_SCHEDULE = "callbacks=[LRScheduler(...)]"
_COLLATE = 'dataloader_options={"collate_fn": ...}'
_STOP = 'stop=EarlyStopping("valid_loss", patience=...)'

ELSEWHERE = {
    "accumulate_grad_batches": "accumulate=",
    "amp": 'precision="bf16"',
    "batch_size": 'dataloader_options={"batch_size": ...}',
    "check": "finite_check=",
    "checkpoint": "callbacks=[Checkpoint(folder)]",
    "ckpt_path": "resume=",
    "clip_grad_norm": _CLIP,
    "collate_fn": _COLLATE,
    "criterion": "loss=",
    "data_collator": _COLLATE,
    "early_stopping": _STOP,
    "fp16": 'precision="fp16"',
    "fused": 'compile="step"',
    "grad_clip": _CLIP,
    "gradient_accumulation_steps": "accumulate=",
    "gradient_clip_val": _CLIP,
    "learning_rate": 'opt_hparams={"lr": ...}',
    "logger": "callbacks=[CSVLogger(file)], or another logger",
    "loss_fn": "loss=",
    "lr": 'opt_hparams={"lr": ...}',
    "lr_scheduler": _SCHEDULE,
    "max_epochs": "epochs=",
    "max_grad_norm": _CLIP,
    "max_time": "stop=TimeLimit(minutes=...)",
    "min_epochs": "epochs=(least, most)",
    "mixed_precision": 'precision="bf16"',
    "n_epochs": "epochs=",
    "num_epochs": "epochs=",
    "num_workers": 'dataloader_options={"num_workers": ...}',
    "optimizers": "optimizer={name: ...}",
    "patience": _STOP,
    "restore_best": 'callbacks=[KeepBest("valid_loss")]',
    "resume_from_checkpoint": "resume=",
    "scheduler": _SCHEDULE,
    "seeded": "seed=",
    "shuffle": 'dataloader_options={"shuffle": ...}',
    "stages": "callbacks=[Freeze(part, until=..., lr=...)], or lifecycle=first.then(second)",
    "val": "valid=",
    "val_dataloaders": "valid=",
    "validation_data": "valid=",
    "weight_decay": 'opt_hparams={"weight_decay": ...}',
}
"""The argument to write instead, by the word of another library."""

FIELDS = {
    "batch_idx": "ctx.iter, from 1",
    "control": "ctx.request_stop(reason)",
    "current_epoch": "ctx.epoch",
    "global_step": "ctx.step",
    "logged_metrics": "ctx.history[-1]",
    "lr": 'ctx.opt.param_groups[0]["lr"]',
    "max_steps": "fit(max_steps=...)",
    "net": "ctx.model",
    "optimizer": "ctx.opt",
    "pl_module": "ctx.model",
    "should_stop": "ctx.request_stop(reason)",
    "should_training_stop": "ctx.request_stop(reason)",
    "stop_training": "ctx.request_stop(reason)",
    "trainer": "ctx",
}
"""What fields of other libraries' trainers are called here."""
