"""Loggables: what they take, what they refuse, and what they keep."""

from __future__ import annotations

import io
import math
import wave

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

import statetrain as st
from statetrain.errors import ConfigError
from statetrain.logs.loggables import as_loggable

pixels = pytest.importorskip("PIL.Image")


# ---------------------------------------------------------------- numbers, texts, settings


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        (1, 1),
        (2.5, 2.5),
        (True, True),
        (math.inf, math.inf),
        (torch.tensor(3), 3),
        (torch.tensor([[1.5]], dtype=torch.bfloat16), 1.5),
        (np.float64(0.1), 0.1),
        (np.arange(2), [0, 1]),
        ([[1, 2], [3, 4]], [[1, 2], [3, 4]]),
        (torch.nn.Parameter(torch.zeros(2)), [0.0, 0.0]),
    ],
)
def test_values(data, kept):
    "A number is a number, whatever it comes in, and arrays are nested lists."
    value = st.Value(data)
    assert value.data == kept
    assert type(value.data) is type(kept) or isinstance(data, np.float64)
    assert value.number == (None if isinstance(kept, list) else kept)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: st.Value("1"), "takes a number or an array of numbers, got str: '1'"),
        (lambda: st.Value(None), "got NoneType"),
        (lambda: st.Value({}), "got dict"),
        (lambda: st.Value([]), "at least one number"),
        (lambda: st.Value([[1], [2, 3]]), "takes a tensor or an array, got list"),
        (lambda: st.Value(1j), "takes a dense tensor of real numbers"),
        (lambda: st.Value(torch.zeros(2, device="meta")), "on the device 'meta', without values"),
        (lambda: st.Text(3), r"Text takes a str, got int: 3; write Text\(str\(...\)\)"),
        (lambda: st.Settings([1]), "takes a mapping of names to values"),
        (lambda: st.File("nowhere"), "'nowhere' is no file that can be read"),
        (lambda: st.File("."), "'.' is a folder"),
        (
            lambda: st.Histogram(torch.tensor([math.nan])),
            "none of the values of Tensor of shape .* is finite",
        ),
        (lambda: st.Histogram([]), "is finite"),
        (lambda: st.Histogram([1.0], bins=0), "bins must be a whole number of at least 1, got 0"),
        (lambda: st.Histogram(torch.zeros(2).to_sparse()), "dense tensor"),
        (lambda: st.Image(torch.zeros(5)), r"takes the shape .*; got \(5,\)"),
        (
            lambda: st.Image(torch.zeros(8, 9, 3)),
            r"the channels come last: use .permute\(2, 0, 1\)",
        ),
        (lambda: st.Image(np.zeros((2, 8, 9, 1))), r"use .permute\(0, 3, 1, 2\)"),
        (lambda: st.Image(torch.zeros(0, 3, 2, 2)), "got "),
        (
            lambda: st.Image(torch.full((2, 2), 1.5)),
            r"from 0 to 1, got 1.5 to 1.5; say which values are black and white",
        ),
        (lambda: st.Image(torch.full((2, 2), 256)), "from 0 to 255, got 256 to 256"),
        (lambda: st.Image(torch.full((2, 2), math.nan)), "not finite"),
        (
            lambda: st.Image(torch.zeros(2, 2), range=(1.0, 0.0)),
            "two finite numbers, the lower one first",
        ),
        (lambda: st.Image("cat.png"), "takes a tensor or an array, got str"),
        (
            lambda: st.Figure(torch.zeros(2, 2)),
            r"takes a figure of matplotlib, got Tensor of shape \(2, 2\); of arrays, make an Image",
        ),
        (
            lambda: st.Audio(torch.zeros(4, dtype=torch.int16), 8000),
            "floats from -1 to 1, got torch.int16",
        ),
        (lambda: st.Audio(torch.full((4,), 2.0), 8000), "from -1 to 1, got 2 to 2"),
        (lambda: st.Audio(torch.zeros(800, 2), 8000), r"which is 800 channels; use .T"),
        (lambda: st.Audio(torch.zeros(0), 8000), "takes the shape"),
        (
            lambda: st.Audio(torch.zeros(4), 0),
            "rate must be a whole number of samples per second of at least 1, got 0",
        ),
    ],
)
def test_what_is_refused(make, message):
    "Bad input is an error when the loggable is made, which says what was expected and what was got."
    with pytest.raises(ConfigError, match=message):
        make()


def test_settings_are_flat_and_plain():
    "Nested names are joined; what is more than plain data is given in words."
    data = {
        "a": {"b": 1, "c": {"d": None}},
        "loss": torch.nn.functional.mse_loss,
        "lr": torch.tensor(0.5),
        "betas": (0.9, 0.99),
        "x\ny": "z",
        "e": {},
    }
    assert st.Settings(data).data == {
        "a.b": 1,
        "a.c.d": None,
        "loss": "mse_loss",
        "lr": 0.5,
        "betas": "(0.9, 0.99)",
        "x\\ny": "z",
        "e": "{}",
    }


