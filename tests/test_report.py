"""The page on a run: what is on it, that nothing in it can do harm, and that a browser shows it."""

import base64
import hashlib
import shutil
import subprocess
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
import torch
from attrs import evolve
from torch.nn import functional as F

import statetrain as st
from statetrain.commands.cli import main
from statetrain.report import report
from statetrain.report.charts import bars, curves, strips
from statetrain.report.page import page
from statetrain.trace import Trace

CHROMIUM = shutil.which("chromium")
HOSTILE = [
    *(
        "<script>document.title = 'taken'</script>",
        '"><img src=x onerror="document.title=1">',
        "</style><h1>x</h1>",
        "]]><x/>",
        "' onload='x",
        "</svg><a href=//e>",
    ),
    *(
        "</pre></section>",
        "&lt;&amp;",
        "\x00\x07\x1b[31m",
        "javascript:alert(1)",
        "a\nb\r\nc",
        "{{7*7}} ${7*7}",
        "\u202egnp.exe",
        "x" * 300,
        "url(//e)",
    ),
]


def train(*callbacks, **options):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    chosen = {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1},
        "epochs": 3,
        "valid": 0.25,
        "verbose": False,
        "callbacks": callbacks,
    }
    return st.fit(model, (torch.randn(32, 4), torch.randint(0, 3, (32,))), **{**chosen, **options})


