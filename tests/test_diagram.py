"""Pictures of lifecycles: what they show, where it stands, and that no label can break them."""

import itertools
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import pytest
from attrs import frozen
from hypothesis import given, settings
from strategies import lifecycles

from statetrain.diagram import dot, draw, mermaid, stale_pictures, svg, write_pictures
from statetrain.diagram.layout import Placement
from statetrain.diagram.measure import LINE, width_of
from statetrain.diagram.showing import picture
from statetrain.diagram.theme import NAME, WORDS, theme_of
from statetrain.errors import ConfigError
from statetrain.events import SkipBatch, SkipEpoch, StopFit
from statetrain.guards.base import Guard
from statetrain.guards.counters import Every
from statetrain.guards.history import EarlyStopping
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import State
from statetrain.lifecycle.transition import Transition
from statetrain.standard.looping import evaluation, prediction
from statetrain.standard.supervised import supervised
from statetrain.testing import walk
from statetrain.trace import Trace

STANDARD = {
    "supervised": supervised(),
    "everything": supervised(
        stop=EarlyStopping("valid_loss", 5),
        non_finite="skip",
        accumulate=4,
        validate=Every(100, "steps"),
        check_gradients=True,
    ),
    "alternating": supervised(optimizers=2, non_finite="stop"),
    "evaluation": evaluation(),
    "prediction": prediction(),
}
HOSTILE = [
    *(
        'a "quoted" \\ back\\slash',
        "[x] {y} <z> |w|",
        "# heading; semi:colon ::: x",
        "c --> d",
        "<script>alert(1)</script>",
        "direction TB",
    ),
    *(
        "1. list",
        "- item",
        "* star *em* _em_ `code`",
        "two\nlines\r\n\u2028and more",
        "end",
        "}",
        "{",
        "&amp; &lt; #35; #quot;",
        "[*] --> x",
    ),
    *(
        "%% comment %%{init: {}}%%",
        "$$x^2$$",
        "www.example.com http://a.b",
        "[x](y)",
        "<<choice>>",
        "\x00\x07\x1b",
        '"',
        "\\N \\l \\",
        "<br/>",
    ),
    *(
        "~~s~~",
        "a--b",
        "> quote",
        "\N{GRINNING FACE} 日本語",
        "---",
        "]]>",
        "x" * 99,
        " ",
        "\ud800",
        "</td></tr></table>>]; b -> c",
        "a_b 0.5",
    ),
]
GRAPHVIZ = pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")


@frozen
class Labelled(Guard):
    """A guard with a label of one's choice."""

    label: str

    def test(self, ctx):
        return True


@frozen
class Work:
    """An effect with a label of one's choice."""

    label: str

    def __call__(self, ctx):
        pass


def labelled(labels: list[str]) -> Lifecycle:
    """A lifecycle with a state for each label, which is that of a guard and, rotated, that of an effect."""
    names = [f"s{i}" for i in range(len(labels))]
    effects = [*labels[1:], *labels[:1]]
    arrows = [Transition("all", names[0])]
    for name, label, effect, onward in zip(
        names, labels, effects, [*names[1:], "end"], strict=True
    ):
        arrows += [
            Transition(name, "end", Labelled(label), Work(effect)),
            Transition(name, onward, effect=Work(label)),
        ]
    states = [
        State("all", Work("go")),
        *(State(name, Work("go"), "all") for name in names),
        State("end", final=True),
    ]
    return Lifecycle("<labels> & more", states, arrows)


BENIGN = labelled([f"label {i}" for i in range(len(HOSTILE))])


def texts(document: str) -> list[str]:
    """The words in an SVG document."""
    return [
        "".join(text.itertext())
        for text in ET.fromstring(document).iter("{http://www.w3.org/2000/svg}text")
    ]


def without_legend(document: str) -> str:
    """An SVG document without what its colours mean."""
    return re.sub(r'<g class="legend">.*</g>', "", document, flags=re.DOTALL)


def shown(label: str) -> str:
    """What is left of a label in a picture, without any white space: lines are broken."""
    return re.sub(
        r"\s",
        "",
        "".join(
            c if c.isprintable() or c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in label
        ),
    )


