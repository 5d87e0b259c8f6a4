"""report.html: says what law.json says, holds all it needs, and harms nobody who opens it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import chromium
import pytest
from chromium import Elements, at, embedded_data

from flops_fit.cli import main
from flops_fit.fitting import fit_runs
from flops_fit.fitting.simulation import simulate_sweep
from flops_fit.laws import LossSurface
from flops_fit.report.page import page
from flops_fit.report.page.data import MOST_DRAWN
from flops_fit.report.page.page import study_page
from flops_fit.report.report import Report, pictures
from flops_fit.tables import write_runs

SURFACE = LossSurface(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
SIZES = (1 / 8, 1 / 3, 1, 3, 8)
BUDGETS = (1e18, 3e18, 1e19, 3e19)

LARGEST = 1.5e6
"""Bytes of a page."""

EVIL = "<script>document.title='taken'</script>&\"'`${alert(1)}"

SUFFIXES = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}

ADDRESS = re.compile(r"""(?:src|href|action|poster)\s*=\s*["']?\s*(?:https?:)?//|@import|url\(""")


def number_in(text: str, shown: str) -> float:
    """A number as the page writes it: 1.2M, or 5×10 and raised digits, which the text has plain."""
    if shown == "flops":
        head, exponent = re.fullmatch(r"(?:([\d.]+)×)?10(-?\d+)", text).groups()
        return float(head or 1) * 10.0 ** int(exponent)
    if text[-1] in SUFFIXES:
        return float(text[:-1]) * SUFFIXES[text[-1]]
    return float(text.rstrip("x").replace(",", ""))


def said_by(html: str) -> list[tuple[str, float, float]]:
    """Place in law.json, unrounded value and what the text says of each number of a page."""
    return [
        (attrs["data-law"], float(attrs["value"]), number_in(text.strip(), attrs["data-shown"]))
        for attrs, text in Elements(html).of("data")
    ]