class Tags(HTMLParser):
    """Counts what a page is made of, and what its elements say."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.words.append(data)


def read(text):
    tags = Tags()
    tags.feed(text)
    return tags


def test_everything_asked_of_a_run_is_on_its_page(tmp_path):
    """Outcome and reason, curves, the lifecycle with counts, time by state, callbacks, decisions, rows, versions."""
    run = train(
        st.Tracing(times=True),
        st.CollectGarbage(),
        stop=st.EarlyStopping("valid_loss", patience=1),
        opt_hparams={"lr": 9.0},
        epochs=20,
    )
    run.report(tmp_path / "deep" / "report.html")
    text = (tmp_path / "deep" / "report.html").read_text()
    words = " ".join(read(text).words)
    assert run.outcome.reason in words
    for part in (
        "Curves",
        "Lifecycle",
        "Time",
        "Decisions",
        "Callbacks",
        "History",
        "Environment",
        "CollectGarbage",
        "waiting for data",
        torch.__version__,
    ):
        assert part in words
    assert "who listens where" in words
    assert run.trace.svg() in text
    assert f"{run.history[-1]['valid_loss']:.4g}" in words


def test_what_was_not_recorded_is_said_with_how_to_get_it(tmp_path):
    """A run without a trace has its curves and its table; counts and times have a hint."""
    run = train()
    run.report(tmp_path / "report.html")
    words = " ".join(read((tmp_path / "report.html").read_text()).words)
    assert "fit(..., trace=True)" in words
    assert "Tracing(times=True)" in words
    assert "completed" in words


def test_a_failed_run_shows_its_error(tmp_path):
    """With the notes that it carries, the state, and how far it came."""
    file = tmp_path / "run.jsonl"

    def broken(pred, target):
        raise RuntimeError("no <luck> today")

    with pytest.raises(RuntimeError, match="luck"):
        train(loss=broken, trace=str(file))
    assert main(["report", str(file)]) == 0
    words = " ".join(read((tmp_path / "run.html").read_text()).words)
    assert "failed" in words
    assert "no <luck> today" in words
    assert "in state loss" in words


def test_a_page_loads_nothing_and_runs_its_own_script_alone(tmp_path):
    """No link, no address, and a policy that forbids all scripts but the one with this content."""
    train(st.Tracing(times=True)).report(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    tags = read(text)
    assert not {"link", "img", "iframe", "object", "a", "base", "form"} & set(tags.tags)
    assert tags.tags.count("script") == 2
    assert text.count('<script type="application/json">') == 1  # the data, which nothing runs
    own = text.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    assert not [
        name for name, _ in tags.attributes if name.startswith("on") or name in ("src", "href")
    ]
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert ("content", policy) in tags.attributes


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_breaks_out(name, tmp_path):
    """Names of guards, effects, columns, reasons, errors and versions stay words: the page has the tags of a harmless one."""

    def made(word):
        life = st.supervised(validate=None, stop=st.stop_requested.named(word))
        trace = st.testing.walk(life, {"more epochs": [True], "a batch was drawn": [True]})
        row = {"epoch": 1, "step": 1, word: 0.5, f"train_{word}": 0.25}
        return evolve(
            trace,
            lifecycle=life,
            rows=[row, {**row, "epoch": 2}],
            outcome=st.Stopped(1, word),
            error=f"{word}\n{word}",
            remarks=(word,),
            header={"versions": {word: word}},
        )

    tame, wild = read(page(made("tame"))), read(page(made(name)))
    assert wild.tags == tame.tags
    assert [key for key, _ in wild.attributes] == [key for key, _ in tame.attributes]
    assert not any(c in page(made(name)) for c in "\x00\x07\x1b\u202e")


def test_a_page_that_cannot_be_written_leaves_the_one_that_was_there(tmp_path):
    """And a trace without its lifecycle has no page."""
    (tmp_path / "report.html").write_text("before")
    with pytest.raises(st.ConfigError, match="does not know its lifecycle"):
        report(Trace(()), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == "before"


def test_curves_leave_out_what_is_not_finite():
    """Where there is no number there is a gap, and one point is a curve too."""
    nan, inf = float("nan"), float("inf")
    drawn = ET.fromstring(
        curves(
            "loss",
            "epoch",
            {"train": [(1, 1.0), (2, nan), (3, 2.0), (4, inf), (5, 1.0)], "valid": [(1, 5.0)]},
        )
    )
    assert len(drawn.findall("polyline")) == 4
    assert len(drawn.findall("circle")) == 4
    ET.fromstring(curves("nothing", "epoch", {"train": [(1, nan)]}))
    ET.fromstring(
        curves("flat", "epoch", {"train": [(1, 0.0), (2, 0.0)], "valid": [(1, 1e300), (2, -1e300)]})
    )


def test_bars_and_strips_show_each_row():
    """A bar for each share, a mark for each decision."""
    drawn = ET.fromstring(bars([("a", 0.5, "half"), ("b", 0.25, "a quarter")]))
    assert [span.get("style") for span in drawn.iter("span")] == ["width:100.0%", "width:50.0%"]
    assert (
        len(
            [
                p
                for p in ET.fromstring(
                    strips([("a", [(0, 1.0), (5, 0.5)])], 0, 10, "transition")
                ).iter("path")
                if p.get("class") == "mark"
            ]
        )
        == 2
    )


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_browser_shows_the_page(tmp_path):
    """Chromium draws it, with hostile names in it and nothing of them run."""
    life = st.supervised(stop=st.stop_requested.named(HOSTILE[0]))
    trace = st.testing.walk(life, {"more epochs": [True], "a batch was drawn": [True]})
    report(
        evolve(trace, lifecycle=life, outcome=st.Stopped(1, HOSTILE[1])), tmp_path / "report.html"
    )
    quiet = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    base = [CHROMIUM, *quiet, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1040,2000"]
    page_url = (tmp_path / "report.html").as_uri()
    done = subprocess.run(
        [*base, "--dump-dom", page_url], capture_output=True, text=True, check=True, timeout=120
    )
    seen = read(done.stdout)
    assert "<title>supervised: stopped</title>" in done.stdout
    assert "img" not in seen.tags
    assert seen.tags.count("script") == 2  # the data, and the page's own
    assert 'data-ready="yes"' in done.stdout
    assert seen.tags.count("section") >= 4
    subprocess.run(
        [*base, f"--screenshot={tmp_path / 'page.png'}", page_url],
        capture_output=True,
        check=True,
        timeout=120,
    )
    assert (tmp_path / "page.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "page.png").stat().st_size > 30_000


def test_completion_is_a_script_for_the_shell(capsys):
    """Every command is in it."""
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    for command in ("show", "draw", "check", "paths", "simulate", "diff", "report"):
        assert command in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_decisions_are_counted_over_the_whole_run():
    "Of transitions that were not kept it is known how often each was taken, so the table says what the picture says."
    short, long = (page(train(st.Tracing(last), epochs=5).trace) for last in (10, None))
    tables = [
        text[text.index("<th>guard</th>") : text.index("</table>", text.index("<th>guard</th>"))]
        for text in (short, long)
    ]
    assert tables[0] == tables[1]
    assert "<td>5</td><td>6</td>" in tables[0]  # more epochs