# ---------------------------------------------------------------- what is shown


def test_the_standard_picture_shows_the_main_way_and_the_inner_loop():
    "The eye is led down the chain, and the loops over batches stand out."
    seen = picture(supervised())
    assert seen.hot == {
        *("next_batch", "draw", "batch", "pred", "loss", "backward", "step"),
        *("next_valid_batch", "valid_draw", "valid_batch", "valid_pred", "valid_loss"),
    }
    main = {(arrow.tail, arrow.head) for arrow in seen.arrows if arrow.kind in ("hot", "main")}
    assert {
        ("fit.start", "next_epoch"),
        ("next_epoch", "epoch"),
        ("draw", "batch"),
        ("step", "next_batch"),
        ("record", "next_epoch"),
    } <= main
    assert ("draw", "valid") not in main


def test_the_order_of_guards_is_numbered_where_it_matters():
    "Two guards are numbered; a lone one is not; what is left over says so unless it is the main way."
    arrows = {
        (arrow.tail, arrow.head, arrow.guard): arrow for arrow in picture(supervised()).arrows
    }
    assert arrows["draw", "batch", "a batch was drawn"].number == 1
    assert arrows["draw", "valid", "validation due"].number == 2
    assert arrows["draw", "record", ""].other
    assert arrows["next_batch", "record", "stop now"].number == 0
    words = texts(svg(supervised()))
    assert {
        "1 [a batch was drawn]",
        "2 [validation due]",
        "[stop now]",
        "/ count the batch",
        "StopFit, KeyboardInterrupt",
    } <= set(words)
    assert words.count("else") == 3


@settings(max_examples=60, derandomize=True)
@given(lifecycles())
def test_every_state_and_every_arrow_is_drawn(life):
    "A picture has each state once, and an arrow for each transition, with its words."
    seen = picture(life)
    wanted = Counter(
        (t.source, t.dest, t.guard.label if t.guard is not None else "", t.event is None)
        for t in life.transitions
    )
    drawn: Counter[tuple[str, str, str, bool]] = Counter()
    for arrow in seen.arrows[1:]:
        for _ in arrow.event.split(", "):
            drawn[
                arrow.tail.split(".")[0], arrow.head.split(".")[0], arrow.guard, not arrow.event
            ] += 1
    assert drawn == wanted
    assert sorted(seen.order) == sorted(life.names)
    names = Counter(texts(svg(life)))
    assert all(names[name] == 1 for name in (*life.names, "failed"))
    edges = [line for line in dot(life).splitlines() if re.match(r' *"[^"]*" -> "', line)]
    assert len(edges) == len(seen.arrows)


def test_only_the_states_and_their_ways():
    "The picture of the states has no words but names, no events, and each way once."
    seen = picture(supervised(), "states")
    assert not any(
        arrow.event or arrow.guard or arrow.effect or arrow.number for arrow in seen.arrows
    )
    ways = [(arrow.tail, arrow.head) for arrow in seen.arrows]
    assert ("next_epoch", "end") in ways
    assert ("train", "record") not in ways
    assert len(ways) == len(set(ways))
    assert set(texts(without_legend(svg(supervised(), detail="states")))) == {
        *supervised().names,
        "failed",
        "any other exception",
    }
    assert all(
        words in supervised().names
        for *_, line in parsed(mermaid(supervised(), detail="states"))[1]
        for words in line.split("<br/>")
        if words
    )


def test_events_are_dashed_final_states_ringed_and_the_beginning_is_a_dot():
    "One sees what kind of thing everything is."
    root = ET.fromstring(without_legend(svg(evaluation())))
    paths = [element for element in root.iter() if element.tag.endswith("path")]
    assert sum("stroke-dasharray" in path.attrib for path in paths) == sum(
        arrow.kind == "event" for arrow in picture(evaluation()).arrows
    )
    # The beginning, and those of two scopes
    assert sum(element.tag.endswith("circle") for element in root.iter()) == 3
    lines = dot(evaluation()).splitlines()
    assert [re.match(r' *"(\w+)"', line)[1] for line in lines if "peripheries" in line] == [
        "end",
        "failed",
    ]
    dashed = {
        re.match(r' *("[^"]+" -> "\w+)', line)[1] for line in lines if 'style="dashed"' in line
    }
    assert '"valid.start" -> "end' in dashed  # StopFit, from the border of its scope
    assert '"valid_draw" -> "record' not in dashed


