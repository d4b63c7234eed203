"""Models of transformers as they are: batches by name, the loss that they return, ragged texts with a collator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import statetrain as st

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

SGD = {"optimizer": torch.optim.SGD, "opt_hparams": {"lr": 0.1}, "verbose": False}


def gpt2() -> Any:
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=2, resid_pdrop=0.0,
            embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip


def texts() -> list[dict[str, Tensor]]:
    """Three batches of token numbers, padded on the right with what is masked and does not count."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(3):
        ids = torch.randint(1, 20, (4, 6), generator=generator)
        mask = torch.ones_like(ids)
        mask[:2, 4:] = 0
        labels = ids.masked_fill(mask == 0, -100)
        found.append({"input_ids": ids * mask, "attention_mask": mask, "labels": labels})
    return found


def by_hand(model: Any, batches: list[Any], epochs: int = 2) -> list[Tensor]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(epochs):
        for batch in batches:
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()
    return list(model.parameters())


def same(ours: nn.Module, theirs: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs, strict=True))


@pytest.mark.parametrize("given", [{}, {"input": "*"}, {"input": [*texts()[0]]}], ids=repr)
def test_batches_reach_a_model_by_name_and_its_own_loss_is_taken(given: dict[str, Any]) -> None:
    """With neither a loss nor keys, weights are bit-equal to `model(**batch).loss.backward()`."""
    model = gpt2()
    run = st.fit(model, texts(), valid=texts(), epochs=2, **given, **SGD)
    assert same(model, by_hand(gpt2(), texts()))
    model.eval()
    with torch.no_grad():
        expected = sum(float(model(**batch).loss) for batch in texts()) / 3
    assert run.history[-1]["valid_loss"] == pytest.approx(expected, abs=1e-6)
    assert run.evaluate(texts())["loss"] == pytest.approx(expected, abs=1e-6)
    assert st.evaluate(model, texts())["loss"] == pytest.approx(expected, abs=1e-6)


def test_a_batch_encoding_is_a_batch() -> None:
    """What a tokenizer returns is placed, counted and given by name, as a dict is."""
    batches = [transformers.BatchEncoding(batch) for batch in texts()]
    model = gpt2()
    run = st.fit(model, batches, epochs=2, **SGD)
    assert same(model, by_hand(gpt2(), texts()))
    assert run.history[-1]["samples"] == 2 * 3 * 4


def test_parts_of_an_output_are_predictions_and_metrics_read_them() -> None:
    """`pred="logits"` is for metrics and predictions; the loss is still the model's own."""

    def right(logits: Tensor, labels: Tensor) -> Tensor:
        counted = labels[:, 1:] != -100
        return ((logits[:, :-1].argmax(-1) == labels[:, 1:]) & counted).sum() / counted.sum()

    model = gpt2()
    run = st.fit(model, texts(), pred="logits", metrics={"right": right}, epochs=1, **SGD)
    assert same(model, by_hand(gpt2(), texts(), epochs=1))
    assert 0 <= run.history[-1]["train_right"] <= 1
    model.eval()
    with torch.no_grad():
        expected = torch.cat([model(**batch).logits for batch in texts()])
    assert torch.allclose(st.predict(run, texts(), pred="logits"), expected, atol=1e-6)
    assert torch.allclose(st.predict(run, texts()), expected, atol=1e-6)


