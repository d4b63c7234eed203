"""The options of the standard lifecycle and the edits that they ask for: each stands once."""

from __future__ import annotations

import ast
import inspect
import sys
from typing import get_type_hints

import attrs
import pytest

import statetrain as st
from statetrain.lifecycle.state import State
from statetrain.standard.edits import EDITS, Edit
from statetrain.standard.fusing import fuse
from statetrain.standard.options import FitOptions, Options, SupervisedOptions, options_of
from statetrain.standard.supervised import edited
from statetrain.standard.table import TABLE


def fields() -> dict[str, attrs.Attribute]:
    return {field.name: field for field in attrs.fields(Options) if field.init}


def test_the_names_for_editors_are_those_of_the_options():
    "What `supervised` takes by name is what `Options` declares: names in order, and types."
    declared = get_type_hints(SupervisedOptions)
    assert set(declared) == set(fields())
    known = get_type_hints(Options)
    for name, kind in declared.items():
        if name != "evaluations":  # any mapping is taken, and kept as a dict
            assert kind == known[name], name


def test_fit_takes_what_it_does_not_find_out_by_itself():
    "The options of fit are those of supervised without what follows from data, model and optimizer."
    found_out = {
        "optimizers",
        "min_epochs",
        "seeded",
        "buffers",
        "by_count",
        "evaluations",
    }
    assert set(get_type_hints(SupervisedOptions)) - set(get_type_hints(FitOptions)) == found_out


def test_every_option_is_asked_for_by_an_edit():
    "Turning any option on changes the table, through an edit that is then on."
    for edit in EDITS:
        for example in edit.examples:
            names = {name: getattr(st, name) for name in st.__all__}
            given = eval(f"dict({example})", names)
            options = options_of(given)
            if "None" in example or "ignore" in example:
                continue
            assert edit.on(options), (edit.name, example)
            assert st.supervised(**given) != st.supervised()


def test_without_options_the_table_is_the_standard_one_with_its_defaults():
    "The defaults ask for two edits: validation, and the arrow for a loss that is not finite."
    assert [edit.name for edit in EDITS if edit.on(Options())] == ["validate", "non_finite"]
    assert edited(Options(validate=None, non_finite="ignore")) == TABLE


def test_an_unknown_option_gets_a_suggestion():
    "A slip in an option's name is found before anything is built."
    with pytest.raises(TypeError, match=r"no option 'acumulate'; did you mean 'accumulate'\?"):
        st.supervised(acumulate=2)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("check_gradients", 1),
        ("closure", None),
        ("prefetch", 2),
        ("compute", 3),
        ("finite_check", "soon"),
        ("max_steps", True),
        ("edits", [3]),
    ],
)
def test_each_option_is_checked(option, value):
    "A value of the wrong kind is refused with the option's name."
    with pytest.raises(st.ConfigError, match=option):
        st.supervised(**{option: value})


def surgery(ctx):
    "do surgery"


def test_an_edit_of_your_own_is_made_with_the_others():
    "It sees the table with the options, and what comes after it has its state."

    def operate(life):
        assert "backward" in life.names
        return life.insert(State("surgery", surgery), between=("backward", "step"))

    life = st.supervised(edits=operate, accumulate=2)
    assert life == operate(st.supervised(accumulate=2))
    fused = st.supervised(edits=[operate, fuse], non_finite="ignore")
    assert "surgery" in fused.state("update").action.stands_for


def test_an_edit_of_your_own_can_stand_anywhere_among_the_others():
    "The loop takes any tuple of edits: one before `accumulate` is under it."
    operate = Edit(
        "surgery",
        lambda options: options.accumulate > 1,
        lambda life, options: life.insert(State("surgery", surgery), between=("pred", "loss")),
    )
    life = edited(Options(accumulate=2), (operate, *EDITS))
    assert "surgery" in life.names
    assert edited(Options(), (operate, *EDITS)) == st.supervised()


def test_an_edit_that_returns_nothing_is_refused():
    "A forgotten return is named."
    with pytest.raises(st.ConfigError, match="must return a lifecycle, got NoneType"):
        st.supervised(edits=lambda life: None)


@pytest.mark.parametrize(
    ("word", "instead"),
    [
        ("max_epochs", r"write epochs="),
        ("lr", r"write opt_hparams=\{\"lr\": \.\.\.\}"),
        ("scheduler", r"write callbacks=\[LRScheduler"),
        ("epohcs", r"did you mean 'epochs'\?"),
        ("acumulate", r"did you mean 'accumulate'\?"),
    ],
)
def test_words_of_other_libraries_are_answered_with_ours(word, instead):
    "An argument that fit has not is refused before anything happens, with the one to write."
    with pytest.raises(TypeError, match=rf"fit\(\) has no argument '{word}'.*{instead}"):
        st.fit(None, None, **{word: 1})


def test_inputs_and_targets_apart_are_answered_with_the_call_to_write():
    "As scikit-learn and Keras take them."
    with pytest.raises(TypeError, match=r"fit\(model, \(inputs, targets\), loss="):
        st.fit(None, [1], [2])


def test_every_word_of_another_library_is_no_argument_here():
    "The table of foreign words has none of ours."
    from statetrain.training.setup.words import ELSEWHERE

    assert not set(ELSEWHERE) & set(inspect.signature(st.fit).parameters)


def test_fit_is_a_page():
    "At most thirty arguments by name, ten statements: each stage of set-up is a function."
    tree = ast.parse(inspect.getsource(sys.modules["statetrain.training.fitting"]))
    (fit,) = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert len(fit.args.args) + len(fit.args.kwonlyargs) <= 30
    assert len(fit.body) - 1 <= 10