# ---------------------------------------------------------------- where it stands

Rectangle = tuple[str, float, float, float, float]


def rectangles(layout: Placement) -> list[Rectangle]:
    """The places of states, dots, scopes' names and words: what, left, top, right, bottom."""
    found: list[Rectangle] = []
    for box in layout.boxes.values():
        if not box.rows:
            found.append(
                (f"state {box.name}", box.x - box.left, box.top, box.x + box.right, box.bottom)
            )
        elif box.name:
            left = box.x - box.left + 11.0
            found.append(
                (
                    f"name {box.name}",
                    left,
                    box.top + 5.0,
                    left + width_of(box.name, NAME),
                    box.top + 19.0,
                )
            )
    found += [
        (f"dot {name}", x - 4.0, y - 4.0, x + 4.0, y + 4.0) for name, (x, y) in layout.dots.items()
    ]
    for route in layout.routes:
        for (x, y), lines in ((route.when, route.label.when), (route.then, route.label.then)):
            if lines:
                found.append(
                    (
                        f"words {lines}",
                        x,
                        y,
                        x + max(width_of(line, WORDS) for line in lines),
                        y + LINE * len(lines),
                    )
                )
    return found


def faults(layout: Placement) -> list[tuple[object, object]]:
    """What covers another, sticks out of the picture, or is crossed by a line or by a border."""
    boxes = rectangles(layout)
    found: list[tuple[object, object]] = [
        (a, b) for a, b in itertools.combinations(boxes, 2) if meet(a, b)
    ]
    width, height = layout.size
    found += [
        (a, "outside")
        for a in boxes
        if a[1] < 0 or a[2] < 0 or a[3] > width + 0.01 or a[4] > height + 0.01
    ]
    lines: list[Rectangle] = []
    for route in layout.routes:
        for (x, y), (to_x, to_y) in itertools.pairwise(route.points):
            lines.append(
                (
                    f"{route.arrow.tail} -> {route.arrow.head}",
                    min(x, to_x),
                    min(y, to_y),
                    max(x, to_x),
                    max(y, to_y),
                )
            )
    for box in layout.boxes.values():
        if box.rows and box.name:
            left, right = box.x - box.left, box.x + box.right
            lines += [(f"border of {box.name}", left, y, right, y) for y in (box.top, box.bottom)]
            lines += [(f"border of {box.name}", x, box.top, x, box.bottom) for x in (left, right)]
    solid = [box for box in boxes if not box[0].startswith("dot")]
    return found + [(line, box) for line in lines for box in solid if meet(line, box, 0.5)]


def meet(a: Rectangle, b: Rectangle, slack: float = 0.01) -> bool:
    """Whether two rectangles have more than a border in common; a line is a thin one."""
    return (
        a[1] < b[3] - slack and a[3] > b[1] + slack and a[2] < b[4] - slack and a[4] > b[2] + slack
    )


@pytest.mark.parametrize("detail", ["full", "states"])
@pytest.mark.parametrize("name", STANDARD)
def test_nothing_covers_anything_in_the_standard_pictures(name, detail):
    "No state, name or words cover another or are crossed by a line."
    assert faults(Placement(picture(STANDARD[name], detail))) == []


@settings(max_examples=60, derandomize=True)
@given(lifecycles())
def test_nothing_covers_anything_in_any_picture(life):
    "The same holds for lifecycles that nobody has looked at."
    assert faults(Placement(picture(life))) == []


def test_a_fault_would_be_found():
    "The test above can fail: with the words moved onto their state it does."
    layout = Placement(picture(evaluation()))
    box = layout.boxes["valid_draw"]
    box.left += 60.0
    assert faults(layout)


