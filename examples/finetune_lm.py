"""Fine-tuning with LoRA: a small language model of `transformers` learns to write docstrings.

    pip install transformers peft
    python examples/finetune_lm.py

Nothing is downloaded: the model is made from its configuration and reads Python's own manual first.
Then its weights are frozen, and adapters of rank 8, an eighth as many, are trained on docstrings.
Texts of different lengths are padded, masked, and count by their characters; two batches make a
step; the learning rate warms up and falls along a cosine; each validation writes a text. A run
takes a quarter of a minute on a CPU.
"""

from __future__ import annotations

import builtins
import inspect
from collections.abc import Iterator
from math import log
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel

import statetrain as st
from statetrain import schedules

LENGTH = 48  # characters of a text, at most
PAD, END = 0, 1  # the other numbers are those of ASCII
IGNORED = -100  # a label that does not count, for transformers

# ---------------------------------------------------------------- the texts


def encode(text: str) -> Tensor:
    return torch.tensor([END, *text.encode("ascii", "ignore")[:LENGTH], END])


def decode(numbers: Tensor) -> str:
    return "".join(chr(number) for number in numbers if number > END)


def manual() -> list[Tensor]:
    paragraphs = dict.fromkeys("\n\n".join(topics.values()).split("\n\n"))
    return [encode(" ".join(text.split())) for text in list(paragraphs)[::4]]


def docstrings() -> list[Tensor]:
    return [encode(text) for text in dict.fromkeys(_documented()) if text]


def _documented() -> Iterator[str]:
    for thing in vars(builtins).values():
        for member in (thing, *(vars(thing).values() if isinstance(thing, type) else ())):
            text = inspect.getdoc(member) or ""
            yield " ".join(text.split())


class Texts(Dataset[Tensor]):
    """Texts, each a sample; a list would be taken for batches."""

    def __init__(self, texts: list[Tensor]) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Tensor:
        return self.texts[index]


def collate(texts: list[Tensor]) -> dict[str, Tensor]:
    """A batch as the model's `forward` takes it. It reaches it by name, without another word."""
    numbers = pad_sequence(texts, batch_first=True, padding_value=PAD)
    ends = torch.tensor([len(text) for text in texts])[:, None]
    there = torch.arange(numbers.shape[1]) < ends
    return {
        "input_ids": numbers,
        "attention_mask": there.long(),
        "labels": numbers.masked_fill(~there, IGNORED),
    }


def characters(batch: dict[str, Tensor]) -> Tensor:
    """How many characters of a batch are predicted: all that count but the first."""
    return (batch["labels"][:, 1:] != IGNORED).sum()


# ---------------------------------------------------------------- the model


def base() -> Any:
    config = GPT2Config(
        vocab_size=128,
        n_positions=LENGTH + 2,
        n_embd=64,
        n_layer=2,
        n_head=4,
        bos_token_id=END,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    return GPT2LMHeadModel(config)


class Write(st.Callback):
    """Lets the model write a text when it has been validated."""

    reads = ("model",)

    def on_exit_valid(self, ctx: st.Context) -> None:
        model: Any = ctx.model
        start = torch.tensor([[END]], device=ctx.accelerator.device)
        found = model.generate(
            input_ids=start,
            attention_mask=torch.ones_like(start),
            max_new_tokens=LENGTH,
            do_sample=False,
        )
        ctx.log("text", decode(found[0]))


# ---------------------------------------------------------------- the run


def train(model: Any, texts: list[Tensor], steps: int, rate: float) -> st.Run:
    return st.fit(
        model,  # it computes its own loss, so none is given
        Texts(texts),
        valid=0.1,
        optimizer=torch.optim.AdamW,  # gets the weights that are not frozen
        opt_hparams={"lr": rate, "weight_decay": 0.01},
        epochs=None,
        max_steps=steps,
        accumulate=2,
        size=characters,  # a step is the mean over the characters of both batches
        validate=st.Every(max(1, steps // 2), "steps"),
        dataloader_options={"batch_size": 16, "collate_fn": collate},
        callbacks=[
            st.GradientClip(1.0),
            st.Schedule("opt.lr", schedules.warm_up(0.1, schedules.cosine(rate))),
            Write(),
        ],
        seed=0,
    )


def main(steps: int = 200, out: str | Path = "runs/finetune_lm") -> tuple[st.Run, float]:
    torch.manual_seed(0)
    model = base()
    train(model, manual(), steps, rate=3e-3)

    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=8,
        lora_alpha=16,
        target_modules=["c_attn", "c_fc", "c_proj"],
        fan_in_fan_out=True,
    )
    tuned = get_peft_model(model, lora)
    tuned.print_trainable_parameters()
    run = train(tuned, docstrings(), steps, rate=3e-3)
    tuned.save_pretrained(f"{out}/adapter", save_embedding_layers=False)  # the adapters alone

    run.lifecycle.draw(f"{out}/lifecycle.svg")
    bits = run.history["valid_loss"][-1] / log(2)
    print(*run.ctx.records["text"], sep="\n")
    print(f"bits per character of docstrings: {bits:.2f}")
    print(f"the adapters, and the machine that trained them: {out}")
    return run, bits


if __name__ == "__main__":
    main()
