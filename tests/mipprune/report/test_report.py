"""The HTML report: what it shows is what the run folder says, and nothing is asked of a network."""

import itertools
import json
import math
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formulations.errors import InputError
from mipprune import cli
from mipprune.report.charts import Mark, Scale, Series, line_chart, path, scatter, thin
from mipprune.report.page import render, run_names
from mipprune.runs.record import read_run, timeline

VOID = {"meta", "link", "img", "br", "hr", "input"}
LAYERS = {"conv1": [16, 16], "layer1.0.conv1": [16, 4], "layer2.0.conv1": [64, 48]}
CERTIFICATE = [
    {"layer": "layer1.0.conv1", "groups": 16, "kept": 4, "objective": 12.5, "bound": 12.0,
     "gap": 0.04, "method": "spr"},
    {"layer": "layer2.0.conv1", "groups": 64, "kept": 48, "objective": 3.0, "bound": 2.9985,
     "gap": 0.0005, "method": "spr"},
    {"layer": "linear", "groups": 48, "kept": 48, "objective": 1.0, "bound": None, "gap": None,
     "method": "spr"},
]  # fmt: skip


def measures(accuracy, macs):
    return {"accuracy": accuracy, "macs": macs, "params": macs // 10, "bytes": macs // 2,
            "latency_ms": 3.25}  # fmt: skip


def metrics(epochs=4, removed=True):
    """Lines of a run as the engine writes them: two phases, a reference, a removal."""
    for epoch in range(1, 2 * epochs + 1):
        yield {"phase": "reference", "epoch": epoch, "time": epoch, "loss": 1 / epoch}
    yield {"phase": "dense", "epoch": 0, "time": 100, **measures(98.0, 2_000_000)}
    for epoch in range(1, epochs + 1):
        yield {"phase": "regularize", "epoch": epoch, "time": 100 + epoch, "loss": 2 / epoch,
               "accuracy": 50 + epoch, "images_per_s": 2000.0 + epoch, "lam": 0.01 * epoch,
               "alpha": 0.1, "regime_free": 1 - 0.1 * epoch,
               "regime_zero": 0.1 * epoch}  # fmt: skip
    if removed:
        yield {"phase": "remove", "epoch": 0, "time": 200, "accuracy": 42.0, "macs": 0.5}
        for epoch in range(1, epochs + 1):
            yield {"phase": "finetune", "epoch": epoch, "time": 200 + epoch, "loss": 0.5 / epoch,
                   "accuracy": 90 + epoch, "images_per_s": 3000.0}  # fmt: skip


def write_run(folder, *, method="spr", lines=None, accuracy=97.5, macs=1_000_000, finished=True):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        f"seed: 0\nmodel: {{name: resnet14}}\ndata: {{name: digits}}\nmethod: {{name: {method}}}\n"
        "budget: {macs: 0.5}\nregularize: {epochs: 4}\n"
    )
    lines = metrics() if lines is None else lines
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if finished:
        result = {
            "dense": measures(98.0, 2_000_000), "pruned": measures(accuracy, macs),
            "method": method, "budget": {"macs": 0.5}, "seconds": 12.0, "device": "cpu, 2 threads",
            "kept": {"macs": macs / 2e6, "params": macs / 2e6}, "layers": LAYERS,
        }  # fmt: skip
        (folder / "result.json").write_text(json.dumps(result))
    return folder


def page_of(*folders):
    return render([read_run(folder) for folder in folders], run_names(folders))