def test_a_small_edit_is_a_small_change():
    "A state that is inserted moves nothing across, and nothing that stands above it."
    before = Placement(picture(supervised(), "states"))
    after = Placement(
        picture(
            supervised().insert(State("clip", Work("clip")), between=("backward", "step")), "states"
        )
    )
    for name in ("fit", "next_epoch", "train", "draw", "pred", "backward", "valid_loss"):
        assert (before.boxes[name].x, before.boxes[name].top) == (
            after.boxes[name].x,
            after.boxes[name].top,
        )
    assert before.boxes["step"].top < after.boxes["step"].top


def test_the_standard_picture_fits_a_page():
    "It is about as wide as high, and its words can be read where a page shows it a thousand pixels wide."
    width, height = Placement(picture(supervised())).size
    assert width <= 900.0
    assert 0.7 < width / height < 1.5


# ---------------------------------------------------------------- Mermaid

STATE = re.compile(
    r'(?:state )?(?:"(?P<title>[^"]*)" as )?(?P<id>\w+)(?P<choice> <<choice>>)?(?P<scope> \{)?',
    re.ASCII,
)
ARROW = re.compile(r"(?P<tail>\w+|\[\*\]) --> (?P<head>\w+|\[\*\])(?: : (?P<words>.+))?", re.ASCII)


def parsed(
    text: str,
) -> tuple[dict[str, str | None], list[tuple[str | None, str, str, str]], set[str]]:
    """Reads Mermaid text: the scope of each id; each arrow with the scope that it is written in; the ids of scopes."""
    first, *lines = text.splitlines()
    assert first == "stateDiagram-v2"
    scopes: list[str] = []
    home: dict[str, str | None] = {}
    arrows: list[tuple[str | None, str, str, str]] = []
    composite: set[str] = set()
    for line in map(str.strip, lines):
        if re.fullmatch(
            r"direction (TB|LR)|classDef \w+ [\w:#,]+|class \w+(,\w+)* \w+", line, re.ASCII
        ):
            continue
        if line == "}":
            scopes.pop()
        elif arrow := ARROW.fullmatch(line):
            arrows.append(
                (scopes[-1] if scopes else None, arrow["tail"], arrow["head"], arrow["words"] or "")
            )
        else:
            state = STATE.fullmatch(line)
            assert state, line
            assert state["id"] not in home
            home[state["id"]] = scopes[-1] if scopes else None
            if state["scope"]:
                scopes.append(state["id"])
                composite.add(state["id"])
    assert not scopes
    return home, arrows, composite


def check_mermaid(life: Lifecycle) -> None:
    home, arrows, composite = parsed(mermaid(life))
    for scope, tail, head, words in arrows:
        assert tail == "[*]" or home[tail] == scope, "an arrow is written where its ends stand"
        assert head == "[*]" or home[head] == scope, "an arrow is written where its ends stand"
        assert not (tail == head and tail in composite), "no scope has an arrow to itself"
        assert not re.search(r"[:;{}|\\\"`*~<>]", re.sub(r"#\d+;|<br/>", "", words)), words
    assert composite == picture(life).scopes
    said = "\n".join(words for *_, words in arrows).replace("<br/>", "\n")
    for arrow in picture(life).arrows:
        assert all(
            part in said
            for part in (
                arrow.event,
                arrow.guard and f"[{arrow.guard}]",
                arrow.effect and f"/ {arrow.effect}",
            )
        )


@pytest.mark.parametrize("name", STANDARD)
def test_mermaid_text_is_what_mermaid_draws_well(name):
    "No arrow crosses a border, none leads from a scope to its inside, and every word is there."
    check_mermaid(STANDARD[name])


@settings(max_examples=60, derandomize=True)
@given(lifecycles())
def test_any_mermaid_text_is_what_mermaid_draws_well(life):
    "The same holds for lifecycles that nobody has looked at."
    check_mermaid(life)


def test_mermaid_says_which_state_inside_a_scope_an_arrow_leaves():
    "What leaves a scope from inside is drawn from its border and bears the name of the state."
    text = mermaid(supervised())
    assert "train --> record : next_batch [stop now]<br/>draw else<br/>" in text
    assert (
        "batch --> next_batch : step<br/>\N{HIGH VOLTAGE SIGN} SkipBatch / discard the window"
        in text
    )
    assert "[*] --> pred" in text
    assert "end --> [*]" in text