def test_what_a_person_writes_becomes_a_loggable():
    "Loggables stay, numbers and arrays are values, texts are texts, and all else is given in words."
    image = st.Image(torch.zeros(2, 2))
    assert as_loggable(image) is image
    assert as_loggable(torch.ones(())) == st.Value(1.0)
    assert as_loggable("a") == st.Text("a")
    assert as_loggable({"a": 1}) == st.Text("{'a': 1}")


# ---------------------------------------------------------------- pictures


def test_pictures_are_bytes_whatever_they_were():
    "Floats from 0 to 1, whole numbers to 255 and truth values; a range of one's own is cut off at its ends."
    assert st.Image(torch.tensor([[0.0, 0.5, 1.0]])).data.flatten().tolist() == [0, 128, 255]
    assert st.Image(np.array([[0, 7, 255]])).data.flatten().tolist() == [0, 7, 255]
    assert st.Image(torch.tensor([[True, False]])).data.flatten().tolist() == [255, 0]
    wide = torch.tensor([[-9.0, -1.0, 0.0, 1.0, math.inf, math.nan]])
    assert st.Image(wide, range=(-1.0, 1.0)).data.flatten().tolist() == [0, 0, 128, 255, 255, 0]


def test_a_picture_is_a_copy():
    "Changing the tensor afterwards does not change what was logged."
    data = torch.zeros(2, 2, dtype=torch.uint8)
    image = st.Image(data)
    data += 1
    assert not image.data.any()


@given(some.integers(1, 7), some.sampled_from([1, 3, 4]), some.integers(1, 3), some.integers(1, 4))
def test_several_pictures_become_one(n, channels, height, width):
    "Each is found again in its place, row by row; what is left over is black."
    batch = (
        torch.arange(n).reshape(n, 1, 1, 1).expand(n, channels, height, width).to(torch.uint8) + 1
    )
    whole = st.Image(batch).data
    columns = math.ceil(math.sqrt(n))
    assert whole.shape == (channels, math.ceil(n / columns) * height, columns * width)
    tiles = (
        whole.unfold(1, height, height)
        .unfold(2, width, width)
        .permute(1, 2, 0, 3, 4)
        .reshape(-1, channels * height * width)
    )
    assert tiles[:, 0].tolist() == list(range(1, n + 1)) + [0] * (len(tiles) - n)
    assert (tiles == tiles[:, :1]).all()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_picture_as_a_file(channels):
    "What a reader of PNG files sees is what was logged."
    data = torch.arange(channels * 6).reshape(channels, 2, 3)
    read = np.asarray(pixels.open(io.BytesIO(st.Image(data).png())))
    assert (read.reshape(2, 3, channels) == data.permute(1, 2, 0).numpy()).all()


def test_a_figure_is_drawn_at_once():
    "A figure, or axes of one, becomes a picture; closing it afterwards does no harm."
    figures = pytest.importorskip("matplotlib.figure")
    figure = figures.Figure(figsize=(2, 1), dpi=50)
    axes = figure.subplots()
    axes.plot([0, 1], [1, 0])
    canvas = figure.canvas
    image = st.Figure(axes)
    assert figure.canvas is canvas
    figure.clear()
    assert image.data.shape == (3, 50, 100)
    assert len(image.data.unique()) > 2
    assert isinstance(image, st.Image)


# ---------------------------------------------------------------- distributions and sounds


@given(
    some.lists(
        some.floats(-1e6, 1e6, width=32) | some.sampled_from([1.0, 1.0 + 2**-22, 2.0**-140]),
        min_size=1,
        max_size=50,
    ),
    some.integers(1, 8),
)
def test_a_histogram_counts_every_value_once(values, bins):
    "All finite values are in a bin, between edges that reach from the least to the most."
    found = st.Histogram(torch.tensor([*values, math.nan, math.inf]), bins)
    assert found.count == len(values) == sum(found.counts)
    assert len(found.edges) == bins + 1 == len(found.counts) + 1
    assert list(found.edges) == sorted(found.edges)
    assert found.edges[0] <= min(values) == found.least
    assert found.edges[-1] >= max(values) == found.most
    assert found.total == pytest.approx(math.fsum(values), abs=1e-3)


def test_a_histogram_of_equal_values():
    "They are all in one bin, and the edges are apart."
    found = st.Histogram(torch.full((5,), 2.0), bins=2)
    assert found.counts == (0, 5)
    assert found.edges == (1.5, 2.0, 2.5)


def test_a_sound_as_a_file():
    "What a reader of WAV files hears is what was logged, with all its channels."
    sound = st.Audio(torch.tensor([[0.0, 1.0, -1.0], [0.5, 0.0, 0.0]]), 8000)
    with wave.open(io.BytesIO(sound.wav())) as file:
        assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (2, 8000, 3)
        heard = np.frombuffer(file.readframes(3), dtype="<i2").reshape(3, 2)
    assert heard.tolist() == [[0, 16384], [32767, 0], [-32767, 0]]
    assert len(st.Audio(torch.zeros(5), 8000).wav()) == 44 + 2 * 5
