"""Arguments that cannot be are refused alike everywhere."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

import statetrain as st
from statetrain.validators import check_switches, check_whole, check_word, is_number

ODD = some.one_of(
    some.none(), some.booleans(), some.floats(), some.text(max_size=3), some.lists(some.integers())
)


@given(value=some.integers(), least=some.integers(-5, 5))
def test_whole_numbers_are_taken_from_the_least_one_on(value: int, least: int) -> None:
    """An int passes if it is not below the least one; the message has both."""
    if value >= least:
        check_whole("x: n", value, least)
        return
    with pytest.raises(st.ConfigError, match=f"x: n must be a whole number of at least {least}, "):
        check_whole("x: n", value, least)


@given(value=ODD)
def test_what_is_no_int_is_no_whole_number(value: Any) -> None:
    """Truth values, floats, texts, lists and None are refused, with the error that was asked for."""
    with pytest.raises(KeyError, match="x must be a whole number of steps of at least 0, or so"):
        check_whole("x", value, 0, of="steps", also=", or so", error=KeyError)


def test_true_is_no_number() -> None:
    """NaN and infinity are numbers, True and texts are not."""
    assert is_number(1)
    assert is_number(math.nan)
    assert not is_number(True)
    assert not is_number("1")


@pytest.mark.parametrize("value", ["nwo", 1, 0, None, ["now"], math.nan])
def test_a_word_is_one_of_the_words_themselves(value: Any) -> None:
    """What equals True is not True; what cannot be hashed is refused like all else."""
    with pytest.raises(st.ConfigError, match="x must be one of True, 'now', got "):
        check_word("x", value, (True, "now"))
    check_word("x", True, (True, "now"))
    check_word("x", "now", (True, "now"))


def test_the_nearest_word_is_suggested() -> None:
    """A slip gets a suggestion; a word that is near to none gets the list alone."""
    with pytest.raises(st.ConfigError, match=r"got 'nwo'; did you mean 'now'\?$"):
        check_word("x", "nwo", ("now", "late"))
    with pytest.raises(st.ConfigError, match=r"must be one of 'now', 'late', got 'qqqq'$"):
        check_word("x", "qqqq", ("now", "late"))


@pytest.mark.parametrize("value", [0, 1, None, "yes", "False"])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda v: st.EMA(valid=v), "EMA: valid"),
        (lambda v: st.EMA(restore=v), "EMA: restore"),
        (lambda v: st.EMA(buffers=v), "EMA: buffers"),
        (lambda v: st.Mixup(valid=v), "Mixup: valid"),
        (lambda v: st.Checkpoint("c", at_end=v), "Checkpoint: at_end"),
        (lambda v: st.Checkpoint("c", preflight=v), "Checkpoint: preflight"),
        (lambda v: st.Checkpoint("c", background=v), "Checkpoint: background"),
        (lambda v: st.SaveWeights("w", "valid_loss", best_only=v), "SaveWeights: best_only"),
        (lambda v: st.KeepBest(cpu=v), "KeepBest: cpu"),
        (lambda v: st.CSVLogger("r", append=v), "CSVLogger: append"),
        (lambda v: st.JSONLines("r", append=v), "JSONLines: append"),
        (lambda v: st.Log(timestamps=v), "Log: timestamps"),
        (lambda v: st.Tracing(times=v), "Tracing: times"),
        (lambda v: st.Tracing(counters=v), "Tracing: counters"),
        (lambda v: st.Machine(st.supervised(), debug=v), "Machine: debug"),
        (lambda v: st.supervised(prefetch=v), "prefetch"),
        (lambda v: st.load_checkpoint(None, "c", average=v), "load_checkpoint: average"),
        (lambda v: st.predict(None, [], stack=v), "predict: stack"),
    ],
)
def test_a_switch_is_true_or_false(make: Callable[[Any], Any], name: str, value: Any) -> None:
    """A word such as "False", which Python takes for true, is refused where it is given."""
    with pytest.raises(st.ConfigError, match=f"^{name} must be True or False, got {value!r}"):
        make(value)


@pytest.mark.parametrize("name", ["debug", "verbose", "start"])
def test_the_switches_of_fit(name: str) -> None:
    """`fit` refuses them before it looks at anything else."""
    with pytest.raises(st.ConfigError, match=f"^{name} must be True or False, got 'no'"):
        st.fit(None, None, **{name: "no"})


def test_switches_are_checked_by_name() -> None:
    """The first that is wrong is named; a function of the user's needs no owner."""
    check_switches("", one=True, two=False)
    with pytest.raises(st.ConfigError, match=r"^two must be True or False, got 3"):
        check_switches("", one=True, two=3)