def test_what_leads_back_into_its_own_scope_is_drawn_validly():
    "A scope that is begun anew from inside, and an event that leads to the inside, meet a diamond and a sign."
    life = Lifecycle(
        "again",
        [
            State("work", Work("go")),
            State("a", Work("go"), "work"),
            State("b", Work("go"), "work"),
            State("end", final=True),
        ],
        [
            Transition("work", "a"),
            Transition("a", "work", Labelled("again")),
            Transition("a", "b"),
            Transition("b", "end"),
            Transition("work", "b", event=SkipBatch),
            Transition("work", "work", event=SkipEpoch),
            Transition("work", "end", event=StopFit),
        ],
    )
    home, arrows, _ = parsed(mermaid(life))
    (diamond,) = [name for name in home if name.startswith("work_start")]
    (sign,) = [name for name in home if name.startswith("work_events")]
    assert {("[*]", diamond), (diamond, "a"), ("a", diamond), (sign, "b"), (sign, diamond)} <= {
        (tail, head) for _, tail, head, _ in arrows
    }
    assert faults(Placement(picture(life))) == []


def test_names_that_mean_something_to_mermaid_are_written_otherwise():
    "A state may be called as one likes: it keeps its name as a title, and Mermaid gets an id that means nothing to it."
    names = [
        "state",
        "note",
        "Class",
        "default",
        "click",
        "direction",
        "root",
        "constructor",
        "__proto__",
        "go_start",
        "a_end",
        "größe",
        "as",
    ]
    arrows = [Transition("go", names[0])]
    arrows += [
        Transition(name, after) for name, after in zip(names, [*names[1:], "end"], strict=True)
    ]
    states = [
        State("go", Work("go")),
        *(State(name, Work("go"), "go") for name in names),
        State("end", final=True),
    ]
    text = mermaid(Lifecycle("named", states, arrows))
    home, _, _ = parsed(text)
    assert not {name.lower() for name in names} & {name.lower() for name in home}
    assert len(home) == len(names) + 3
    assert all(f'state "{name}" as ' in text for name in names)


# ---------------------------------------------------------------- labels


def test_no_label_breaks_a_mermaid_text():
    "Each hostile label is one piece of words on its line, and reads back as it was."
    hostile = labelled(HOSTILE)
    home, arrows, _ = parsed(mermaid(hostile))
    plain_home, plain_arrows, _ = parsed(mermaid(BENIGN))
    assert home == plain_home
    assert [arrow[:3] for arrow in arrows] == [arrow[:3] for arrow in plain_arrows]
    said = [shown(re.sub(r"#(\d+);", lambda m: chr(int(m[1])), words)) for *_, words in arrows]
    for label in HOSTILE:
        assert any(shown(label) in words for words in said), label
    assert "direction TB" not in mermaid(hostile).partition("\n")[2].partition("\n")[2]


def test_no_label_breaks_an_svg_document():
    "Hostile labels are text and nothing else: the same elements are drawn, in a document that can be parsed."
    tags = Counter(
        element.tag.rpartition("}")[2] for element in ET.fromstring(svg(labelled(HOSTILE))).iter()
    )
    plain = Counter(element.tag.rpartition("}")[2] for element in ET.fromstring(svg(BENIGN)).iter())
    del tags["text"], plain["text"]  # long labels take several lines
    assert tags == plain
    said = shown("".join(texts(svg(labelled(HOSTILE)))))
    for label in HOSTILE:
        assert shown(label) in said, label


def test_no_label_breaks_a_graphviz_text():
    "Each node and each edge keeps to its line."
    assert len(dot(labelled(HOSTILE)).splitlines()) == len(dot(BENIGN).splitlines())


