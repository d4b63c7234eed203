"""Patterns of states: what they match, and what a failure says."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statetrain.errors import LifecycleError
from statetrain.standard.supervised import supervised
from statetrain.testing import assert_trace, walk
from statetrain.trace import Trace

# The same examples each time, whatever the load
drawn = settings(derandomize=True, database=None, deadline=None)


def matches(states, pattern):
    try:
        assert_trace(states, pattern)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("a b", ["a b"], ["", "a", "b a", "a b b"]),
        ("a (b c)* d", ["a d", "a b c d", "a b c b c d"], ["a b d", "a c b d"]),
        ("a+", ["a", "a a"], ["", "b"]),
        ("a? b", ["b", "a b"], ["a", "a a b"]),
        ("a{2}", ["a a"], ["a", "a a a"]),
        ("a{1,3} b", ["a b", "a a a b"], ["b", "a a a a b"]),
        ("a{2,}", ["a a", "a a a a"], ["a"]),
        ("a{0,1} b{0}", ["", "a"], ["b"]),
        ("a|b c", ["a", "b c"], ["a c", "b"]),
        ("(a|b)+ c", ["a b a c"], ["c", "a b"]),
        ("(a|)b", ["a b", "b"], ["a"]),
        (". b", ["a b", "b b"], ["b", "a a b"]),
        ("... b", ["b", "a b", "b a b"], ["", "b a"]),
        ("a ... b ...", ["a b", "a c b c"], ["b a", "a c"]),
        ("...", ["", "a", "a b"], []),
        ("", [""], ["a"]),
        ("(a*)* b", ["b", "a a b"], ["a"]),
        ("(a b?)+", ["a", "a b a", "a a b"], ["b", "a b b"]),
        ("next_batch*draw", ["draw", "next_batch draw"], ["next_batch"]),
        ("a\n  b\n", ["a b"], ["a"]),
    ],
)
def test_what_patterns_match(pattern, yes, no):
    "Each sign means what it does in regular expressions, over states in place of letters."
    assert [states for states in yes if not matches(states.split(), pattern)] == []
    assert [states for states in no if matches(states.split(), pattern)] == []


# A pattern of one-letter states is, but for blanks, a regular expression.
PATTERNS = st.recursive(
    st.sampled_from(["a", "b", "c", "."]),
    lambda part: st.one_of(
        st.tuples(part, part).map(" ".join),
        st.tuples(part, part).map(lambda both: f"({both[0]}|{both[1]})"),
        st.tuples(part, st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{0,}"])).map(
            lambda both: f"({both[0]}){both[1]}"
        ),
    ),
    max_leaves=6,
)


@drawn
@given(PATTERNS, st.lists(st.sampled_from("abc"), max_size=6))
def test_against_regular_expressions(pattern, states):
    "A trace matches a pattern if and only if its letters match the same regular expression."
    assert matches(states, pattern) == bool(re.fullmatch(pattern.replace(" ", ""), "".join(states)))


@drawn
@given(PATTERNS, st.lists(st.sampled_from("abc"), max_size=6))
def test_where_a_trace_leaves_a_pattern(pattern, states):
    "What a failure says was expected would have been right there: some continuation of it matches, and what came does not."
    try:
        assert_trace(states, pattern)
    except AssertionError as error:
        after = int(re.search(r"after (\d+) of", str(error))[1])
        expected = re.search(r"expected  (.*)", str(error))[1].split(" or ")
        got = states[after] if after < len(states) else "the end"
        assert got not in expected
        assert ("any state" in expected) <= (got == "the end")
        for state in expected:
            if state == "the end":
                assert matches(states[:after], pattern)
            else:
                longer = [*states[:after], "a" if state == "any state" else state]
                later = [f"after {len(longer)} of {len(longer)}", None]
                assert failure(longer, pattern) in later


def failure(states, pattern):
    """Where a trace leaves a pattern, in the words of the failure; None if it does not."""
    try:
        assert_trace(states, pattern)
    except AssertionError as error:
        return re.search(r"after \d+ of \d+", str(error))[0]
    return None


def test_a_long_trace_is_read_in_one_pass():
    "A pattern in which many ways are open is no slower to read."
    assert_trace(["a"] * 5000, "(a|a)* (a* a*)* a{5}")


# ---------------------------------------------------------------- failures


def test_a_failure_shows_where_and_what():
    "The part that matched, what came, what was expected, what came after it, and the place in the pattern."
    with pytest.raises(AssertionError) as error:
        assert_trace(
            ["fit", "epoch", "draw", "loss", "end"], "fit epoch (draw (pred|batch) loss)* end"
        )
    assert str(error.value).splitlines() == [
        "the trace leaves the pattern, after 3 of 5 states",
        "  matched   fit epoch draw",
        "  got       loss",
        "  expected  batch or pred",
        "  then came end",
        "  pattern   fit epoch (draw (pred|batch) loss)* end",
        "                             ^^^^ ^^^^^",
    ]


def test_a_failure_at_the_end():
    "A trace that ends too early, and one that goes on."
    with pytest.raises(AssertionError) as error:
        assert_trace(["fit"], "fit (epoch|end)")
    assert "the trace ends before the pattern does, after 1 of 1 states" in str(error.value)
    assert "  got       the end of the trace\n  expected  end or epoch\n" in str(error.value)
    with pytest.raises(AssertionError) as error:
        assert_trace(["fit", "end", "end"], "fit end epoch?")
    assert "  got       end\n  expected  epoch or the end\n  pattern " in str(error.value)


def test_a_failure_at_the_first_state():
    "Nothing has matched yet."
    with pytest.raises(
        AssertionError, match="matched   nothing\n  got       fit\n  expected  epoch\n"
    ):
        assert_trace(["fit"], "epoch")


def test_a_long_trace_is_shortened():
    "A failure far into a run shows the beginning and the part before it."
    with pytest.raises(AssertionError) as error:
        assert_trace(["fit", *["draw", "batch"] * 100, "end"], "fit (draw batch)* record")
    assert (
        "matched   fit draw batch draw batch draw [189 more] draw batch draw batch draw batch\n"
        in str(error.value)
    )
    assert "expected  draw or record" in str(error.value)


def test_a_pattern_over_several_lines():
    "Its lines are shown as one, without marks, since the places have moved."
    with pytest.raises(AssertionError) as error:
        assert_trace(["fit"], "fit\n    epoch")
    assert str(error.value).endswith("  pattern   fit epoch")


def test_a_misspelt_state_without_a_lifecycle():
    "States that are nowhere in the trace are pointed out if one of a similar name is."
    with pytest.raises(
        AssertionError, match=re.escape("'bacth' is nowhere in the trace; did you mean 'batch'?")
    ):
        assert_trace(["draw", "batch"], "draw bacth")


def test_a_misspelt_state_with_a_lifecycle():
    "A trace that knows its lifecycle refuses names that no state of it bears, even where the pattern would match."
    trace = walk(supervised(validate=None))
    with pytest.raises(
        LifecycleError,
        match=re.escape(
            "the pattern names 'bacth': no state of 'supervised'; did you mean 'batch'?"
        ),
    ):
        assert_trace(trace, "... (draw bacth)? ...")


def test_states_that_another_option_brings():
    "States of options that are off may be named, and `failed` always."
    trace = walk(supervised(validate=None))
    assert_trace(trace, "fit next_epoch (valid | failed)? end")


def test_a_trace_and_its_states_are_read_alike():
    "A trace, its states as a list, and any other iterable of names."
    trace = walk(supervised())
    for states in (trace, trace.states, iter(trace.states), Trace(trace.transitions)):
        assert_trace(states, "fit next_epoch end")


def test_a_text_is_no_trace():
    "A text would be read letter by letter; the remedy is said."
    with pytest.raises(
        LifecycleError,
        match=re.escape("takes a trace or a list of states, got the text 'fit end'; split() it"),
    ):
        assert_trace("fit end", "fit end")


# ---------------------------------------------------------------- patterns that cannot be read


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(a b", "a group is not closed, at its end"),
        ("a b) c", "nothing opens this, at ') c'"),
        ("* a", "there is nothing before it to repeat, at '* a'"),
        ("a** b", "there is nothing before it to repeat, at '* b'"),
        ("a | {2}", "there is nothing before it to repeat, at '{2}'"),
        ("a{3,2}", "the second count is the larger one, at '{3,2}'"),
        ("[*] a", "this is no sign of a pattern, at '[*] a'"),
        ("a -> b", "this is no sign of a pattern, at '-> b'"),
        ("a{x}", "this is no sign of a pattern, at '{x}'"),
        ("a{,2}", "this is no sign of a pattern, at '{,2}'"),
    ],
)
def test_patterns_that_cannot_be_read(pattern, words):
    "The error shows the pattern, the place, and the signs that there are."
    with pytest.raises(LifecycleError) as error:
        assert_trace(["a"], pattern)
    assert f"pattern {pattern!r}: {words}; write names of states, ( ) | * + ? " in str(error.value)


def test_counts_that_multiply_beyond_reason():
    "Counts within counts are refused before they fill the memory."
    with pytest.raises(LifecycleError, match="multiply to more than 100000 states; use"):
        assert_trace(["a"], "((a{100}){100}){100}")