class Tree(HTMLParser):
    """Every element that was begun, with its attributes; raises where tags do not match."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self._open = [], [], []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def two_runs(tmp_path):
    """A finished run with certificates, and one that is not finished, of another method."""
    done = write_run(tmp_path / "done")
    (done / "certificate.json").write_text(json.dumps({"layers": CERTIFICATE}))
    lines = list(metrics(removed=False))
    return done, write_run(tmp_path / "stopped", method="greg", lines=lines, finished=False)


# ---- the page ---------------------------------------------------------------------------------


def test_the_page_is_whole_and_asks_for_nothing(two_runs):
    text = page_of(*two_runs)
    tree = Tree(text)
    assert not {"script", "img", "iframe", "object", "base", "form"} & {t for t, _ in tree.elements}
    for _, attributes in tree.elements:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            value = attributes.get(name, "#")
            assert value.startswith("#") or value == "data:,"
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"url\(|@import|https?://", text)
    identifiers = [a["id"] for _, a in tree.elements if "id" in a]
    assert len(identifiers) == len(set(identifiers))
    links = {a["href"][1:] for tag, a in tree.elements if tag == "a"}
    assert links == {"summary", "run-1", "run-2", "settings", "environment"} <= set(identifiers)


def test_every_picture_is_well_formed_and_says_what_it_is(two_runs):
    pictures = re.findall(r"<svg.*?</svg>", page_of(*two_runs), re.DOTALL)
    assert len(pictures) > 12
    for picture in pictures:
        root = ElementTree.fromstring(picture)
        assert root.get("aria-label") or root.get("aria-hidden") == "true"
        for element in root.iter():
            for value in element.attrib.values():
                assert not re.search(r"\b(nan|inf)\b", value)


def test_charts_name_their_axes_and_units(two_runs):
    text = page_of(*two_runs)
    charts = [c for c in re.findall(r"<svg.*?</svg>", text, re.DOTALL) if 'class="chart' in c]
    for chart in charts:
        units = [e.text for e in ElementTree.fromstring(chart).iter() if e.get("class") == "unit"]
        assert [bool(unit) for unit in units] == [True, True]
    for words in ("cross-entropy, nats", "test accuracy, %", "MACs of one image, millions"):
        assert words in text


def test_kept_channels_are_drawn_to_scale(two_runs):
    text = page_of(two_runs[0])
    for name, (dense, kept) in LAYERS.items():
        label = f'aria-label="{name}: {kept} of {dense} channels kept"'
        (picture,) = re.findall(rf'<svg class="bar"[^>]*{re.escape(label)}.*?</svg>', text)
        bars = ElementTree.fromstring(picture).iter("rect")
        widths = {bar.get("class"): float(bar.get("width").rstrip("%")) for bar in bars}
        assert widths == {"dense": 100 * dense / 64, "kept": 100 * kept / 64}
        assert f">{kept} of {dense}<" in text


def test_certificates_are_shown_with_what_is_not_known(two_runs):
    text = page_of(two_runs[0])
    table = text[text.index("<h3>Certificates") :]
    rows = [
        re.sub(r"<[^>]+>", "|", row) for row in re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)[1:4]
    ]
    for row, words in zip(
        rows,
        (("4 of 16", "12.5", "12", "4.00"), ("48 of 64", "2.998", "0.05"), ("linear", "–")),
        strict=True,
    ):
        for word in words:
            assert word in row.split("|")
    assert "1 of 3 are within 1 %, the largest gap is 4.0 %" in table


def test_an_unfinished_run_says_how_far_it_is(two_runs):
    text = page_of(two_runs[1])
    assert "not finished: regularize, epoch 4 of 4" in text
    assert "Kept channels" not in text
    assert "Certificates" not in text
    assert "98.00 %" in text  # the dense network's, measured before the method began


def test_a_run_that_has_only_begun_has_a_page(tmp_path):
    assert "not begun" in page_of(write_run(tmp_path / "new", lines=[], finished=False))


def test_names_are_text_never_markup(tmp_path):
    name = "<img src=x onerror=alert(1)> & \"quoted\" 'name'"
    text = page_of(write_run(tmp_path / name, method="'<b>bold</b>'"), write_run(tmp_path / "b"))
    tree = Tree(text)
    assert not {"img", "b"} & {tag for tag, _ in tree.elements}
    assert name in tree.text
    assert "<b>bold</b>" in tree.text
    for picture in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(picture)


def test_settings_that_differ_are_set_side_by_side(two_runs):
    text = page_of(*two_runs)
    table = text[text.index('id="settings"') :]
    assert re.findall(r"<code>(.*?)</code>", table) == ["method.name"]
    assert "<td>spr</td><td>greg</td>" in table
    assert 'id="settings"' not in page_of(two_runs[0])


def test_long_runs_make_small_pages(tmp_path):
    lines = [line for line in metrics(epochs=5000) if line["phase"] != "reference"]
    lines[2500] = {**lines[2500], "loss": 777.0}
    assert len(lines) > 10_000
    text = page_of(write_run(tmp_path / "long", lines=lines))
    assert len(text) < 300_000
    Tree(text)


# ---- reading ----------------------------------------------------------------------------------


def test_phases_follow_one_another_and_a_repeated_epoch_counts_once():
    lines = list(metrics(epochs=3))
    repeated = {**lines[8], "loss": 9.0}  # as a resumed run writes it again
    time = timeline([*lines[:9], {"phase": "resume", "epoch": 1}, repeated, *lines[9:]])
    assert time.phases == (("regularize", 0, 3), ("finetune", 3, 6))
    assert time.series["loss"][:2] == [(1, 2.0), (2, 9.0)]
    assert [x for x, _ in time.series["accuracy"]] == [1, 2, 3, 4, 5, 6]
    assert time.removal == (3, 42.0)
    assert time.reference == [(e, 1 / e) for e in range(1, 7)]
    assert set(time.method_numbers) == {"lam", "alpha", "regime_free", "regime_zero"}


def test_a_line_that_is_being_written_is_left_out(two_runs):
    file = two_runs[1] / "metrics.jsonl"
    whole = read_run(two_runs[1]).lines
    file.write_text(file.read_text() + '{"phase": "regul')
    assert read_run(two_runs[1]).lines == whole


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.jsonl", '{"phase": "a", "epoch": 1}\n{"pha\n{"phase": 1}\n', "line 2"),
        ("result.json", "[1]", "result.json is not a readable JSON object"),
        ("config.yaml", "a: [", "config.yaml is not a mapping"),
        ("certificate.json", '{"layers": [{"gap": 1}]}', "holds no certificates"),
        ("certificate.json", "{}", "holds no certificates"),
    ],
)
def test_a_broken_file_is_named(two_runs, name, content, message):
    (two_runs[0] / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_run(two_runs[0])


def test_runs_of_one_name_are_told_apart(tmp_path):
    paths = [tmp_path / "one/run", tmp_path / "two/run"]
    assert run_names(paths) == ["one/run", "two/run"]
    assert run_names(paths[:1]) == ["run"]
    assert run_names([paths[0], paths[0]]) == ["run", "run"]


# ---- charts -----------------------------------------------------------------------------------

numbers = st.floats(-1e6, 1e6) | st.just(math.nan)


@settings(max_examples=60, deadline=None)
@given(st.lists(numbers, min_size=1, max_size=400), st.integers(10, 100))
def test_thinning_keeps_peaks_gaps_and_order(values, most):
    points = list(enumerate(values))
    thinned = thin(points, most)
    assert thinned == sorted(thinned, key=lambda p: p[0])
    assert {x for x, _ in thinned} <= {x for x, _ in points}
    assert len(thinned) <= max(most, 1.5 * most + 2)
    assert (thinned[0][0], thinned[-1][0]) == (0, len(values) - 1)
    finite = [v for v in values if math.isfinite(v)]
    left = [v for _, v in thinned if math.isfinite(v)]
    if finite:
        assert (min(left), max(left)) == (min(finite), max(finite))
    assert (len(finite) < len(values)) == (len(left) < len(thinned))


def test_a_line_breaks_where_there_is_no_number():
    assert path([(0, 1), (1, 2), (2, math.nan), (3, 4)]) == "M0.0 1.0L1.0 2.0M3.0 4.0"


@settings(max_examples=60, deadline=None)
@given(st.floats(-1e5, 1e5), st.floats(1e-3, 1e5), st.booleans())
def test_ticks_lie_where_their_numbers_are(low, span, log):
    low = abs(low) + 1 if log else low
    scale = Scale(low, low + span, 300, 20, log)
    assert scale(low) == pytest.approx(300)
    assert scale(low + span) == pytest.approx(20)
    for place, label in scale.ticks(6):
        assert 19.99 <= place <= 300.01
        letter = label.split()[1:]
        value = float(label.split()[0]) * {"k": 1e3, "M": 1e6}.get(*letter or "1", 1)
        if abs(value) > span / 100 and span > abs(low) / 100:  # as exact as four digits are
            assert scale(value) == pytest.approx(place, abs=0.5)


def test_marks_lie_to_scale_and_their_names_do_not_overlap():
    marks = [
        Mark((x, y), f"{x}", "s1", f"name {x}") for x, y in ((1, 90), (2, 95), (4, 92), (4, 92.1))
    ]
    chart = scatter("t", marks, x_label="x", y_label="y", size=(400, 300))
    places = [(one["x"], one["y"]) for one in chart.marks]
    (x0, y0), (x1, y1), (x2, y2), _ = places
    assert (x2 - x0) / (x1 - x0) == pytest.approx(3)
    assert (y0 - y2) / (y0 - y1) == pytest.approx(2 / 5)
    boxes = []
    for one in chart.marks:
        if one["label"]:
            width = 6 * len(one["label"]["text"])
            shift = {"start": 0, "middle": width / 2, "end": width}[one["label"]["anchor"]]
            boxes.append((one["label"]["x"] - shift, one["label"]["y"] - 9, width))
    assert len(boxes) >= 3
    for (a, b, width), (c, d, _) in itertools.combinations(sorted(boxes), 2):
        assert a + width <= c or abs(b - d) >= 9


def test_a_wide_range_of_positive_numbers_gets_a_logarithmic_axis():
    def chart(values):
        series = [Series("a", list(enumerate(values)), "s1")]
        return line_chart("t", series, x_label="x", y_label="y", size=(400, 200))

    assert chart([1e-3, 1, 10]).y_label == "y, log scale"
    assert chart([0, 1e-3, 10]).y_label == "y"
    assert chart([5.0, 5.0]).y_ticks


# ---- the command ------------------------------------------------------------------------------


def command(words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mipprune", "report", *map(str, words)])
    code = 0
    try:
        cli.main()
    except SystemExit as exit_:
        code = exit_.code
    captured = capsys.readouterr()
    return code or 0, captured.out, captured.err


def test_the_page_of_one_run_lies_in_its_folder(two_runs, monkeypatch, capsys, tmp_path):
    code, _, error = command([two_runs[0], "--json", tmp_path / "out.json"], monkeypatch, capsys)
    assert (code, error) == (0, "")
    assert "<title>done – mipprune report</title>" in (two_runs[0] / "report.html").read_text()
    found = json.loads((tmp_path / "out.json").read_text())["runs"]["done"]
    assert (found["pruned"]["accuracy"], found["state"]) == (97.5, "finished")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["DONE", "STOPPED"], "--output FILE.html"),
        (["nowhere"], "no run at nowhere"),
        (["."], "it has neither config.yaml nor result.json"),
        (["DONE", "--output", "a.pdf"], "the file is written as .html"),
        (["DONE", "--output", "no/a.html"], "there is no folder no"),
    ],
)
def test_wrong_input_is_one_line(two_runs, words, message, monkeypatch, capsys, tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    known = {"DONE": two_runs[0], "STOPPED": two_runs[1]}
    code, _, error = command([known.get(w, w) for w in words], monkeypatch, capsys)
    assert code == 2
    (line,) = error.strip().splitlines()
    assert message in line
    assert not list(folder.iterdir())


# ---- in a browser -----------------------------------------------------------------------------

BROWSERS = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome")
# Ratio of luminances (WCAG 2.2) of every visible text to the background behind it, the least first.
CONTRAST = """() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const back = e => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] > 0) return c;
    }
  };
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || e.tagName === 'title' || !e.getBoundingClientRect().width) continue;
    const style = getComputedStyle(e);
    const [a, b] = [light(parse(e.closest('svg') ? style.fill : style.color)), light(back(e))];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.textContent.trim()]);
  }
  return found.sort((a, b) => a[0] - b[0]);
}"""
# Charts that are shown, how many have no size, and labels of axes that leave their card.
LAYOUT = """() => {
  const shown = [...document.querySelectorAll('.chart')]
    .filter(e => getComputedStyle(e).display !== 'none');
  const outside = [...document.querySelectorAll('.chart text')].filter(e => {
    const box = e.getBoundingClientRect(), card = e.closest('section').getBoundingClientRect();
    return box.width && (box.left < card.left || box.right > card.right);
  });
  return {
    charts: shown.length,
    empty: shown.filter(e => e.getBoundingClientRect().height < 80).length,
    outside: outside.map(e => e.textContent),
    overflow: document.documentElement.scrollWidth - innerWidth,
    text: Math.min(...[...document.querySelectorAll('.chart text')].map(e =>
      e.getBoundingClientRect().height || 99)),
  };
}"""


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as session:
        own = Path(session.chromium.executable_path)
        found = own if own.exists() else next(filter(None, map(shutil.which, BROWSERS)), None)
        if found is None:
            pytest.skip("needs a browser: apt install chromium, or playwright install chromium")
        browser = session.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_a_browser_shows_the_page_without_a_request_or_a_complaint(
    two_runs, browser, scheme, width, tmp_path
):
    file = tmp_path / "report.html"
    file.write_text(page_of(*two_runs), encoding="utf-8")
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 800})
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(file.as_uri())
    assert requests == [file.as_uri()]
    assert complaints == []
    layout = page.evaluate(LAYOUT)
    # a scatter; loss and accuracy of both; λ and the regimes of both
    assert layout["charts"] == 1 + 2 * 2 + 2 * 2
    assert (layout["empty"], layout["outside"], layout["overflow"]) == (0, [], 0)
    assert layout["text"] >= 9  # pixels
    contrasts = page.evaluate(CONTRAST)
    assert len(contrasts) > 100
    assert contrasts[0][0] >= 4.5, contrasts[0]
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background))) < 128 * 3) == (scheme == "dark")
    page.close()


def test_a_tooltip_tells_the_values_of_an_epoch(two_runs, browser, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(page_of(two_runs[0]), encoding="utf-8")
    page = browser.new_page()
    page.goto(file.as_uri())
    chart = page.locator('svg.chart[aria-label^="Loss"]').first
    strip = chart.locator(".strip").nth(1)
    assert strip.locator("title").text_content() == (
        "epoch 2, regularize\ntraining loss: 1\ndense reference: 0.5"
    )
    strip.hover()  # and nothing lies above it
    assert strip.locator("path").evaluate("e => getComputedStyle(e).opacity") == "0.7"
    page.close()