@GRAPHVIZ
@pytest.mark.parametrize("placed", [True, False])
def test_graphviz_reads_hostile_labels_as_text(placed):
    "Graphviz finds the same nodes and edges as with harmless labels, and complains about nothing."

    def count(life: Lifecycle) -> tuple[int, int]:
        done = subprocess.run(
            ["dot", "-Tplain"],
            input=dot(life, placed=placed).encode(),
            capture_output=True,
            check=True,
        )
        assert done.stderr == b""
        words = [line.split()[0] for line in done.stdout.decode().splitlines() if line]
        return words.count("node"), words.count("edge")

    assert count(labelled(HOSTILE)) == count(BENIGN) == (len(HOSTILE) + 4, 2 * len(HOSTILE) + 2)


# ---------------------------------------------------------------- files


@GRAPHVIZ
def test_graphviz_can_place_everything_itself():
    "Without places, the text has clusters, and arrows that are clipped at their borders."
    text = dot(supervised(), placed=False)
    assert "pos=" not in text
    assert 'compound="true"' in text
    assert re.search(r'"draw" -> "batch.start" .*lhead="cluster_batch"', text)
    assert re.search(r'"fit.start" -> "end" .*ltail="cluster_fit"', text)
    done = subprocess.run(["dot", "-Tplain"], input=text.encode(), capture_output=True, check=True)
    assert done.stderr == b""


DIGEST = """
import hashlib
from statetrain.guards.counters import Every
from statetrain.diagram import dot, mermaid, svg
from statetrain.standard.supervised import supervised
life = supervised(validate=Every(3, "steps"), optimizers=2)
print(hashlib.sha256("".join((dot(life), mermaid(life), svg(life), str(life))).encode()).hexdigest())
"""


def test_the_same_lifecycle_is_the_same_text_everywhere():
    "Nothing depends on the process, as the order of sets would."
    runs = (
        subprocess.run(
            [sys.executable, "-c", DIGEST],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        for seed in ("1", "2")
    )
    assert len({run.stdout for run in runs}) == 1


@pytest.mark.parametrize("suffix", [".svg", ".mmd", ".dot"])
def test_drawing_to_a_text_file_needs_no_program(tmp_path, monkeypatch, suffix):
    "The suffix says what is written, and nothing has to be installed."
    monkeypatch.setenv("PATH", "")
    supervised().draw(str(tmp_path / f"life{suffix}"), theme="dark", detail="states")
    written = (tmp_path / f"life{suffix}").read_text(encoding="utf-8")
    assert written == {".svg": svg, ".mmd": mermaid, ".dot": dot}[suffix](
        supervised(), theme="dark", detail="states"
    )


@GRAPHVIZ
@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".PDF", b"%PDF")])
def test_drawing_an_image(tmp_path, suffix, magic):
    "Graphviz renders the picture."
    path = tmp_path / f"life{suffix}"
    draw(evaluation(), path)
    assert path.read_bytes().startswith(magic)


def test_drawing_an_image_without_graphviz_says_what_to_do(tmp_path, monkeypatch):
    "Who has no Graphviz learns how to install it and what works without."
    monkeypatch.setenv("PATH", "")
    with pytest.raises(
        ConfigError, match=r"'dot' of Graphviz.*apt-get install graphviz.*\.svg, \.mmd or \.dot"
    ) as error:
        draw(evaluation(), tmp_path / "life.png")
    assert "life.png" in str(error.value)


def test_a_failure_of_graphviz_is_told(tmp_path):
    "What Graphviz says is passed on."
    if shutil.which("dot") is None:
        pytest.skip("Graphviz is not installed")
    (tmp_path / "there.png").mkdir()
    with pytest.raises(ConfigError, match="Graphviz could not draw"):
        draw(evaluation(), tmp_path / "there.png")


