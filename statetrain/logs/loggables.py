"""Loggables: what can be logged, as small checked values. Each is a copy in host memory.

Making one reads what it is given, which on a device waits for it; so they are made when a logger is
due, and not before.
"""

from __future__ import annotations

import io
import math
import os
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from attrs import field, frozen

from statetrain.errors import ConfigError
from statetrain.naming import printable
from statetrain.validators import check_whole

# ---------------------------------------------------------------- numbers and texts


@frozen(init=False)
class Value:
    """A number, or an array of numbers such as a confusion matrix.

    Args:
        data: a number, a tensor or an array of any shape, of floats, whole numbers or truth values;
            NaN and infinity may be among them. One element is a number, whatever the shape.

    Raises:
        ConfigError: it is something else, or empty.
    """

    data: Any  # a number, or numbers in nested lists

    def __init__(self, data: Any) -> None:
        self.__attrs_init__(_numbers(data))

    @property
    def number(self) -> float | None:
        """The number, for outputs that take no more; None of an array."""
        if isinstance(self.data, list):
            return None
        number: float = self.data
        return number


@frozen
class Text:
    """A text.

    Args:
        data: of any length; line breaks and HTML may be in it, and are nothing but characters.

    Raises:
        ConfigError: it is no text.
    """

    data: str = field()

    @data.validator
    def _check(self, attribute: Any, value: Any) -> None:
        if not isinstance(value, str):
            raise ConfigError(f"Text takes a str, got {_what(value)}; write Text(str(...))")


@frozen(init=False)
class Settings:
    """Settings by name, such as hyperparameters.

    Args:
        data: names and values, nested or not; nested names are joined by dots. Values that are no
            numbers, texts, truth values or None are given in words.

    Raises:
        ConfigError: it is no mapping.
    """

    data: dict[str, Any]

    def __init__(self, data: Mapping[str, Any]) -> None:
        if not isinstance(data, Mapping):
            raise ConfigError(f"Settings takes a mapping of names to values, got {_what(data)}")
        self.__attrs_init__(_flat(data))


# ---------------------------------------------------------------- pictures


@frozen(init=False, eq=False)
class Image:
    """A picture, or several side by side.

        Image(batch)                            # floats from 0 to 1, or bytes from 0 to 255
        Image(activations, range=(-3.0, 3.0))   # -3 is black, 3 is white, what lies outside is cut
        off

    Args:
        data: shape (height, width), (channels, height, width) or (pictures, channels, height,
            width), with 1 channel (grey), 3 (RGB) or 4 (RGBA): a tensor or an array of floats from
            0 to 1, whole numbers from 0 to 255, or truth values. Several pictures become one, in
            rows.
        range: the values that become black and white, in place of 0 and 1; values beyond them are
            cut off, NaN is black.

    Raises:
        ConfigError: shape, type or range are none of these.
    """

    data: torch.Tensor  # bytes of shape (channels, height, width)

    # The word that users look for
    def __init__(self, data: Any, range: tuple[float, float] | None = None) -> None:  # noqa: A002
        self.__attrs_init__(_pixels(_host("Image", data), range))

    def to_pil(self) -> Any:
        """The picture as a `PIL.Image.Image`.

        Raises:
            ImportError: pillow or numpy is not installed.
        """
        try:
            import numpy as np
            from PIL import Image as Pillow
        except ImportError as error:
            raise ImportError(
                "pictures need pillow and numpy; install them with: pip install pillow numpy"
            ) from error
        rows = np.asarray(self.data.permute(1, 2, 0).contiguous())
        return Pillow.fromarray(rows[..., 0] if rows.shape[2] == 1 else rows)

    def png(self) -> bytes:
        """The picture as the bytes of a PNG file."""
        file = io.BytesIO()
        self.to_pil().save(file, format="PNG")
        return file.getvalue()


@frozen(init=False, eq=False)
class Figure(Image):
    """A figure of matplotlib as a picture. It is drawn at once and may be closed or changed later.

    Args:
        figure: a `matplotlib.figure.Figure`, or axes of one.

    Raises:
        ConfigError: it is neither.
    """

    def __init__(self, figure: Any) -> None:
        figure = getattr(figure, "figure", figure)
        if not hasattr(figure, "set_canvas") or not hasattr(figure, "axes"):
            raise ConfigError(
                f"Figure takes a figure of matplotlib, got {_what(figure)}; of arrays, make an"
                " Image(...)"
            )
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        shown = figure.canvas
        try:
            canvas: Any = FigureCanvasAgg(figure)
            canvas.draw()
            rows = torch.frombuffer(bytearray(canvas.buffer_rgba()), dtype=torch.uint8)
            width, height = canvas.get_width_height()
        finally:
            figure.set_canvas(shown)
        self.__attrs_init__(rows.reshape(height, width, 4).permute(2, 0, 1)[:3].contiguous())


