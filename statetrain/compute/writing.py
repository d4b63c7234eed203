"""Writing predictions to a file batch by batch, so that they need no memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from attrs import define, field

from statetrain.errors import ConfigError, DataError

_ROOM = 256  # bytes of the file's beginning, which is written again when the shape is known


@define(eq=False)
class Writing:
    """Takes the predictions of batches, one after the other, and writes them to a `.npy` file.

    The file appears under its name when it is whole.

    Args:
        path: ends in `.npy`.

    Raises:
        ConfigError: the name ends otherwise, or its folder does not exist.
    """

    path: Path
    _file: Any = field(default=None, init=False)
    _dtype: Any = field(default=None, init=False)
    _shape: tuple[int, ...] = field(default=(), init=False)
    _rows: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        if self.path.suffix != ".npy":
            raise ConfigError(f"out={str(self.path)!r}: predictions are written to a .npy file")
        if not self.path.parent.is_dir():
            raise ConfigError(f"out={str(self.path)!r}: there is no folder {self.path.parent}")

    @property
    def _unfinished(self) -> Path:
        return self.path.with_name(f".{self.path.name}.{os.getpid()}.part")

    def append(self, part: Any) -> None:
        """Writes the prediction of a batch.

        Raises:
            DataError: it is not a tensor, or not like those before.
        """
        if not isinstance(part, torch.Tensor) or not part.ndim:
            raise DataError(
                f"out= takes predictions that are tensors with one row a sample, got a"
                f" {type(part).__name__}; name the part to write with pred="
            )
        try:
            array = part.detach().cpu().numpy()
        except TypeError as error:
            raise DataError(
                f"out= cannot write {part.dtype}, which numpy does not have; convert the prediction"
                " with compute=, for example to float32"
            ) from error
        if self._file is None:
            self._file = self._unfinished.open("wb")
            self._file.write(bytes(_ROOM))
            self._dtype, self._shape = array.dtype, array.shape[1:]
        if (array.dtype, array.shape[1:]) != (self._dtype, self._shape):
            raise DataError(
                f"predictions of shape {tuple(array.shape)} and type {array.dtype} cannot follow"
                f" rows of shape {self._shape} and type {self._dtype} in one file"
            )
        self._file.write(array.tobytes())
        self._rows += len(array)

    def joined(self) -> torch.Tensor:
        """All of them, mapped from the file; they are read as they are used."""
        import numpy as np

        self._file.seek(0)
        self._file.write(_header(np.dtype(self._dtype), (self._rows, *self._shape)))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._unfinished.replace(self.path)
        return torch.from_numpy(np.load(self.path, mmap_mode="r+"))

    def close(self) -> None:
        """Removes what was not finished."""
        if self._file is not None and not self._file.closed:
            self._file.close()
            self._unfinished.unlink(missing_ok=True)


def _header(dtype: Any, shape: tuple[int, ...]) -> bytes:
    """The beginning of a `.npy` file of version 1.0, filled up to the room that was left for it."""
    from numpy.lib.format import dtype_to_descr

    words = {"descr": dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    text = repr(words).ljust(_ROOM - 11) + "\n"
    return b"\x93NUMPY\x01\x00" + (_ROOM - 10).to_bytes(2, "little") + text.encode("latin1")
