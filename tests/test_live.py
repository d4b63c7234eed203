"""The page on which a picture lives, in a real browser: pointing, folding, going back in time, two runs, control.

Debian's Chromium, driven by selenium; without them these tests are skipped. One browser serves all.
"""

import itertools
import json
import re
import signal
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
from browser import needs_browser, open_browser
from torch.nn import functional as F

import statetrain as st
from statetrain.commands.web import watch_on_a_page
from statetrain.errors import ConfigError, TraceError
from statetrain.live.chronicle import POINTS, Chronicle, KeptPoints
from statetrain.live.page import data_of_runs, page
from statetrain.live.serving import FileSource, Page, serve
from statetrain.live.stepping import control
from statetrain.report import report
from statetrain.trace import Trace


def train(**options):
    torch.manual_seed(0)
    chosen = {
        "valid": 0.25,
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1},
        "epochs": 3,
        "verbose": False,
        "callbacks": [st.GradientClip(1.0)],
    }
    data = (torch.randn(64, 4), torch.randint(0, 3, (64,)))
    return st.fit(torch.nn.Linear(4, 3), data, **{**chosen, **options})


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    """The trace files of two runs that part when the second one makes an epoch more."""
    folder = tmp_path_factory.mktemp("live")
    files = [folder / "three.jsonl", folder / "four.jsonl"]
    for file, epochs in zip(files, (3, 4), strict=True):
        train(trace=str(file), epochs=epochs)
    return files


class Window:
    """A page in the browser, and what is done with it."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, address: str) -> None:
        self.driver.get(address)
        self.until("document.querySelector('.live')?.dataset.ready")
        self.settle()

    def settle(self) -> None:
        """Waits until no box glides any more."""
        self.until("document.getAnimations().length === 0")

    def run(self, script: str, *arguments):
        return self.driver.execute_script(script, *arguments)

    def until(self, condition: str, seconds: float = 10.0):
        end = time.monotonic() + seconds
        while not (found := self.run(f"return {condition}")):
            assert time.monotonic() < end, f"never so: {condition}"
        return found

    def point(self, selector: str, title: str) -> str:
        """Points at something; returns what the card with that title says."""
        from selenium.webdriver.common.action_chains import ActionChains

        element = self.driver.find_element("css selector", selector)
        ActionChains(self.driver).move_to_element(element).perform()
        self.until(f"document.querySelector('.card h3')?.textContent === '{title}'")
        return self.run("return document.querySelector('.card').innerText")

    def go_to(self, transition: int) -> None:
        self.run("document.querySelector('.live').page.goTo(arguments[0])", transition)
        self.until("document.querySelector('.live').page.frame === null")

    def boxes(self) -> dict[str, list[float]]:
        """Where each state stands: left, top, right, bottom."""
        return self.run(
            "return Object.fromEntries([...document.querySelectorAll('[data-name]')].map((e) => {"
            "const r = e.querySelector('rect').getBoundingClientRect();"
            "return [e.dataset.name, [r.left, r.top, r.right, r.bottom]]}))"
        )

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    """A browser for all tests; what it complains about fails the last one."""
    driver = open_browser(tmp_path_factory.mktemp("profile"))
    try:
        yield Window(driver)
    finally:
        driver.quit()


# ---------------------------------------------------------------- a lifecycle


@needs_browser
def test_a_lifecycle_can_be_pointed_at_and_folded(window, tmp_path):
    """A state says what it does, an arrow its guard; a scope folds into one state and back."""
    st.supervised(stop=st.EarlyStopping("valid_loss", 2)).draw(tmp_path / "life.html")
    window.open((tmp_path / "life.html").as_uri())
    card = window.point("[data-name='backward']", "backward")
    assert "compute the gradients" in card
    assert "grads" in card
    assert "→ step" in card
    card = window.point("[data-name='next_epoch']", "next_epoch").replace("\n", " ")
    places = [
        card.index(text) for text in ("1. [stop now] → end", "[more epochs] → epoch", "else → end")
    ]
    assert places == sorted(places)
    card = window.point("[data-key='next_epoch|epoch|main'] .reach", "next_epoch → epoch")
    assert "[more epochs]" in card
    assert "count the epoch" in card
    assert set(window.boxes()) == {*st.supervised().names, "failed"}
    window.run("document.querySelector('.live').page.toggleFold('valid')")
    assert "valid_pred" not in window.boxes()
    window.until("document.querySelector('[data-name=valid]').classList.contains('folded')")
    from selenium.webdriver.common.action_chains import ActionChains

    window.settle()
    element = window.driver.find_element("css selector", "[data-name='valid']")
    ActionChains(window.driver).move_to_element(element).click().perform()
    assert window.run("return [...document.querySelector('.live').page.folded]") == []
    assert "valid_pred" in window.boxes()
    assert not window.complaints()


@needs_browser
def test_thirty_states_and_more_stand_apart_in_the_dark(window, tmp_path):
    """No state covers another, every state lies in its scope, and the page is dark when asked."""
    phase = st.supervised(accumulate=2)
    life = phase.prefixed("warm_").then(phase)
    assert len(life.names) >= 30
    life.draw(tmp_path / "life.html", theme="dark")
    window.open((tmp_path / "life.html").as_uri())
    boxes = window.boxes()
    leaves = [name for name in life.names if not life.inside(name)]
    for i, one in enumerate(leaves):
        for other in leaves[i + 1 :]:
            (a, b, c, d), (e, f, g, h) = boxes[one], boxes[other]
            assert c <= e or g <= a or d <= f or h <= b, f"{one} covers {other}"
    for state in life.states:
        if state.within is not None:
            (a, b, c, d), (e, f, g, h) = boxes[state.name], boxes[state.within]
            assert (max(a, e), max(b, f), min(c, g), min(d, h)) == (a, b, c, d)
    paper = window.run("return getComputedStyle(document.querySelector('.live')).backgroundColor")
    assert max(json.loads(paper.replace("rgb(", "[").replace(")", "]"))) < 40
    assert not window.complaints()


@needs_browser
def test_the_picture_zooms_and_moves(window, tmp_path):
    """The wheel zooms around the pointer, dragging moves."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    st.prediction().draw(tmp_path / "life.html")
    window.open((tmp_path / "life.html").as_uri())
    drawing = window.driver.find_element("css selector", ".drawing")
    view = "return document.querySelector('.live').page.drawings[0].view"
    before = window.run(view)
    ActionChains(window.driver).scroll_from_origin(
        ScrollOrigin.from_element(drawing), 0, -300
    ).perform()
    nearer = window.run(view)
    assert nearer["scale"] > before["scale"] * 1.2
    ActionChains(window.driver).drag_and_drop_by_offset(drawing, 60, 40).perform()
    moved = window.run(view)
    assert moved["x"] - nearer["x"] == pytest.approx(60, abs=2)
    assert moved["y"] - nearer["y"] == pytest.approx(40, abs=2)