def check_numbers(html: str, document: dict) -> int:
    """That all numbers of a page, and their intervals, are those of the document; how many."""
    said = said_by(html)
    for place, value, shown in said:
        assert value == at(document, place), place
        assert shown == pytest.approx(value, rel=6e-3, abs=6e-4), place
    bounds = [attrs for attrs, _ in Elements(html).of("span") if "data-law-interval" in attrs]
    for attrs in bounds:
        assert [float(attrs["data-low"]), float(attrs["data-high"])] == at(
            document, attrs["data-law-interval"]
        )
    return len(said) + len(bounds)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A table with a law and its page, and one of another name to compare it with."""
    folder = tmp_path_factory.mktemp("page")
    for seed, name in enumerate(("sweep", "other")):
        runs = simulate_sweep(SURFACE, BUDGETS, sizes=SIZES, noise=0.001, seed=seed)
        write_runs(folder / f"{name}.csv", runs)
        words = [f"runs={folder / name}.csv", f"output_root={folder / 'outputs'}", "draws=200"]
        assert main(["fit", *words]) == 0
    assert main(["compare", "studies=sweep,other", f"output_root={folder / 'outputs'}"]) == 0
    return folder


@pytest.fixture(scope="module")
def answer(folder) -> Path:
    return folder / "outputs/sweep/latest"


def test_every_number_of_the_page_is_that_of_law_json(answer):
    html = (answer / "report.html").read_text(encoding="utf-8")
    law = json.loads((answer / "law.json").read_text())
    assert check_numbers(html, law) > 80
    first = next(place for place, *_ in said_by(html) if place.endswith("/num_params"))
    assert at(law, first.replace("num_params", "extrapolation")) == pytest.approx(10)
    text = Elements(html).of("body")[0][1]
    said = law["diagnostics"]
    for line in (said["verdict"], *(step[1:] for step in (*said["findings"], *said["advice"]))):
        assert line in text
    e, alpha = (f"{law['surface'][name]:{form}}" for name, form in (("E", ".4g"), ("alpha", ".3f")))
    assert f"L = {e} + " in text
    assert f"/N{alpha} + " in text


def test_the_drawn_numbers_are_those_of_the_law_and_the_runs(answer):
    html = (answer / "report.html").read_text(encoding="utf-8")
    law = json.loads((answer / "law.json").read_text())
    figures = {one["name"]: one for one in embedded_data(html)["figures"]}
    assert set(figures) == {"isoflop", "optima", "loss", "contours", "residuals", "backtests"}
    (panel,) = figures["isoflop"]["panels"]
    stars = [mark for mark in panel["marks"] if mark.get("symbol") == "star"]
    assert [mark["x"] for mark in stars] == [
        [pytest.approx(b["N_opt"], rel=1e-5)] for b in law["isoflop"]["budgets"]
    ]


def test_the_table_of_runs_has_all_of_them(answer):
    html = (answer / "report.html").read_text(encoding="utf-8")
    columns = {column["name"]: column for column in embedded_data(html)["runs"]}
    assert len(columns["loss"]["cells"]) == len(BUDGETS) * len(SIZES)
    budgets = columns["budget, FLOPs"]
    shown = {budgets["distinct"][i] for i in budgets["cells"]}
    assert sorted(shown) == list(BUDGETS)


def test_a_page_is_small_and_asks_for_nothing_outside_of_itself(answer, folder):
    for path in (answer / "report.html", folder / "outputs/compare-sweep-other/comparison.html"):
        html = path.read_text(encoding="utf-8")
        assert path.stat().st_size < LARGEST
        assert "default-src 'none'" in html
        assert not ADDRESS.search(re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL))


def test_a_comparison_has_its_page_with_the_numbers_of_comparison_json(folder):
    place = folder / "outputs/compare-sweep-other"
    html = (place / "comparison.html").read_text(encoding="utf-8")
    document = json.loads((place / "comparison.json").read_text())
    assert check_numbers(html, document) > 20
    assert document["verdict"] in Elements(html).of("body")[0][1]
    assert {path.suffix for path in place.iterdir()} == {".json", ".html", ".png", ".svg"}


def test_beside_a_published_law_it_shows_optima(folder, capsys):
    assert main(["compare", "studies=sweep,chinchilla", f"output_root={folder / 'outputs'}"]) == 0
    place = folder / "outputs/compare-sweep-chinchilla"
    html = (place / "comparison.html").read_text(encoding="utf-8")
    assert check_numbers(html, json.loads((place / "comparison.json").read_text())) > 20


def evil_page() -> str:
    """Of a study whose name, ids and errors are HTML."""
    runs = simulate_sweep(SURFACE, BUDGETS[:3], sizes=SIZES, noise=0.001)
    runs[3] = replace(runs[3], id=f"{EVIL}3")
    gone = replace(runs[0], id=f"{EVIL}0", status="failed", loss=None, error=f"{EVIL}\nmore")
    law = fit_runs(runs, draws=20)
    report = Report(EVIL, [*runs, gone], law)
    return study_page(report, pictures(report))


def test_what_users_name_is_text_and_nothing_else():
    html = evil_page()
    assert "<script>document" not in html
    assert Elements(html).of("h1")[0][1] == EVIL
    ids = next(c for c in embedded_data(html)["runs"] if c["name"] == "run")["cells"]
    assert f"{EVIL}3" in ids
    assert html.count("<script") == 3 + 4 - 1


def test_no_law_has_a_page_that_says_why_with_the_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_runs(Path("few.csv"), simulate_sweep(SURFACE, BUDGETS[:1], sizes=SIZES))
    assert main(["fit", "runs=few.csv"]) == 3
    answer = Path("outputs/few/latest")
    html = (answer / "report.html").read_text(encoding="utf-8")
    refusal = json.loads((answer / "refusal.json").read_text())
    assert refusal["refusal"] in Elements(html).of("body")[0][1]
    assert check_numbers(html, refusal) >= 1
    assert len(embedded_data(html)["runs"][0]["cells"]) == len(SIZES)
    assert not Elements(html).of("table", id="answers")


def test_thousands_of_runs_make_a_page_within_the_limit():
    sizes = [1.002**k for k in range(-1250, 1250)]
    runs = simulate_sweep(SURFACE, BUDGETS, sizes=sizes, noise=0.01)
    assert len(runs) == 10_000
    law = fit_runs(runs[::50], draws=0)
    report = Report("many", runs, law)
    shown = pictures(report)
    html = study_page(report, shown)
    assert len(html.encode()) < LARGEST
    data = embedded_data(html)
    listed = len(data["runs"][0]["cells"])
    assert 5000 <= listed < len(runs)
    assert f"The first {listed:,} are listed; runs.csv has all." in html
    for figure in data["figures"]:
        for panel in figure["panels"]:
            dots = (len(mark["x"]) for mark in panel["marks"] if mark["kind"] == "points")
            assert sum(dots) <= 1.01 * MOST_DRAWN


def test_what_is_vendored_is_what_was_published():
    folder = Path(page.__file__).parent / "vendor"
    rows = re.findall(
        r"^\| (\S+\.js) \| .* ([0-9a-f]{64}) \|$", (folder / "README.md").read_text(), re.M
    )
    assert {name for name, _ in rows} == set(page.VENDORED)
    for name, digest in rows:
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


needs_chromium = pytest.mark.skipif(
    chromium.BINARY is None, reason="no chromium here: apt-get install chromium"
)

POINT = """
const chart = document.querySelector("[data-figure=isoflop] svg");
for (const one of chart.querySelectorAll("[aria-label=dot] *")) {
  const at = one.getBoundingClientRect();
  const [x, y] = [at.x + at.width / 2, at.y + at.height / 2];
  const how = {clientX: x, clientY: y, bubbles: true, pointerType: "mouse"};
  chart.dispatchEvent(new PointerEvent("pointermove", how));
}
"""

SORT = """
const heads = [...document.querySelectorAll("#runs-table th button")];
heads.find((head) => head.textContent === "loss").click();
"""


@needs_chromium
def test_a_browser_opens_it_without_errors_and_without_network(answer, tmp_path):
    seen = chromium.seen(answer / "report.html", tmp_path)
    assert seen.console == ()
    assert seen.asked == ()
    charts = [attrs for attrs, _ in Elements(seen.html).of("div") if "data-figure" in attrs]
    assert len(charts) == 9
    assert all(int(attrs["data-drawn"]) > 0 for attrs in charts)
    assert check_numbers(seen.html, json.loads((answer / "law.json").read_text())) > 80


@needs_chromium
def test_what_users_name_is_run_by_no_browser(tmp_path):
    (tmp_path / "evil.html").write_text(evil_page(), encoding="utf-8")
    then = "document.body.dataset.title = document.title;"
    seen = chromium.seen(tmp_path / "evil.html", tmp_path, then=POINT + then)
    assert seen.console == ()
    ((body, _),) = Elements(seen.html).of("body")
    assert body["data-title"] == EVIL
    assert f"{EVIL}3" in Elements(seen.html).of("table", id="runs-table")[0][1]


@needs_chromium
def test_what_is_pointed_at_says_what_it_is(answer, tmp_path):
    seen = chromium.seen(answer / "report.html", tmp_path, then=POINT)
    assert seen.console == ()
    tips = re.findall(r'aria-label="tip".*?</g></g>', seen.html, flags=re.DOTALL)
    runs = {c["name"]: c for c in embedded_data(seen.html)["runs"]}["run"]["cells"]
    assert any(str(run) in tip or "minimum" in tip for tip in tips for run in runs)


@needs_chromium
def test_the_runs_are_sorted_by_the_column_that_is_pressed(answer, tmp_path):
    seen = chromium.seen(answer / "report.html", tmp_path, then=SORT)
    data = {c["name"]: c["cells"] for c in embedded_data(seen.html)["runs"]}
    lowest = data["run"][data["loss"].index(min(data["loss"]))]
    rows = Elements(seen.html).of("td", **{"class": "text"})
    table = re.search(r'<table id="runs-table">.*?<tbody>(.*?)</tbody>', seen.html, re.DOTALL)
    assert table
    first = Elements(table[1]).of("td")[0][1]
    assert first == lowest
    assert rows


SEEN = """
const seen = getComputedStyle(document.body);
const dot = document.querySelector("[data-figure=isoflop] [aria-label=dot] *");
const charts = [...document.querySelectorAll(".chart svg")];
return {
  over: document.documentElement.scrollWidth - innerWidth,
  paper: seen.backgroundColor,
  ink: seen.color,
  budget: getComputedStyle(dot).fill,
  width: innerWidth,
  right: Math.max(...charts.map((one) => one.getBoundingClientRect().right)),
};
"""


@needs_chromium
@pytest.mark.parametrize("width", [1100, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_can_be_read_on_wide_and_narrow_screens_in_both_themes(answer, tmp_path, width, theme):
    flags = chromium.DARK if theme == "dark" else chromium.LIGHT
    seen = chromium.measured(answer / "report.html", tmp_path, SEEN, width=width, flags=flags)
    assert seen["width"] == width
    assert seen["over"] <= 0
    assert seen["right"] <= width
    paper, ink, budget = seen["paper"], seen["ink"], seen["budget"]
    assert contrast(paper, ink) > 7
    assert contrast(paper, budget) > 2
    assert (brightness(paper) < brightness(ink)) == (theme == "dark")


def brightness(colour: str) -> float:
    """Relative luminance (WCAG 2.1) of rgb(r, g, b)."""
    channels = [int(c) / 255 for c in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, 1 to 21."""
    dark, light = sorted(map(brightness, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def test_report_opens_the_page_where_that_is_asked(folder, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or True)
    words = ["report", "study=sweep", f"output_root={folder / 'outputs'}"]
    assert main(words) == 0
    assert opened == []
    assert main([*words, "open=true"]) == 0
    (url,) = opened
    assert url.startswith("file://")
    assert url.endswith("/report.html")


def test_a_page_is_written_where_matplotlib_is_not(folder, tmp_path):
    from test_light_core import python

    shutil.copy(folder / "sweep.csv", tmp_path / "sweep.csv")
    code = """
        from flops_fit.cli import main
        assert main(["fit", "runs=sweep.csv", "draws=20"]) == 0
    """
    python(code, {"matplotlib", "torch"}, tmp_path)
    assert (tmp_path / "outputs/sweep/latest/report.html").stat().st_size > 1000


def test_runs_without_a_size_or_seconds_have_no_such_columns(answer):
    html = (answer / "report.html").read_text(encoding="utf-8")
    names = {column["name"] for column in embedded_data(html)["runs"]}
    assert "seconds" not in names
    assert {"run", "N", "D", "loss"} <= names
