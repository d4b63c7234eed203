"""Path keys: how parts of anything are named."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from statetrain.keys import get, getter, parse


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


@pytest.mark.parametrize("path", [".a", "a..b", "a.", "a[", "a[]", "a[b]", "a b", "a-b", "a[0]b", "a.[0]", "a[1.5]"])
def test_what_is_no_path_is_refused(path):
    "An error shows the part that cannot be read and how a path is written."
    with pytest.raises(ValueError, match=r"is no path: cannot read .* write it like 'batch\.image' or 'batch\[0\]'"):
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
    with pytest.raises(ValueError, match="is no path"):
        getter("a..b")
