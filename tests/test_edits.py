"""The options of the standard lifecycle and the edits that they ask for: each stands once."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from typing import get_type_hints

import attrs
import pytest
import torch
from torch import nn

import statetrain as st
from statetrain.lifecycle.state import State
from statetrain.standard.edits import EDITS, Edit
from statetrain.standard.fusing import fuse
from statetrain.standard.options import (
    FitArguments,
    FitOptions,
    Options,
    SupervisedOptions,
    options_of,
)
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
        ("freeze", r"write callbacks=\[Freeze\("),
        ("validation_split", r"write valid=0.2"),
        ("warmup_steps", r"schedules.warm_up\("),
        ("log_every_n_steps", r"every=Every\("),
        ("load_best_model_at_end", r"KeepBest\("),
        ("training_step", r"write compute="),
        ("use_amp", r"write precision="),
        ("grad_accum", r"write accumulate="),
        ("output_dir", r"write callbacks=\[Checkpoint\("),
        ("stages", r"Freeze\(part, until=..., lr=...\)"),
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


def test_what_answers_mention_is_there():
    "Each name of ours in the tables of foreign words is public, or an argument of fit."
    from statetrain.training.setup.words import ELSEWHERE, NAMES

    public = {*st.__all__, *inspect.signature(st.fit).parameters, *FitArguments.__annotations__}
    for answer in (*ELSEWHERE.values(), *NAMES.values()):
        answer = re.sub(r"torch(\.\w+)+|torchrun|statetrain\.schedules", "", answer)
        mentioned = re.findall(r"(?<![\w.\"])([A-Za-z_]+)(?=\(|=)", answer)
        inner = {
            "batch_size",
            "weight",
            "every",
            "until",
            "lr",
            "start",
            "train",
            "scaler",
            "minutes",
            "patience",
        }
        assert {name for name in mentioned if name not in inner} <= public, answer
    assert not set(NAMES) & set(st.__all__)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Trainer", "here it is fit"),
        ("ModelCheckpoint", "did you mean 'Checkpoint'"),
        ("SAM", "sharpness_aware"),
    ],
)
def test_names_of_other_libraries_are_answered_with_ours(name, words):
    "Where a near name would mislead, or there is none."
    with pytest.raises(AttributeError, match=f"no attribute '{name}'.*{words}"):
        getattr(st, name)


def test_a_schedule_by_another_name_is_found():
    "As it is spelt here."
    with pytest.raises(AttributeError, match="no attribute 'warmup'; did you mean 'warm_up'"):
        _ = st.schedules.warmup


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"compute": lambda model, batch: None}, "takes a function of the context alone"),
        ({"valid_compute": lambda: None}, "takes a function of the context alone"),
        ({"opt_hparams": 1e-3}, "opt_hparams are arguments by name"),
        ({"optimizer": "adam"}, "for example optimizer=torch.optim.Adam"),
    ],
)
def test_first_guesses_are_answered(given, words):
    "Before anything is trained, in words and not by Python's error."
    arguments = {"loss": nn.functional.mse_loss, "optimizer": torch.optim.SGD, "valid": 0.5}
    with pytest.raises(st.ConfigError, match=words):
        st.fit(nn.Linear(1, 1), (torch.ones(4, 1), torch.ones(4, 1)), **{**arguments, **given})


def test_fit_is_a_page():
    "At most thirty arguments by name, ten statements: each stage of set-up is a function."
    tree = ast.parse(inspect.getsource(sys.modules["statetrain.training.fitting"]))
    (fit,) = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert len(fit.args.args) + len(fit.args.kwonlyargs) <= 30
    assert len(fit.body) - 1 <= 10