def test_tokens_that_count_make_a_window() -> None:
    """With `size=` the number of tokens that count, accumulated batches are one big batch."""
    batches = texts()[:2]
    batches[0]["labels"][:, 3:] = -100
    whole = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    model = gpt2()
    st.fit(
        model, batches, accumulate=2, epochs=1,
        size=lambda batch: (batch["labels"][:, 1:] != -100).sum(), **SGD,
    )  # fmt: skip
    for ours, theirs in zip(model.parameters(), by_hand(gpt2(), [whole], epochs=1), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


class Ragged(torch.utils.data.Dataset[dict[str, list[int]]]):
    """Texts of different lengths, as a tokenizer leaves them."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return {"input_ids": list(range(1, 3 + index % 5)), "attention_mask": [1] * (2 + index % 5)}


def test_ragged_texts_are_padded_by_a_collator() -> None:
    """A collator of transformers pads each batch and makes its labels; nothing else is needed."""
    tokenizers = pytest.importorskip("tokenizers")
    words = {"[PAD]": 0, **{f"w{number}": number for number in range(1, 20)}}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[PAD]"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]")
    collate = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False)
    options = {"batch_size": 4, "collate_fn": collate, "shuffle": False}
    model = gpt2()
    st.fit(model, Ragged(), dataloader_options=options, epochs=2, **SGD)
    batches = list(
        torch.utils.data.DataLoader(Ragged(), batch_size=4, collate_fn=collate)  # type: ignore[arg-type]
    )
    assert same(model, by_hand(gpt2(), batches))


# ---------------------------------------------------------------- any model


class TwoInputs(nn.Module):
    """Takes two inputs by name, one of which may be left out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right = nn.Linear(3, 1), nn.Linear(2, 1)

    def forward(self, left: Tensor, right: Tensor | None = None) -> Tensor:
        found: Tensor = self.left(left)
        return found if right is None else found + self.right(right)


def pairs() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {name: torch.randn(4, size, generator=generator) for name, size in (("left", 3), ("right", 2), ("y", 1))}
        for _ in range(3)
    ]  # fmt: skip


def test_a_target_that_the_model_does_not_take_is_left_out() -> None:
    """Where the other parts are the arguments of `forward`, they are given by name, and the loss takes the target."""
    ours, theirs = TwoInputs(), TwoInputs()
    st.fit(ours, pairs(), loss=F.mse_loss, epochs=1, **SGD)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for batch in pairs():
        optimizer.zero_grad()
        F.mse_loss(theirs(batch["left"], batch["right"]), batch["y"]).backward()
        optimizer.step()
    assert same(ours, list(theirs.parameters()))


def test_a_part_that_the_model_does_not_take_is_named() -> None:
    """A batch that does not agree with `forward` is refused, with the parts that do."""
    batches = [batch | {"row": torch.arange(4)} for batch in pairs()]
    with pytest.raises(st.DataError, match=r"or input=\['left', 'right'\] for what the model's"):
        st.fit(TwoInputs(), batches, loss=F.mse_loss, epochs=1, **SGD)
    run = st.fit(TwoInputs(), batches, input=["left", "right"], loss=F.mse_loss, epochs=1, **SGD)
    again = st.fit(TwoInputs(), pairs(), loss=F.mse_loss, epochs=1, **SGD)
    assert run.history[-1]["train_loss"] == again.history[-1]["train_loss"]


def test_all_parts_by_name_need_names() -> None:
    """`input="*"` of tuples is refused, with what to say."""
    batches = [(batch["left"], batch["y"]) for batch in pairs()]
    with pytest.raises(
        st.DataError, match=r"input='\*' gives the model the parts of a batch by name"
    ):
        st.fit(TwoInputs(), batches, input="*", loss=F.mse_loss, epochs=1, **SGD)


def test_a_model_without_a_loss_of_its_own_is_told() -> None:
    """Without `loss=`, an output that has none is an error before the first step, with what to write."""
    model = TwoInputs()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with pytest.raises(st.LossError, match="there is no loss=, and the model returned a Tensor"):
        st.fit(model, pairs(), epochs=1, **SGD)
    assert same(model, before)


def test_later_batches_with_other_parts_are_not_read_silently() -> None:
    """A part that only a later batch has reaches the model too, which says that it does not know it."""
    batches = [*pairs(), pairs()[0] | {"more": torch.zeros(4)}]
    with pytest.raises(TypeError, match="unexpected keyword argument 'more'"):
        st.fit(TwoInputs(), batches, loss=F.mse_loss, epochs=1, **SGD)