# ---------------------------------------------------------------- distributions, sounds, files


@frozen(init=False)
class Histogram:
    """How the values of a tensor are distributed, counted where the tensor is.

    Args:
        data: a tensor or an array of any shape, of floats, whole numbers or truth values. NaN and
            infinity are left out.
        bins: how many, at least 1, all as wide.

    Raises:
        ConfigError: no value is finite, or an argument is none of these.
    """

    edges: tuple[float, ...]  # one more than there are bins
    counts: tuple[int, ...]
    least: float
    most: float
    total: float  # the sum of the values
    squares: float  # the sum of their squares

    def __init__(self, data: Any, bins: int = 30) -> None:
        check_whole("Histogram: bins", bins)
        values = _real("Histogram", data).flatten()
        values = values.to(torch.float32 if values.device.type == "mps" else torch.float64)
        values = values[torch.isfinite(values)]
        if not values.numel():
            raise ConfigError(
                f"Histogram: none of the values of {_what(data)} is finite, so they have no"
                " distribution"
            )
        least, most, total, squares = torch.stack(
            [values.min(), values.max(), values.sum(), values.square().sum()]
        ).tolist()
        low, high = least, most
        if not high - low > 1e-9 * max(abs(low), abs(high)):  # else the edges would fall together
            margin = max(0.5, 1e-3 * abs(low))
            low, high = low - margin, high + margin
        # Of numbers near the largest, the difference itself is infinite
        width = high / bins - low / bins
        places = (values / width - low / width).floor().clamp(0, bins - 1).long()
        counts = torch.bincount(places, minlength=bins).tolist()
        edges = (*(low + i * width for i in range(bins)), high)
        self.__attrs_init__(edges, tuple(counts), least, most, total, squares)

    @property
    def count(self) -> int:
        """How many values were counted."""
        return sum(self.counts)


@frozen(init=False, eq=False)
class Audio:
    """A sound.

    Args:
        data: shape (samples,) or (channels, samples): floats from -1 to 1.
        rate: samples per second, above 0.

    Raises:
        ConfigError: shape, type or range are none of these.
    """

    data: torch.Tensor  # floats of shape (channels, samples)
    rate: int

    def __init__(self, data: Any, rate: int) -> None:
        check_whole("Audio: rate", rate, of="samples per second")
        sound = _host("Audio", data)
        if not sound.is_floating_point():
            raise ConfigError(
                f"Audio takes floats from -1 to 1, got {sound.dtype}; divide by the largest value"
            )
        if sound.ndim not in (1, 2) or not sound.numel():
            raise ConfigError(
                f"Audio takes the shape (samples,) or (channels, samples), got {tuple(sound.shape)}"
            )
        if sound.ndim == 2 and sound.shape[0] > 16:
            raise ConfigError(
                f"Audio takes the shape (channels, samples), got {tuple(sound.shape)}, which is"
                f" {sound.shape[0]} channels; use .T"
            )
        _within("Audio", sound, -1.0, 1.0, "divide by the largest value")
        self.__attrs_init__(sound.float().reshape(-1, sound.shape[-1]), rate)

    def wav(self) -> bytes:
        """The sound as the bytes of a WAV file of 16 bits."""
        file = io.BytesIO()
        with wave.open(file, "wb") as out:
            out.setnchannels(self.data.shape[0])
            out.setsampwidth(2)
            out.setframerate(self.rate)
            out.writeframes(
                bytes(
                    (self.data * 32767)
                    .round()
                    .to(torch.int16)
                    .T.flatten()
                    .view(torch.uint8)
                    .tolist()
                )
            )
        return file.getvalue()


@frozen
class File:
    """A file that is there, to be kept with the run.

    Args:
        path: of a file that can be read; it is copied when it is logged.

    Raises:
        ConfigError: there is no such file.
    """

    path: Path = field(converter=Path)

    @path.validator
    def _check(self, attribute: Any, value: Path) -> None:
        if not value.is_file() or not os.access(value, os.R_OK):
            raise ConfigError(
                f"File: {str(value)!r} is"
                f" {'a folder' if value.is_dir() else 'no file that can be read'}"
            )


Loggable = Value | Text | Settings | Image | Histogram | Audio | File
KINDS: tuple[type, ...] = (Value, Text, Settings, Image, Histogram, Audio, File)


def as_loggable(value: Any) -> Loggable:
    """A loggable of a plain value: numbers and small arrays become a `Value`, the rest a `Text`.

    Args:
        value: a loggable stays as it is.
    """
    if isinstance(value, KINDS):
        return value  # type: ignore[return-value]  # it is one of them
    if isinstance(value, str):
        return Text(value)
    try:
        return Value(value)
    except ConfigError:
        return Text(f"{value!r:.2000}")


