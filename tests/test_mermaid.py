"""Mermaid texts as Mermaid itself draws them, in a real browser: nothing covers a label.

Mermaid is 3.5 MB of JavaScript, so it is not kept here: `make mermaid` gets it from the npm registry. Without it, or without a
browser, these tests are skipped; what can be said of the texts alone is in test_diagram.py.
"""

from pathlib import Path

import pytest
from browser import needs_browser, open_browser

import statetrain as st
from statetrain import Lifecycle, State, Transition

MERMAID = Path(__file__).parent.parent / "node_modules/mermaid/dist/mermaid.min.js"
pytestmark = [
    needs_browser,
    pytest.mark.skipif(not MERMAID.exists(), reason="Mermaid is not there; `make mermaid` gets it"),
]

TWO_PHASES = (
    st.supervised()
    .prefixed("pre_")
    .then(
        st.supervised(
            optimizers=2,
            validate=st.Every(2, "steps"),
            non_finite="skip",
            stop=st.EarlyStopping("valid_loss", 2),
        )
    )
)
LIVES = {
    "supervised": st.supervised(),
    "accumulating": st.supervised(
        accumulate=2, validate=st.Every(4, "steps"), non_finite="skip", check_gradients=True
    ),
    "thirty-seven states": TWO_PHASES,
    "evaluation": st.evaluation(),
    "prediction": st.prediction(),
}


def work(ctx):
    'say: "a" & <b> # {c}; | `d` → end'


@st.guard
def odd(ctx):
    '50 % < x; y : "z" {end} [state]'
    return True


LIVES["hostile words"] = Lifecycle(
    "end",
    [State("state", work), State("note", work, "state"), State("end", final=True)],
    [
        Transition("state", "note"),
        Transition("note", "end", odd, work),
        Transition("note", "state"),
        Transition("state", "end", event=st.StopFit),
    ],
)

DRAW = """
const [text, done] = arguments;
mermaid.initialize({ startOnLoad: false });
mermaid.render("drawn", text).then(({ svg }) => {
  document.getElementById("out").innerHTML = svg;
  const boxes = (selector) => [...document.querySelectorAll(selector)]
    .map((e) => [e.textContent.trim(), e.getBoundingClientRect()])
    .filter(([text, r]) => text && r.width)
    .map(([text, r]) => [text, r.left, r.top, r.right, r.bottom]);
  done({ labels: boxes("g.edgeLabel"), states: boxes(".node"), titles: boxes(".cluster-label") });
}).catch((error) => done({ error: String(error) }));
"""


@pytest.fixture(scope="module")
def draw(tmp_path_factory):
    """Draws a text with Mermaid; gives the places of labels, states and titles of scopes."""
    folder = tmp_path_factory.mktemp("mermaid")
    page = folder / "page.html"
    page.write_text(
        f'<!DOCTYPE html><div id="out"></div><script src="{MERMAID.as_uri()}"></script>'
    )
    driver = open_browser(folder / "profile", "1800,1400")
    driver.get(page.as_uri())

    def draw(text: str) -> dict:
        found = driver.execute_async_script(DRAW, text)
        assert "error" not in found, f"{found['error']}\n{text}"
        return found

    try:
        yield draw
    finally:
        driver.quit()


def covers(one: list, other: list) -> bool:
    """Whether two boxes share more than their borders."""
    (_, a, b, c, d), (_, e, f, g, h) = one, other
    return a + 1 < g and e + 1 < c and b + 1 < h and f + 1 < d


@pytest.mark.parametrize("detail", ["full", "states"])
@pytest.mark.parametrize("name", LIVES)
def test_mermaid_covers_no_label(draw, name, detail):
    """Labels cover neither each other nor states nor titles of scopes, and every state is drawn."""
    life = LIVES[name]
    found = draw(life.mermaid(detail=detail))
    hidden = [
        (one[0], other[0])
        for i, one in enumerate(found["labels"])
        for other in (*found["labels"][i + 1 :], *found["states"], *found["titles"])
        if covers(one, other)
    ]
    assert hidden == []
    drawn = " ".join(text for text, *_ in (*found["states"], *found["titles"]))
    assert all(state in drawn for state in life.names)
