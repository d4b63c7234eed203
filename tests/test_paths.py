"""Generated paths: they cover what they say, run as the lifecycle does, and notice changes of the table."""

import pytest

import statetrain as st
from statetrain import Lifecycle, State, Transition
from statetrain.testing import paths

RICH = st.supervised(
    accumulate=2,
    validate=st.Every(2, "steps"),
    non_finite="skip",
    stop=st.EarlyStopping(),
    check_gradients=True,
)
LIVES = {
    "supervised": st.supervised(),
    "rich": RICH,
    "two optimizers": st.supervised(optimizers=2),
    "evaluation": st.evaluation(),
    "prediction": st.prediction(),
}


@pytest.mark.parametrize("path", paths(RICH), ids=str)
def test_the_standard_lifecycle_goes_the_generated_ways(path):
    """Along each path, with few and with many guards holding, states, hooks and guards come as the table says."""
    path.check()


@pytest.mark.parametrize("name", LIVES)
@pytest.mark.parametrize("cover", ["states", "transitions", "pairs"])
def test_paths_cover_what_they_say(name, cover):
    """Every state, every transition, or every pair of transitions that can follow each other, is on some path; each path ends."""
    life = LIVES[name]
    found = paths(life, cover)
    taken = {t for path in found for t in path.transitions}
    if cover == "states":
        assert {scope for t in taken for scope in life.path(t.dest)} >= set(life.names)
    else:
        assert taken >= set(life.transitions)
    assert all(path.states[-1] == "failed" or life.state(path.states[-1]).final for path in found)
    assert len({path.transitions for path in found}) == len(found)


def test_a_path_reads_like_a_sentence():
    """The id of a path says what it reaches, over which states and by which guard."""
    assert "reaches failed: batch > pred > loss [loss not finite]" in [
        str(path) for path in paths(st.supervised())
    ]


def test_bounds_keep_a_guard_from_holding():
    """A bound of 0 keeps every path off the arrow; what can then not be covered is named."""
    with pytest.raises(st.LifecycleError, match=r"more epochs.*give larger bounds"):
        paths(st.supervised(), bounds={"more epochs": 0})
    with pytest.raises(
        st.LifecycleError, match="no guard is called 'more epoch'; did you mean 'more epochs'"
    ):
        paths(st.supervised(), bounds={"more epoch": 1})


def test_a_difference_is_shown_where_it_begins():
    """The error of a path names the step, what went before, what was expected and what came."""
    life = st.supervised(non_finite="skip")
    other = life.alter(life.between("loss", "next_batch")[0], dest="record")
    path = next(p for p in paths(life) if "loss not finite" in str(p))
    with pytest.raises(
        AssertionError, match=r"(?s)expected: do .*refuse_batch.*got:      exit train"
    ):
        path.check(other)


def test_paths_work_for_a_lifecycle_of_ones_own():
    """A small own lifecycle with an event is covered and checked like the standard one."""

    def work(ctx):
        "work"

    life = Lifecycle(
        "own",
        [State("a", work), State("b", work, "a"), State("z", final=True)],
        [
            Transition("a", "b"),
            Transition("b", "a", st.guard(lambda ctx: True)),
            Transition("b", "z"),
            Transition("a", "z", event=st.StopFit),
        ],
    )
    found = paths(life)
    assert {t for p in found for t in p.transitions} >= set(life.transitions)
    for path in found:
        path.check()


@pytest.mark.parametrize("arrow", [("next_epoch", "epoch"), ("draw", "valid"), ("train", "valid")])
def test_a_guard_of_the_same_label_is_another_one(arrow):
    "Its parameters or its function count too: of arrows on events as of others."
    life = st.supervised()
    named = life.between(*arrow)[-1]
    for guard in (st.MinEpochs(7), any_time):
        mutant = life.alter(named, guard=guard.named(named.guard.label))
        noticed = 0
        for path in paths(life):
            path.check(st.supervised())
            try:
                path.check(mutant)
            except AssertionError as error:
                assert "is another one\n  expected: " in str(error)  # noqa: PT017  # some paths pass
                noticed += 1
        assert noticed


@st.guard
def any_time(ctx) -> bool:
    "at any time"
    return True
