"""Plain data and tensors, nested, as JSON and a flat dict of tensors; and back.

JSON has no tuples, no tensors, no NaN and no keys but strings. What it lacks is written as an
object with the key `"~"`, which says what it is: `{"~": "tuple", "items": [...]}`. The word is
looked up in the table below; a name in a file never becomes code. What cannot be written is refused
with the path to it and its type. What is read is not trusted.
"""

from __future__ import annotations

import base64
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Any

import torch
from attrs import Factory, define, frozen

from statetrain import jsons
from statetrain.compute.parts import is_part, local
from statetrain.errors import CheckpointError

PlainPath = tuple[str, ...]

_MARK = "~"
_DEEPEST = 60  # levels of nesting; Python's own limit is far above
# What a defaultdict may make, by name.
_FACTORIES: dict[str, Any] = {
    "None": None,
    "int": int,
    "float": float,
    "bool": bool,
    "str": str,
    "list": list,
    "dict": dict,
    "Counter": Counter,
}


@frozen(eq=False)
class ObjectState:
    """What an object with a state of its own is saved as; see `statetrain.checkpoints.objects`.

    Attributes:
        kind: the name of its class, which only an object of that class takes back.
        state: plain data and tensors.
        same_as: the path of the same object, if that is saved elsewhere already.
    """

    kind: str
    state: Any = None
    same_as: str = ""


# ---------------------------------------------------------------- writing