# ---------------------------------------------------------------- a run


@needs_browser
def test_a_run_is_gone_through_back_and_forth(window, tmp_path):
    """At each transition: the state, what was taken last, counts, rows, curves; as the trace has them."""
    run = train(callbacks=[st.GradientClip(1.0), st.Tracing(times=True, counters=True)])
    run.report(tmp_path / "report.html")
    window.open((tmp_path / "report.html").as_uri())
    trace = run.trace
    current = "return document.querySelector('.state.current')?.dataset.name"
    count = "return document.querySelector(`[data-name=step] .count`).textContent"
    assert window.run(current) == "end"
    assert window.run(count) == str(run.ctx.step)
    for place in (1, 20, len(trace) // 2, 7):
        window.go_to(place)
        leaf = trace.states[place - 1]
        shown = window.run(current)
        # Of a scope that is entered, its border lights up
        assert shown == (None if run.lifecycle.inside(leaf) else leaf)
        assert window.run(count) == str(trace.states[:place].count("step"))
    window.go_to(len(trace) // 2)
    where = window.run("return document.querySelector('.where').textContent")
    assert f"transition {len(trace) // 2} of {len(trace)}" in where
    assert f"step {trace.moments[len(trace) // 2 - 1].step}" in where
    lit = window.run("return document.querySelectorAll('.line.lit').length")
    assert 1 < lit <= 12
    card = window.point(".live [data-name='step']", "step")
    assert "GradientClip on enter" in card
    assert "entered" in card
    window.until("document.querySelectorAll('.rows tbody tr').length === 3")
    assert window.run("return document.querySelectorAll('.rows tr.later').length") >= 1
    assert window.run("return document.querySelectorAll('.curves canvas').length") >= 1
    window.driver.find_element("css selector", ".timeline").click()
    window.until("document.querySelector('.live').page.frame === null")
    middle = window.run("return document.querySelector('.live').page.position")
    assert 0 < middle < len(trace)
    assert not window.complaints()


def seconds_up_to(trace: Trace, place: int) -> dict[str, float]:
    """Seconds in each state while the first transitions were taken, added up by hand."""
    spent: dict[str, float] = {}
    for i in range(place - 1):
        passed = trace.moments[i + 1].time - trace.moments[i].time
        spent[trace.states[i]] = spent.get(trace.states[i], 0.0) + passed
    return spent


@needs_browser
def test_time_and_reasons_go_back_too(window, tmp_path):
    """Up to the moment that is shown: time by state and after an arrow; why an arrow was taken, without recorded answers."""
    run = train(epochs=5, stop=st.Threshold("train_loss", 99.0), callbacks=[st.Tracing(times=True)])
    run.report(tmp_path / "report.html")
    window.open((tmp_path / "report.html").as_uri())
    trace = run.trace
    for place in (len(trace), len(trace) // 2, 9, 1):
        window.go_to(place)
        shown = window.run("return [...document.querySelector('.live').page.moments[0].states]")
        expected = seconds_up_to(trace, place)
        assert dict(shown) == pytest.approx(expected, abs=2e-5 * max(1, len(expected)))
    window.go_to(len(trace))
    window.run("document.querySelector('.live').scrollIntoView()")
    card = window.point("[data-key='next_epoch|epoch|main'] .reach", "next_epoch → epoch")
    assert "[more epochs] was true; [stop now]" in card.replace("\n", " ")
    assert "time after" in card
    last = window.run(
        "const page = document.querySelector('.live').page, [run] = page.runs;"
        "return run.reasonOf(run.path[run.length - 1], run.length)"
    )
    assert last == run.outcome.reason
    window.run(
        "[...document.querySelectorAll('button')].find((b) => b.textContent === 'Legend').click()"
    )
    legend = window.run("return document.querySelector('.legend').innerText")
    assert "share of the time" in legend
    assert "when an event is raised" in legend
    assert not window.complaints()


@needs_browser
def test_rows_within_an_epoch_are_told_apart(window, tmp_path):
    """Their curves are by step, and the row of the moment is near the top, however many come later."""
    run = train(validate=st.Every(1, "steps"), epochs=20, callbacks=[st.Tracing(times=True)])
    run.report(tmp_path / "report.html")
    window.open((tmp_path / "report.html").as_uri())
    window.go_to(len(run.trace) // 2)
    window.until("document.querySelector('.rows tr.later')")
    places = "return [...document.querySelectorAll('.rows tbody tr')].map((e) => e.className)"
    shown = window.run(places)
    assert shown[:5] == ["later", "later", "later", "here", ""]
    at = window.run("return document.querySelector('.rows tr.here').innerText").split()
    assert at[0] == str(run.trace.states[: len(run.trace) // 2].count("epoch"))
    assert "loss by step" in window.run("return document.querySelector('figcaption').innerText")
    assert not window.complaints()


@needs_browser
def test_two_runs_stand_side_by_side_with_where_they_part(window, tmp_path, runs):
    """The page says at which transition, as `Trace.diff` does."""
    first, second = map(Trace.load, runs)
    report(first, tmp_path / "two.html", against=second)
    window.open((tmp_path / "two.html").as_uri())
    assert window.run("return document.querySelectorAll('.pane').length") == 2
    parting = first.diff(second).at
    text = window.run("return document.querySelector('.parting').textContent")
    assert text == f"The runs part at {parting}"
    window.driver.find_element("css selector", ".parting").click()
    window.until("document.querySelector('.live').page.frame === null")
    shown = window.run(
        "return [...document.querySelectorAll('.state.current')].map((e) => e.dataset.name)"
    )
    where = window.run("return document.querySelector('.where').textContent")
    assert "next_epoch → end ≠ next_epoch → epoch [more epochs]" in where
    assert shown[0] == first.states[parting - 1]
    assert second.states[parting - 1] != first.states[parting - 1]
    window.until("document.querySelectorAll('.rows').length === 2")
    lengths = "return [...document.querySelectorAll('.rows tbody')].map((e) => e.children.length)"
    assert window.run(lengths) == [len(first.rows), len(second.rows)]
    assert not window.complaints()


@needs_browser
def test_a_million_transitions_stay_smooth(window, tmp_path):
    """They load in seconds; a jump anywhere takes less than a moment."""
    trace = train(callbacks=[st.Tracing(times=True)]).trace
    chronicle = Chronicle.of(trace)
    body = chronicle.path[4:-1]
    while len(chronicle.path) < 1_000_000:
        chronicle.path.extend(body)
    (tmp_path / "long.html").write_text(page(data_of_runs([chronicle], ["long"])))
    begin = time.monotonic()
    window.open((tmp_path / "long.html").as_uri())
    assert time.monotonic() - begin < 9.0  # about one second on a machine that does nothing else
    each = window.run(
        "const page = document.querySelector('.live').page, begin = performance.now();"
        "for (let i = 0; i < 20; i += 1) { page.position = 47777 * i; page.showMoment(); }"
        "return (performance.now() - begin) / 20"
    )
    assert each < 150  # milliseconds; about 10 on a machine that does nothing else
    assert not window.complaints()


# ---------------------------------------------------------------- a run that goes on


@needs_browser
def test_a_run_is_followed_while_its_file_grows(window, tmp_path, runs):
    """What is written later is shown later, and the present moves on with it."""
    lines = runs[0].read_bytes().splitlines(keepends=True)
    file = tmp_path / "run.jsonl"
    file.write_bytes(b"".join(lines[:1]))
    with serve(Page([FileSource(file)])) as server:
        window.open(server.url)
        assert window.run("return document.querySelector('.live').page.longest()") == 0
        with file.open("ab") as opened:
            opened.write(b"".join(lines[1:]))
        window.until("document.querySelector('.state.current')?.dataset.name === 'end'")
        window.until("document.querySelector('.chip').textContent.startsWith('completed')")
        window.until("document.querySelectorAll('.rows tbody tr').length === 3")
    assert not window.complaints()


@needs_browser
def test_a_run_is_walked_from_the_page(window):
    """Single steps, a breakpoint, and the request to stop that the table knows."""
    run = train(start=False, epochs=50)
    addresses: list[str] = []
    there = threading.Event()

    def opened(address: str) -> None:
        addresses.append(address)
        there.set()

    servers = []
    thread = threading.Thread(target=lambda: servers.append(control(run, opened=opened)))
    thread.start()
    try:
        assert there.wait(20)
        window.open(addresses[0])

        def press(text: str) -> None:
            window.run(
                "[...document.querySelectorAll('button')].find((b) => b.textContent === arguments[0]).click()",
                text,
            )

        for state in ("fit", "next_epoch", "epoch"):
            press("Step")
            window.until(f"document.querySelector('.current')?.dataset.name === '{state}'")
        window.run("document.querySelector('.live').page.pick('backward')")
        press("Run")
        window.until("document.querySelector('.state.current')?.dataset.name === 'backward'")
        assert window.run(
            "return document.querySelector('[data-name=backward]').classList.contains('breaks')"
        )
        assert run.ctx.step == 0
        assert re.search(r"time\s+\S+ .*%", window.point("[data-name=loss]", "loss"))
        where = window.run("return document.querySelector('.where').textContent")
        assert "epoch 1" in where
        assert "step 0" in where
        window.run("document.querySelector('.live').page.pick('backward')")
        press("Stop after this batch")
        window.until("document.querySelector('.chip').textContent.startsWith('stopped')")
        thread.join(20)
    finally:
        run.ctx.request_stop("the test is over")
        if servers:
            servers[0].close()
    assert run.outcome.reason == "asked for on the page"
    assert run.ctx.step == 1
    losses = "return document.querySelector('.live').page.runs[0].values.loss_value.length"
    assert window.run(losses) == 1
    # The curve of the losses is there, the picture fits as the time line grows, nothing can be asked any more
    window.until("document.querySelector('.curves')?.innerText.includes('loss_value')")
    window.until(
        "document.querySelector('[data-name=failed]').getBoundingClientRect().bottom"
        " <= document.querySelector('footer').getBoundingClientRect().top + 1"
    )
    assert window.run(
        "return [...document.querySelectorAll('.control button')].every((b) => b.disabled)"
    )
    assert not window.complaints()


# ---------------------------------------------------------------- without a browser


def fetch(address: str, host: str | None = None, data: bytes | None = None):
    request = urllib.request.Request(address, data=data, headers={"Host": host} if host else {})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode()


def test_only_who_has_the_token_is_answered(runs):
    """Not without it, not under another name of this machine, and nothing is changed by a page that only shows."""
    with serve(Page([FileSource(runs[0])])) as server:
        base, token = server.url.split("?token=")
        assert "<title>" in fetch(server.url)
        for address, host in (
            (base, None),
            (f"{base}?token=x", None),
            (server.url, "evil.example:80"),
        ):
            with pytest.raises(urllib.error.HTTPError, match="403"):
                fetch(address, host)
        assert "only shows" in fetch(f"{base}do?token={token}", data=b'{"do": "stop"}')
        with pytest.raises(urllib.error.HTTPError, match="404"):
            fetch(f"{base}etc/passwd?token={token}")
        with pytest.raises(urllib.error.HTTPError, match="400"):
            fetch(f"{base}data?token={token}&since=[[")
        port = int(base.rsplit(":", 1)[1].strip("/"))
        with pytest.raises(ConfigError, match="cannot be used"):
            serve(Page([FileSource(runs[0])]), port)


def test_news_are_what_came_since(runs):
    """A page that knows a part gets the rest; one of another run gets all."""
    shown = Page([FileSource(runs[0])])
    trace = Trace.load(runs[0])
    chronicle = shown.sources[0].look()
    assert [chronicle.table["arrows"][n]["dest"] for n in chronicle.path] == trace.states
    identity = chronicle.about["id"]
    [record] = shown.news([[identity, 0, len(trace) - 5, 2]])["runs"]
    assert len(record["path"]) == 16  # five numbers of two bytes, in base 64
    assert [entry["row"] for entry in record["rows"]] == [dict(trace.rows[2])]
    assert record["outcome"] == {"word": "completed", "why": ""}
    [record] = shown.news([["another", 0, 5, 0]])["runs"]
    assert record["whole"]
    assert record["table"]["name"] == "supervised"


def test_a_file_and_its_trace_tell_the_same(runs):
    """The fast reading of a file agrees with the careful one: way, time by state, counters, rows."""
    trace = Trace.load(runs[0])
    fast, slow = FileSource(runs[0]).look(), Chronicle.of(trace, trace.header["notes"])
    assert fast.path == slow.path
    assert fast.table == slow.table
    assert fast.spent == pytest.approx(slow.spent, abs=1e-4)
    assert fast.counters.kept[-1] == slow.counters.kept[-1]
    for known in (fast, slow):
        for place, sums in known.sums.kept:
            by_state: dict[str, float] = {}
            for number, seconds in sums:
                dest = known.table["arrows"][number]["dest"]
                by_state[dest] = by_state.get(dest, 0.0) + seconds
            expected = {name: s for name, s in seconds_up_to(trace, place).items() if s}
            assert {n: s for n, s in by_state.items() if s} == pytest.approx(expected, abs=1e-4)
    assert len(fast.sums.kept) > 10
    assert [e["row"]["epoch"] for e in fast.rows] == [1, 2, 3]
    assert [e["at"] for e in fast.rows] == sorted(e["at"] for e in fast.rows)
    assert fast.outcome == slow.outcome
    listeners = {s["name"]: s["listeners"] for s in fast.table["states"]}
    assert listeners["step"] == ["GradientClip on enter"]


def test_a_resumed_run_goes_back_in_its_file(runs, tmp_path):
    """What an earlier process did after the checkpoint does not count, and the page begins again."""
    lines = runs[0].read_bytes().splitlines(keepends=True)
    header = json.loads(lines[0]) | {"resumed": 3}
    file = tmp_path / "run.jsonl"
    file.write_bytes(b"".join(lines))
    source = FileSource(file)
    assert source.look().generation == 0
    with file.open("ab") as opened:
        opened.write(json.dumps(header).encode() + b"\n")
    chronicle = source.look()
    assert (len(chronicle.path), chronicle.generation, chronicle.outcome) == (3, 1, None)
    assert sum(chronicle.spent.values()) <= sum(seconds_up_to(Trace.load(runs[0]), 4).values())


def test_points_are_thinned_evenly():
    """Of any number, the kept ones are equally far apart and not too many."""
    points = KeptPoints()
    for i in range(100_000):
        points.add([i, i])
    places = [place for place, _ in points.kept]
    assert POINTS <= len(places) <= 2 * POINTS
    assert {b - a for a, b in itertools.pairwise(places)} == {points.every}


def test_what_is_not_a_trace_is_refused(tmp_path):
    """Before the page is served; and a page that was asked for needs a trace with a header."""
    (tmp_path / "a.jsonl").write_text("nonsense\n")
    with pytest.raises(TraceError, match="is not a trace"):
        watch_on_a_page(tmp_path / "a.jsonl")
    with pytest.raises(FileNotFoundError):
        watch_on_a_page(tmp_path / "b.jsonl")


def test_watching_on_a_page_ends_with_ctrl_c(runs):
    """The address is printed, and the server is closed."""
    addresses: list[str] = []

    def wait() -> None:
        assert "<title>" in fetch(addresses[0])
        raise KeyboardInterrupt

    watch_on_a_page(runs[0], runs[1], opened=addresses.append, wait=wait)
    with pytest.raises(urllib.error.URLError):
        fetch(addresses[0])


def test_only_a_process_that_has_the_file_open_is_asked_to_stop(runs):
    """The number of a process in a file may be another one's by now; the right one gets Ctrl-C's signal."""
    source = FileSource(runs[0])
    source.look()
    assert "stop it where it runs" in source.stop()
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        with runs[0].open("rb"):  # as the process of the run has it
            assert source.stop() == "asked to stop"
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [signal.SIGINT]