# ---------------------------------------------------------------- what they are made of


def _what(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"{type(value).__name__}" + (
        f" of shape {tuple(shape)}" if shape is not None else f": {value!r:.60}"
    )


def _real(name: str, data: Any) -> torch.Tensor:
    """A tensor of real numbers, wherever it is."""
    if not isinstance(data, torch.Tensor):
        try:
            data = torch.as_tensor(data)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(f"{name} takes a tensor or an array, got {_what(data)}") from error
    if data.is_complex() or data.layout is not torch.strided or data.is_quantized or data.is_meta:
        if data.is_meta:
            why = "on the device 'meta', without values"
        else:
            why = f"of {data.dtype}, {data.layout}"
        raise ConfigError(f"{name} takes a dense tensor of real numbers, got one {why}")
    return data.detach()  # type: ignore[no-any-return]  # a tensor by now


def _host(name: str, data: Any) -> torch.Tensor:
    return _real(name, data).to("cpu", copy=True)


def _numbers(data: Any) -> Any:
    if isinstance(data, bool | int | float):
        return data
    if data is None or isinstance(data, str | bytes | Mapping):
        raise ConfigError(f"Value takes a number or an array of numbers, got {_what(data)}")
    tensor = _real("Value", data)
    if not tensor.numel():
        raise ConfigError(f"Value takes at least one number, got {_what(data)}")
    if tensor.numel() == 1:
        return tensor.item()
    return tensor.tolist()


def _within(name: str, tensor: torch.Tensor, low: float, high: float, remedy: str) -> None:
    if not bool(torch.isfinite(tensor).all()):
        raise ConfigError(f"{name}: there are values that are not finite; {remedy}")
    least, most = float(tensor.min()), float(tensor.max())
    if least < low or most > high:
        raise ConfigError(
            f"{name}: values must lie from {low:g} to {high:g}, got {least:g} to {most:g}; {remedy}"
        )


def _pixels(image: torch.Tensor, range_: tuple[float, float] | None) -> torch.Tensor:
    """Bytes of shape (channels, height, width)."""
    _check_picture(image)
    if image.ndim == 2:
        image = image[None]
    if range_ is not None:
        image = _rescale(image, range_)
    image = _bytes(image)
    if image.ndim == 4:
        image = _in_rows(image)
    return image.contiguous()


def _check_picture(image: torch.Tensor) -> None:
    shape = tuple(image.shape)
    has_channels = image.ndim == 2 or (image.ndim in (3, 4) and shape[-3] in (1, 3, 4))
    if has_channels and image.numel():
        return
    hint = ""
    if len(shape) in (3, 4) and shape[-1] in (1, 3, 4):
        order = {3: "(2, 0, 1)", 4: "(0, 3, 1, 2)"}[len(shape)]
        hint = f"; here the channels come last: use .permute{order}"
    raise ConfigError(
        "Image takes the shape (height, width), (channels, height, width) or (pictures,"
        f" channels, height, width), with 1, 3 or 4 channels; got {shape}{hint}"
    )


def _rescale(image: torch.Tensor, range_: tuple[float, float]) -> torch.Tensor:
    low, high = range_
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(
            f"Image: range must be two finite numbers, the lower one first, got {range_!r}"
        )
    finite = image.double().nan_to_num(nan=low, posinf=high, neginf=low)
    return ((finite - low) / (high - low)).clamp(0, 1)


def _bytes(image: torch.Tensor) -> torch.Tensor:
    remedy = "say which values are black and white: Image(data, range={})"
    if image.dtype is torch.bool:
        return image.to(torch.uint8) * 255
    if image.is_floating_point():
        _within("Image", image, 0.0, 1.0, remedy.format("(-1.0, 1.0)"))
        return (image.double() * 255).round().to(torch.uint8)
    if image.dtype is not torch.uint8:
        _within("Image", image, 0, 255, remedy.format("(0, 65535)"))
    return image.to(torch.uint8)


def _in_rows(images: torch.Tensor) -> torch.Tensor:
    """Several pictures as one, row by row, about as many rows as columns."""
    n, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    whole = torch.zeros(rows * columns, channels, height, width, dtype=images.dtype)
    whole[:n] = images
    return (
        whole.reshape(rows, columns, channels, height, width)
        .permute(2, 0, 3, 1, 4)
        .reshape(channels, rows * height, columns * width)
    )


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[printable(f"{prefix}{name}")] = _setting(value)
    return flat


def _setting(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_meta:
        return value.item()
    return str(getattr(value, "__qualname__", None) or f"{value!r:.200}")