def encode(data: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """What JSON can hold, and the tensors by name.

    Tensors that share all of their memory are stored once. Those of which ranks hold parts are
    among them as they are; what writes them has to put them together.

    Args:
        data: None, bools, numbers, texts, bytes, tensors, numpy arrays and numbers; in lists,
            tuples, deques, and in dicts, OrderedDicts, defaultdicts of common classes, and
            Counters; and `ObjectState`.

    Raises:
        CheckpointError: something else is in it; the message names its path and its type.
    """
    writer = _Encoder()
    return writer.write(data, ()), writer.tensors


@define
class _Encoder:
    tensors: dict[str, torch.Tensor] = Factory(dict)
    names: dict[Any, str] = Factory(dict)  # of tensors, by the memory that they look at

    def write(self, value: Any, path: PlainPath) -> Any:
        if len(path) > _DEEPEST:
            raise CheckpointError(
                f"{_show_path(path)}: nested deeper than {_DEEPEST} levels, or within itself"
            )
        for kinds, write in _WRITERS:
            if isinstance(value, kinds):
                return write(self, value, path)
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic):
            return self._array(value, path, numpy)
        raise _refusal(value, path)

    def _float(self, value: float, path: PlainPath) -> Any:
        number = jsons.number(float(value))  # numpy's float64 is a float too
        if isinstance(number, str):
            return {_MARK: "float", "value": number}
        return number

    def _bytes(self, value: bytes, path: PlainPath) -> Any:
        return {_MARK: "bytes", "base64": base64.b64encode(value).decode()}

    def _list(self, value: list[Any], path: PlainPath) -> Any:
        if type(value) is not list:
            raise _refusal(value, path)
        return self._items(value, path)

    def _tuple(self, value: tuple[Any, ...], path: PlainPath) -> Any:
        if type(value) not in (tuple, torch.Size):
            raise _refusal(value, path)
        return {_MARK: "tuple", "items": self._items(value, path)}

    def _deque(self, value: deque[Any], path: PlainPath) -> Any:
        if type(value) is not deque:
            raise _refusal(value, path)
        return {_MARK: "deque", "items": self._items(value, path), "maxlen": value.maxlen}

    def _object(self, value: ObjectState, path: PlainPath) -> Any:
        state = self.write(value.state, path)
        return {_MARK: "object", "kind": value.kind, "same_as": value.same_as, "state": state}

    def _counter(self, value: Counter[Any], path: PlainPath) -> Any:
        return {_MARK: "counter", "items": self._pairs(value, path)}

    def _defaultdict(self, value: defaultdict[Any, Any], path: PlainPath) -> Any:
        for word, factory in _FACTORIES.items():
            if value.default_factory is factory:
                return {_MARK: "defaultdict", "of": word, "items": self._pairs(value, path)}
        raise CheckpointError(
            f"{_show_path(path)} is a defaultdict of {value.default_factory!r:.80}, which cannot be"
            f" saved; only those of {', '.join(_FACTORIES)} can"
        )

    def _dict(self, value: dict[Any, Any], path: PlainPath) -> Any:
        if isinstance(value, defaultdict):
            return self._defaultdict(value, path)
        if isinstance(value, OrderedDict):
            return {_MARK: "ordered", "items": self._pairs(value, path)}
        if type(value) is not dict:
            raise _refusal(value, path)
        if all(type(key) is str for key in value) and _MARK not in value:
            return {key: self.write(part, (*path, key)) for key, part in value.items()}
        return {_MARK: "dict", "items": self._pairs(value, path)}

    def _items(self, values: Iterable[Any], path: PlainPath) -> list[Any]:
        return [self.write(part, (*path, str(i))) for i, part in enumerate(values)]

    def _pairs(self, value: dict[Any, Any], path: PlainPath) -> list[Any]:
        return [
            [self.write(key, (*path, f"key {i}")), self.write(part, (*path, str(key)))]
            for i, (key, part) in enumerate(value.items())
        ]

    def _tensor(self, tensor: torch.Tensor, path: PlainPath) -> Any:
        why = _unfit(tensor)
        if why:
            raise CheckpointError(
                f"{_show_path(path)} is a {type(tensor).__name__} {why}, which cannot be saved"
            )
        if tensor.dtype is torch.complex128:
            return {
                _MARK: "complex",
                "name": self._named(torch.view_as_real(tensor.resolve_conj()), path),
            }
        return {_MARK: "tensor", "name": self._named(tensor, path)}

    def _named(self, tensor: torch.Tensor, path: PlainPath) -> str:
        memory = _memory_of(tensor)
        if memory not in self.names:
            name, n = ".".join(path) or "data", 2
            while name in self.tensors or name == "__metadata__":
                name, n = f"{'.'.join(path)}#{n}", n + 1
            self.names[memory], self.tensors[name] = name, tensor.detach()
        return self.names[memory]

    def _array(self, value: Any, path: PlainPath, numpy: Any) -> Any:
        try:
            tensor = torch.from_numpy(
                numpy.array(value, dtype=value.dtype.newbyteorder("="), order="C")
            )
        except TypeError:
            raise CheckpointError(
                f"{_show_path(path)} is a numpy {type(value).__name__} of {value.dtype}, which"
                " cannot be saved"
            ) from None
        kind = "scalar"
        if isinstance(value, numpy.ndarray):
            kind = "array"
        return {_MARK: kind, "name": self._tensor(tensor, path)["name"]}


def _memory_of(tensor: torch.Tensor) -> Any:
    """What two tensors have in common that look at the same memory in the same way."""
    held = local(tensor)
    if is_part(tensor) and not held.numel():
        return object()  # of empty parts it is not known; other ranks have the rest
    bits = (tensor.is_conj(), tensor.is_neg())
    shape = tuple(tensor.shape)
    return (tensor.device, tensor.dtype, held.data_ptr(), shape, tensor.stride(), bits)


# How a value is written, by its class; the first that fits.
_WRITERS: tuple[tuple[Any, Callable[[_Encoder, Any, PlainPath], Any]], ...] = (
    ((bool, str, type(None)), lambda writer, value, path: value),
    (torch.Tensor, _Encoder._tensor),
    (int, lambda writer, value, path: int(value)),
    (float, _Encoder._float),
    (bytes, _Encoder._bytes),
    (list, _Encoder._list),
    (tuple, _Encoder._tuple),
    (deque, _Encoder._deque),
    (ObjectState, _Encoder._object),
    (Counter, _Encoder._counter),
    (dict, _Encoder._dict),
)


