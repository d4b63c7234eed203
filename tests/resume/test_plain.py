"""Plain data and tensors as JSON and back: everything comes back as it was, and nothing else is believed."""

import enum
import math
from collections import Counter, OrderedDict, defaultdict
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from statetrain import jsons
from statetrain.checkpoints import plain
from statetrain.errors import CheckpointError

NAN = float("nan")


def again(data: Any) -> Any:
    structure, tensors = plain.encode(data)
    return plain.decode(jsons.loads(jsons.to_bytes(structure)), tensors)


@pytest.mark.parametrize(
    "data",
    [
        None,
        True,
        -(10**30),
        0.1 + 0.2,
        5e-324,
        -0.0,
        math.inf,
        -math.inf,
        "läuft ✓ \ud800 \x00",
        b"\x00\xff",
        [],
        (),
        [1, (2, [3, ()])],
        {"a": {"b": 1}},
        {1: "one", None: "none", (1, "x"): 2.5, False: 0},
        {"~": "tuple", "items": []},
        Counter({3: 2, 5: 1}),
        {"": "", "a.b": 1},
    ],
    ids=lambda data: repr(data)[:30],
)
def test_plain_data_comes_back_as_it_was(data: Any) -> None:
    """Value and type, down to the sign of zero, and whatever the keys."""
    back = again(data)
    assert repr(back) == repr(data)
    assert type(back) is type(data)


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=5) | st.integers() | st.just("~"), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(derandomize=True, database=None, deadline=None, max_examples=200)
@given(plain_values)
def test_any_nesting_comes_back_as_it_was(data: Any) -> None:
    """Whatever is nested in whatever."""
    assert repr(again(data)) == repr(data)


