"""Path keys: how parts of anything are named."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from statetrain.context import keys
from statetrain.context.keys import (
    Named,
    Wild,
    filter,  # noqa: A004  # the function under test
    flatten,
    get,
    getter,
    parse,
    unflatten,
    written,
)  # their own names


class Point(NamedTuple):
    x: int
    y: int


class Thing:
    def __init__(self):
        self.name = "thing"
        self.parts = [{"size": 3}, Point(1, 2)]


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("batch", ("batch",)),
        ("batch.image", ("batch", "image")),
        ("batch[0]", ("batch", 0)),
        ("history[-1].valid_loss", ("history", -1, "valid_loss")),
        ("[2]", (2,)),
        ("[0][1].a_b2", (0, 1, "a_b2")),
        ("layers.0.weight", ("layers", 0, "weight")),
        ("a['with space.and dot'].b", ("a", "with space.and dot", "b")),
        ('a["b"]', ("a", "b")),
        ("", ()),
    ],
)
def test_paths_are_read(path, parts):
    "Names, positions and quoted names, in any order."
    assert parse(path) == parts


@pytest.mark.parametrize(
    "path", [".a", "a..b", "a.", "a[", "a[]", "a[b]", "a b", "a-b", "a[0]b", "a.[0]", "a[1.5.2]"]
)
def test_what_is_no_path_is_refused(path):
    "An error shows the part that cannot be read and how a path is written."
    with pytest.raises(
        ValueError,
        match=r"is not a path: cannot read .* write it like 'batch\.image' or 'batch\[0\]'",
    ):
        parse(path)


def test_items_first_then_attributes():
    "A name is an item of a mapping, a field of a named tuple, an attribute of anything else; an empty path is the thing itself."
    thing = Thing()
    root = {"thing": thing, "items": {"keys": 5}}
    assert get(root, "thing.name") == "thing"
    assert get(root, "thing.parts[0].size") == 3
    assert get(root, "thing.parts[1].y") == 2
    assert get(root, "thing.parts[-1][0]") == 1
    assert get(root, "items.keys") == 5
    assert get(thing, "") is thing
    module = torch.nn.Sequential(torch.nn.Linear(1, 1))
    assert get(module, "0.weight") is module[0].weight
    assert get(torch.arange(3), "shape[0]") == 3


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("thing.nam", "'thing.nam': a Thing has no 'nam'; did you mean 'name'"),
        ("thingg", "a dict has no 'thingg'; did you mean 'thing'"),
        ("thing.parts[2]", "a list has no 2; it has 2 items, counted from 0"),
        ("thing.parts[1].z", "a Point has no 'z'; known: x, y"),
        ("thing.parts.append", "a list has no 'append'; it has 2 items"),
        ("values", "a dict has no 'values'; known: thing"),
    ],
)
def test_what_is_not_there_is_named(path, message):
    "The error names the whole path, the part that is missing, and what is near; methods of containers are no parts."
    with pytest.raises(KeyError) as caught:
        get({"thing": Thing()}, path)
    assert message in caught.value.args[0]


def test_a_getter_is_parsed_once():
    "getter refuses a bad path when it is made, and reads a good one from many roots."
    take = getter("a[0]")
    assert take({"a": [1]}) == 1
    assert take({"a": (2,)}) == 2
    with pytest.raises(KeyError, match=r"'a\[0\]': a dict has no 'a'"):
        take({})
    with pytest.raises(ValueError, match="is not a path"):
        getter("a..b")


# ---------------------------------------------------------------- slices, wildcards, optional paths


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("a[1:2].*.b", ("a", slice(1, 2), Wild.ONE, "b")),
        ("**.bias", (Wild.ANY, "bias")),
        (
            "t[..., :, :1, 7:9, ::-1, None]",
            ("t", (..., slice(None), slice(None, 1), slice(7, 9), slice(None, None, -1), None)),
        ),
        ("t[1,]", ("t", (1,))),
        ("t[ 10 : 2 : -1  ]", ("t", slice(10, 2, -1))),
        (r"a['it\'s']", ("a", "it's")),
        ("a['0'].größe", ("a", "0", "größe")),
        ("a['*']", ("a", "*")),
        ("batch.mask?", ("batch", "mask")),
    ],
)
def test_slices_wildcards_and_quotes_are_read_and_written(path, parts):
    "What was parsed is written so that it parses to the same."
    assert parse(path) == parts
    assert parse(written(parts)) == parts


@pytest.mark.parametrize(
    "path", ["a[...]", "a[None, x]", "a[1:2:3:4]", "a.***", "a[*]", "a['b]", "a?.b", "a[--1]", "?a"]
)
def test_what_is_no_slice_or_wildcard_is_refused(path):
    "A lone ellipsis, a name in brackets, a question mark in the middle."
    with pytest.raises(ValueError, match="is not a path: cannot read"):
        parse(path)


def test_parts_of_tensors():
    "A tensor is read by positions, slices and tuples of them, and by its attributes."
    root = {"pred": torch.arange(12).reshape(3, 4)}
    assert torch.equal(get(root, "pred[:, 0]"), torch.tensor([0, 4, 8]))
    assert torch.equal(get(root, "pred[-1][1:3]"), torch.tensor([9, 10]))
    assert get(root, "pred[..., 2:].T.shape") == (2, 3)


def test_none_is_nothing_at_any_depth():
    "A path that ends at None is missing as one that leads through None or to no name; optional, all three give None."
    root = {"mask": None, "batch": {"x": 1}}
    for path, words in (
        ("mask", "'mask' is None"),
        ("mask.inner", "'mask' is None, so it has no 'inner'"),
        ("batch.y", "a dict has no 'y'"),
        ("batch.x.z", "an int has no 'z'"),
    ):
        with pytest.raises(KeyError) as caught:
            get(root, path)
        assert words in caught.value.args[0]
        assert get(root, path + "?") is None
        assert get(root, path, default=5) == 5
    assert get(root, "batch.x?") == 1


def test_other_errors_than_missing_pass():
    "A property that raises is no missing part, also of an optional path."

    class Broken:
        @property
        def value(self):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        get({"a": Broken()}, "a.value?")


def test_wildcards_give_all_that_matches_by_concrete_path():
    "`*` is one level, `**` any number, and branches without the rest are left out."
    root = {"enc": {"w": 1, "b": {"w": 2}}, "dec": [{"w": 3}, {"v": 4}], "none": None}
    assert get(root, "*.w") == {"enc.w": 1}
    assert get(root, "**.w") == {"enc.w": 1, "enc.b.w": 2, "dec[0].w": 3}
    assert get(root, "dec.*") == {"dec[0]": {"w": 3}, "dec[1]": {"v": 4}}
    assert get(root, "dec.**") == {"dec[0].w": 3, "dec[1].v": 4}
    assert get(root, "dec[1:].*.v") == {"dec[1:][0].v": 4}
    assert get(root, "**.x?") is None
    assert filter(root, "**.x") == {}
    with pytest.raises(KeyError, match=r"'dec\.\*\.x' matches nothing; there are 0, 1"):
        get(root, "dec.*.x")
    with pytest.raises(KeyError, match="a dict has no 'dex'; did you mean 'dec'"):
        filter(root, "dex.*")


def test_a_circle_ends():
    "A structure that holds itself is gone through once."
    root = {"x": 1}
    root["self"] = root
    assert filter(root, "**.x") == {"x": 1, "self.x": 1}


def test_dotted_names_are_paths():
    "A mapping by dotted names is walked piece by piece: the longest name first, then into its value; a piece may be a group."
    names = Named({"enc": (10, 20), "enc.0.weight": 1, "enc.0.bias": 2, "dec.0.weight": 3})
    root = {"grads": names}
    assert get(root, "grads.enc.0.weight") == 1
    assert get(root, "grads['enc.0.weight']") == 1
    assert get(root, "grads.enc[1]") == 20
    assert get(root, "grads.dec") == {"0.weight": 3}
    assert get(root, "grads.dec[0]") == {"weight": 3}
    assert get(root, "grads.*") == {"grads.enc": (10, 20)}
    assert get(root, "grads.**.weight") == {"grads.enc.0.weight": 1, "grads.dec.0.weight": 3}
    assert get(root, "grads.enc.*.*") == {"grads.enc.0.weight": 1, "grads.enc.0.bias": 2}
    assert list(get(root, "grads.**")) == [
        "grads.enc",
        "grads.enc.0.weight",
        "grads.enc.0.bias",
        "grads.dec.0.weight",
    ]
    with pytest.raises(
        KeyError, match=r"'grads\.dek\.0': there is no 'dek\.0'; did you mean 'dec\.0'"
    ):
        get(root, "grads.dek.0")
    assert keys.set(root, "grads.dec.0.weight", 4) == ["grads.dec[0].weight"]
    assert keys.set(root, "grads.enc.**.bias", 5) == ["grads.enc.0.bias"]
    assert (names["dec.0.weight"], names["enc.0.bias"]) == (4, 5)
    with pytest.raises(KeyError, match="is a group of 1; set its parts"):
        keys.set(root, "grads.dec", 4)


# ---------------------------------------------------------------- setting


def test_setting_in_place():
    "Items of mappings, also new ones; positions of lists; attributes that are there; parts of tensors; all that a wildcard matches."
    thing = Thing()
    root = {"thing": thing, "list": [1, 2, 3], "tensor": torch.zeros(2, 2)}
    assert keys.set(root, "thing.name", "other") == ["thing.name"]
    assert keys.set(root, "thing.parts[0].new", 4) == ["thing.parts[0].new"]
    keys.set(root, "list[-1]", 9)
    keys.set(root, "tensor[:, 1]", 5.0)
    assert thing.name == "other"
    assert thing.parts[0] == {"size": 3, "new": 4}
    assert root["list"] == [1, 2, 9]
    assert root["tensor"].tolist() == [[0, 5], [0, 5]]
    assert keys.set(root, "list.*", 0) == ["list[0]", "list[1]", "list[2]"]
    assert root["list"] == [0, 0, 0]


@pytest.mark.parametrize(
    ("path", "error", "words"),
    [
        ("thing.nam", KeyError, "a Thing has no 'nam'; did you mean 'name'"),
        ("thng.name", KeyError, "a dict has no 'thng'; did you mean 'thing'"),
        ("thing.parts[1].x", TypeError, "a tuple cannot be changed"),
        ("thing.parts[7]", KeyError, "a list has no 7; it has 2 items"),
        ("thing.parts.size", KeyError, "a list has no 'size'"),
        ("", ValueError, "an empty path is the thing itself"),
    ],
)
def test_what_cannot_be_set_is_refused(path, error, words):
    "A misspelt attribute, a missing way, a tuple, a position that is not there, the thing itself."
    with pytest.raises(error) as caught:
        keys.set({"thing": Thing()}, path, 1)
    assert words in caught.value.args[0]


# ---------------------------------------------------------------- flat and nested, as laws

NESTED = st.recursive(
    st.integers() | st.text(max_size=3) | st.none(),
    lambda inner: (
        st.dictionaries(st.text(max_size=4), inner, max_size=3) | st.lists(inner, max_size=3)
    ),
    max_leaves=12,
)


@given(NESTED)
def test_flattening_loses_nothing(tree):
    "unflatten(flatten(x)) is x, for dicts with any names, lists and empty ones; and every path leads to its leaf."
    flat = flatten(tree)
    assert unflatten(flat) == tree
    for path, leaf in flat.items():
        assert get(tree, path, default=None) == leaf
    assert flatten(tree, "a.b") == flatten({"a": {"b": tree}})


@given(NESTED, st.data())
def test_what_was_set_is_got(tree, data):
    "get after set gives what was set, at every path there is; the rest stays."
    flat = flatten(tree)
    path = data.draw(st.sampled_from(sorted(flat)))
    if path == "":
        return
    assert keys.set(tree, path, "new value") == [path]
    assert get(tree, path) == "new value"
    assert flatten(tree) == {**flat, path: "new value"}


@given(NESTED, st.lists(st.sampled_from(["*", "**", "a", "[0]", "[1]"]), min_size=1, max_size=4))
def test_filter_agrees_with_get(tree, pieces):
    "Each concrete path that filter gives is read by get as the same thing, and `**` at the end gives the leaves that flatten gives."
    path = "".join(
        piece if piece.startswith("[") else ("." if i else "") + piece
        for i, piece in enumerate(pieces)
    )
    try:
        found = filter(tree, path)
    except KeyError:
        return  # what comes before the first wildcard is not there
    for concrete, value in found.items():
        assert get(tree, concrete) == value
    assert filter(tree, "**") == {
        path: leaf for path, leaf in flatten(tree).items() if leaf is not None
    }


KEYS = st.text(max_size=3) | st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False)


@given(st.dictionaries(KEYS, st.dictionaries(KEYS, st.integers(), max_size=3), max_size=4))
def test_keys_that_are_not_text_have_paths(tree):
    "Numbers, booleans and None between brackets; a mapping with an infinite key is a leaf."
    for path, leaf in flatten(tree).items():
        assert get(tree, path) == leaf
        assert written(parse(path)) == path


def test_a_path_is_text():
    "A clear error, where a key that is not text is asked for as a path."
    for wrong in (5, None, ("batch", "image"), b"batch"):
        with pytest.raises(TypeError, match=r"a path is text such as 'batch\.image', got"):
            get({}, wrong)


@given(NESTED, st.sampled_from(["/", "::", "-"]))
def test_flattening_with_a_separator(tree, separator):
    "Names are the parts, joined; what would be called the same is refused."
    joined = [separator.join(map(str, parse(path))) for path in flatten(tree)]
    if len(set(joined)) < len(joined):
        with pytest.raises(ValueError, match="two leaves are called"):
            flatten(tree, separator=separator)
        return
    assert list(flatten(tree, separator=separator)) == joined


def test_flattening_with_a_separator_and_back():
    "`unflatten` takes the same separator, and reads digits as positions."
    tree = {"batch": {"image": [1, {"x y": 2}], "size": 3}}
    flat = {"batch/image/0": 1, "batch/image/1/x y": 2, "batch/size": 3}
    assert flatten(tree, separator="/") == flat
    assert flatten(tree["batch"], "batch", separator="/") == flat
    assert unflatten(flat, separator="/") == tree


def test_objects_are_flattened_by_their_fields():
    "Dataclasses, named tuples and attrs values have parts; other objects are leaves; circles end."

    @dataclasses.dataclass
    class Batch:
        image: int
        extra: dict

    batch = Batch(1, {"p": Point(2, 3)})
    assert flatten(batch) == {"image": 1, "extra.p.x": 2, "extra.p.y": 3}
    thing = Thing()
    assert flatten({"a": thing}) == {"a": thing}
    assert flatten({"a": Named({"b.0": 1})}) == {"a.b.0": 1}


@pytest.mark.parametrize("flat", [{"a": 1, "a.b": 2}, {"a.b": 2, "a": 1}, {"": 1, "a": 2}])
def test_contradicting_paths_are_refused(flat):
    "A leaf has no parts."
    with pytest.raises(ValueError, match=r"leaf|whole"):
        unflatten(flat)