@pytest.mark.parametrize("name", ["life.gif", "life", "life.svgz"])
def test_an_unknown_suffix_lists_the_known_ones(tmp_path, name):
    "Nothing is written, and the error says what could be."
    with pytest.raises(ConfigError, match=r"\.svg, \.mmd, \.dot, \.html, \.png, \.pdf, got"):
        draw(evaluation(), tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", [svg, dot, mermaid])
def test_unknown_options_are_refused(write):
    "A misspelt theme or detail is an error that lists what there is."
    with pytest.raises(ConfigError, match="theme must be one of 'light', 'dark', got 'drak'"):
        write(evaluation(), theme="drak")
    with pytest.raises(
        ConfigError,
        match=(
            "detail must be one of 'full', 'states', 'outline', got 'state'; did you mean 'states'"
        ),
    ):
        write(evaluation(), detail="state")


def test_themes_differ_in_colours_alone():
    "Either theme draws the same picture."
    light, dark = svg(supervised()), svg(supervised(), theme="dark")
    assert light != dark
    assert re.sub("#[0-9a-f]{6}", "", light) == re.sub("#[0-9a-f]{6}", "", dark)


def test_kept_pictures_are_compared_with_what_is_drawn(tmp_path):
    "Fresh pictures are not stale; one that was edited, lost or left over is named."
    lives = {"evaluation": evaluation(), "prediction": prediction()}
    written = write_pictures(lives, tmp_path / "pictures")
    assert {path.name for path in written} >= {"evaluation.svg", "evaluation.mmd", "prediction.svg"}
    assert stale_pictures(lives, tmp_path / "pictures") == []
    (tmp_path / "pictures" / "evaluation.svg").write_text("edited")
    (tmp_path / "pictures" / "prediction.mmd").unlink()
    (tmp_path / "pictures" / "old.svg").touch()
    assert stale_pictures(lives, tmp_path / "pictures") == [
        "prediction.mmd is missing",
        "evaluation.svg differs from what is drawn",
        "old.svg belongs to no lifecycle",
    ]
    assert len(stale_pictures(lives, Path(tmp_path / "nowhere"))) == len(written)


def test_a_run_is_drawn_with_how_often_it_went_each_way(tmp_path):
    "With a trace's counts, every arrow says how often it was taken, in each format; events that share an arrow add up."
    life = supervised(validate=None)
    trace = walk(life, {"more epochs": [True, True], "a batch was drawn": [True] * 1200})
    counts = trace.counts()
    for text in (svg(life, counts=counts), mermaid(life, counts=counts), dot(life, counts=counts)):
        assert "\N{MULTIPLICATION SIGN}\N{NO-BREAK SPACE}1,200" in text
        assert "\N{MULTIPLICATION SIGN}\N{NO-BREAK SPACE}0" in text
    draw(life, tmp_path / "run.svg", counts=counts)
    assert (tmp_path / "run.svg").read_text(encoding="utf-8") == svg(life, counts=counts)
    assert "\N{MULTIPLICATION SIGN}" not in svg(life)


# ---------------------------------------------------------------- of a run


def replayed() -> Trace:
    """A walk that stands in a training batch."""
    trace = walk(supervised(), {"more epochs": [True], "a batch was drawn": [True, True, True]})
    return Trace(trace.transitions[:20], lifecycle=trace.lifecycle)


def test_a_trace_is_replayed_in_every_format() -> None:
    """Counts on the arrows, the last transitions and the present state in a colour of their own."""
    trace, colour = replayed(), theme_of("light").recent
    assert trace.states[-1] == "draw"
    drawn = trace.svg()
    assert drawn == svg(supervised(), trace=trace)
    assert drawn.count(f'stroke="{colour}" stroke-width="3.5"') == 1
    assert without_legend(drawn).count('stroke-opacity="0.45"') == 7
    assert "\N{MULTIPLICATION SIGN}\N{NO-BREAK SPACE}2" in drawn
    text = mermaid(supervised(), trace=trace)
    assert "class draw here" in text
    assert text.count("\N{BLACK RIGHT-POINTING TRIANGLE}") == 7
    assert (
        dot(supervised(), trace=trace).count(f'color="{colour}"') - 2 == 8
    )  # and two of the legend
    assert colour not in svg(supervised(), counts=trace.counts())


def test_a_trace_from_a_file_is_replayed(tmp_path) -> None:
    """Its arrows are those of the table by their words."""
    replayed().save(tmp_path / "run.jsonl")
    trace = Trace.load(tmp_path / "run.jsonl")
    assert trace.svg() == replayed().svg()
    trace.draw(tmp_path / "run.svg", theme="dark")
    assert theme_of("dark").recent in (tmp_path / "run.svg").read_text(encoding="utf-8")