DTYPES = [
    *(
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.complex64,
        torch.complex128,
        torch.bool,
    ),
    *(
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.uint16,
        torch.uint32,
        torch.uint64,
    ),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_come_back_bit_for_bit(dtype: torch.dtype) -> None:
    """Of every type of numbers, and of no dimension, no element, and odd strides."""
    base = torch.arange(24).reshape(2, 3, 4).to(dtype)
    for tensor in (
        base,
        base[0, 0, 0],
        base[:0],
        base.transpose(0, 2),
        base[:, ::2],
        base[:1].expand(5, 3, 4),
    ):
        back = again({"t": tensor})["t"]
        assert back.dtype is dtype
        assert back.shape == tensor.shape
        assert torch.equal(back, tensor)


def test_parameters_gradients_and_conjugates_are_stored_by_value() -> None:
    """What comes back is a plain tensor without history."""
    weight = torch.nn.Parameter(torch.ones(2))
    back = again(
        [weight, weight * 2, torch.tensor([1 + 2j]).conj(), torch.tensor([1 + 2j]).conj().imag]
    )
    assert [type(tensor) for tensor in back] == [torch.Tensor] * 4
    assert not any(tensor.requires_grad for tensor in back)
    assert [tensor.tolist() for tensor in back] == [[1, 1], [2, 2], [1 - 2j], [-2]]


def test_tied_tensors_are_stored_once() -> None:
    """Names that look at the same memory in the same way share their bytes; another view of it is a tensor of its own."""
    tensor = torch.arange(6.0)
    structure, tensors = plain.encode({"one": tensor, "two": tensor.detach(), "half": tensor[:3]})
    assert sorted(tensors) == ["half", "one"]
    back = plain.decode(structure, tensors)
    assert back["one"] is back["two"]
    assert torch.equal(back["half"], tensor[:3])


def test_names_of_tensors_are_their_paths_and_never_collide() -> None:
    """A person who opens the file finds `model.weight`."""
    data = {"a": {"b": torch.zeros(1)}, "a.b": torch.ones(1), "__metadata__": torch.full((1,), 2.0)}
    structure, tensors = plain.encode(data)
    assert list(tensors) == ["a.b", "a.b#2", "__metadata__#2"]
    assert plain.decode(structure, tensors)["a.b"].item() == 1.0
    assert plain.decode(structure, tensors)["__metadata__"].item() == 2.0


def test_numpy_comes_back_as_numpy() -> None:
    """Arrays and numbers, in this machine's byte order; a float64 is a float."""
    data = [
        np.arange(6, dtype=">i4").reshape(2, 3),
        np.float32(0.1),
        np.uint8(7),
        np.float64(0.1),
        np.array(True),
        np.zeros((0, 2)),
    ]
    back = again(data)
    assert all(
        np.array_equal(new, old) and np.shape(new) == np.shape(old)
        for new, old in zip(back, data, strict=True)
    )
    assert [type(value) for value in back] == [
        np.ndarray,
        np.float32,
        np.uint8,
        float,
        np.ndarray,
        np.ndarray,
    ]


class Colour(enum.Enum):
    RED = 1


class Pair(NamedTuple):
    a: int
    b: int


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (lambda: 1, "builtins.function"),
        (object(), "builtins.object"),
        (Colour.RED, "Colour"),
        (Pair(1, 2), "Pair"),
        ({1, 2}, "builtins.set"),
        (np.array([object()]), "numpy ndarray of object"),
        (np.array(["text"]), "numpy ndarray of <U4"),
        (torch.zeros(2).to_sparse(), "torch.sparse_coo"),
        (torch.zeros(2, device="meta"), "'meta'"),
        (torch.nn.UninitializedParameter(), "UninitializedParameter of a custom class"),
        (CYCLE, "deeper than 60"),
        (torch.float32, "torch.dtype"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_cannot_be_saved_is_refused_with_its_path_and_type(value: Any, named: str) -> None:
    """The error says where in the data it is, and what."""
    with pytest.raises(CheckpointError) as caught:
        plain.encode({"callbacks": [{"state": value}]})
    assert str(caught.value).startswith("'callbacks.0.state")
    assert named in str(caught.value)


def test_an_ordered_dict_comes_back_as_one() -> None:
    """Order and class are kept."""
    back = again(OrderedDict([("b", 1), ("a", 2)]))
    assert list(back.items()) == [("b", 1), ("a", 2)]
    assert type(back) is OrderedDict


@pytest.mark.parametrize("factory", [None, int, float, bool, str, list, dict, Counter])
def test_a_defaultdict_comes_back_as_one(factory: Any) -> None:
    """What makes its missing values is kept: a missing key is the same afterwards as before."""
    before = defaultdict(factory, {1: [2], "x": 3})
    back = again(before)
    assert type(back) is defaultdict
    assert back == before
    assert back.default_factory is factory


def test_a_dict_that_would_come_back_as_another_class_is_refused() -> None:
    """A custom class of dicts, and a defaultdict of a custom function, cannot be made again."""

    class Mine(dict[str, int]):
        pass

    with pytest.raises(CheckpointError, match=r"'x' is a .*Mine, which cannot be saved"):
        again({"x": Mine(a=1)})
    with pytest.raises(CheckpointError, match=r"'x' is a defaultdict of <function.* only those of"):
        again({"x": defaultdict(lambda: 1)})


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}',
        '{"x": {"a": 1, "b": 2, "a": 1}}',
        "[NaN]",
        "[Infinity]",
        "[-Infinity]",
        "[1e999]",
        "[" * 100_000,
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 5_000 + "1" + "}" * 5_000,
        "1" * 10_000,
        "{",
        "",
        "'a'",
        "\x00",
    ],
    ids=lambda text: text[:20],
)
def test_json_is_read_strictly(text: str) -> None:
    """Keys that are there twice, numbers that are none, bottomless nesting: a ValueError each, at once."""
    with pytest.raises(ValueError, match=r"."):
        jsons.loads(text.encode())


def test_json_that_is_no_text_is_refused() -> None:
    """Bytes that are no UTF-8 are a ValueError too."""
    with pytest.raises(ValueError, match="utf-8"):
        jsons.loads(b'"\xff"')


@pytest.mark.parametrize(
    "data",
    [
        {"~": "object", "class": "os.system"},
        {"~": "tuple"},
        {"~": "tuple", "items": "ab"},
        {"~": "tuple", "items": {"a": 1}},
        {"~": "dict", "items": [[1]]},
        {"~": "dict", "items": [[[], 1]]},
        {"~": "counter", "items": 3},
        {"~": "float", "value": "1e5"},
        {"~": "float", "value": ["nan"]},
        {"~": "bytes", "base64": "%%%"},
        {"~": "bytes", "base64": 3},
        {"~": "tensor", "name": "missing"},
        {"~": "tensor", "name": ["t"]},
        {"~": "complex", "name": "t"},
        {"~": "array", "name": None},
        {"~": None},
        {"~": ["tuple"]},
    ],
    ids=str,
)
def test_data_that_encode_does_not_write_is_refused(data: Any) -> None:
    """A kind that is unknown, a part that is missing or of the wrong type: an error, and nothing is looked up by name."""
    with pytest.raises(CheckpointError):
        plain.decode([data], {"t": torch.zeros(3)})


def test_nesting_that_json_allows_and_encode_does_not_is_refused() -> None:
    """A file cannot drive the reader into Python's limit."""
    data: Any = 1
    for _ in range(200):
        data = {"~": "tuple", "items": [data]}
    with pytest.raises(CheckpointError, match="nested too deep"):
        plain.decode(data, {})