def _refusal(value: Any, path: PlainPath) -> CheckpointError:
    return CheckpointError(
        f"{_show_path(path)} is a {type(value).__module__}.{type(value).__qualname__}, which cannot"
        " be saved; only None, bools, numbers, texts, bytes, tensors and arrays can, in lists,"
        " tuples and dicts"
    )


def _unfit(tensor: torch.Tensor) -> str:
    """Why a tensor cannot be written as numbers in a row; empty if it can."""
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) and not is_part(tensor):
        return "of a custom class"
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested:
        if tensor.is_quantized:
            quantized = ", quantized"
        else:
            quantized = ""
        return f"of layout {tensor.layout}{quantized}"
    if tensor.is_meta:
        return "on the device 'meta', without values"
    return ""


def _show_path(path: PlainPath) -> str:
    if path:
        return repr(".".join(path))
    return "the data itself"


# ---------------------------------------------------------------- reading


def decode(data: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """What `encode` was given. Tensors come on the CPU; those that were stored once are one object.

    Raises:
        CheckpointError: the data is not what `encode` writes.
    """
    return _decode(data, tensors, 0)


def _decode(data: Any, tensors: dict[str, torch.Tensor], depth: int) -> Any:
    if depth > 2 * _DEEPEST + 2:  # a tuple takes two levels of JSON
        raise CheckpointError("nested too deep")
    if isinstance(data, list):
        return [_decode(part, tensors, depth + 1) for part in data]
    if not isinstance(data, dict):
        return data
    if _MARK not in data:
        return {key: _decode(part, tensors, depth + 1) for key, part in data.items()}
    kind = data[_MARK]
    reader = None
    if isinstance(kind, str):
        reader = _READERS.get(kind)
    if reader is None:
        raise CheckpointError(f"unknown kind of data {kind!r:.80}")
    try:
        return reader(data, tensors, depth + 1)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"a {kind!r} cannot be read: {type(error).__name__}: {error}"
        ) from error


Tensors = dict[str, torch.Tensor]


def _read_tuple(data: Any, tensors: Tensors, depth: int) -> Any:
    return tuple(_decode(_list(data["items"]), tensors, depth))


def _read_deque(data: Any, tensors: Tensors, depth: int) -> Any:
    return deque(_decode(_list(data["items"]), tensors, depth), data["maxlen"])


def _read_object(data: Any, tensors: Tensors, depth: int) -> Any:
    state = _decode(data["state"], tensors, depth)
    return ObjectState(str(data["kind"]), state, str(data["same_as"]))


def _read_dict(data: Any, tensors: Tensors, depth: int) -> Any:
    return {
        _decode(key, tensors, depth): _decode(part, tensors, depth)
        for key, part in _list(data["items"])
    }


def _read_defaultdict(data: Any, tensors: Tensors, depth: int) -> Any:
    return defaultdict(_FACTORIES[data["of"]], _read_dict(data, tensors, depth))


def _read_ordered(data: Any, tensors: Tensors, depth: int) -> Any:
    return OrderedDict(_read_dict(data, tensors, depth))


def _read_counter(data: Any, tensors: Tensors, depth: int) -> Any:
    return Counter(_read_dict(data, tensors, depth))


# What an object with a mark stands for; each takes the object, the tensors and the depth.
_READERS: dict[str, Callable[[Any, Tensors, int], Any]] = {
    "tuple": _read_tuple,
    "deque": _read_deque,
    "object": _read_object,
    "dict": _read_dict,
    "counter": _read_counter,
    "defaultdict": _read_defaultdict,
    "ordered": _read_ordered,
    "float": lambda data, tensors, depth: jsons.NUMBERS[data["value"]],
    "bytes": lambda data, tensors, depth: base64.b64decode(data["base64"], validate=True),
    "tensor": lambda data, tensors, depth: tensors[data["name"]],
    "complex": lambda data, tensors, depth: torch.view_as_complex(tensors[data["name"]]),
    "array": lambda data, tensors, depth: tensors[data["name"]].numpy(),
    "scalar": lambda data, tensors, depth: tensors[data["name"]].numpy()[()],
}


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"items must be a list, got {type(value).__name__}")
    return value
