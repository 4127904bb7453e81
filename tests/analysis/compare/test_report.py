"""The page of a comparison: what it holds, that it stands alone, and that it works in a browser."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnnbench
from cnnbench.analysis.compare.plots import pareto_front
from cnnbench.analysis.compare.report import render_report, write_report
from cnnbench.analysis.compare.tables import compare_runs
from cnnbench.config.command import single_config
from cnnbench.config.compose import Composer
from cnnbench.training.data import describe_data
from cnnbench.training.network import describe_network
from tests.recorded_runs import CLASSES, write_run
from tests.tiny import command, train

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Runs after the page's own script: does what a person does, and writes down what came of it.
DRIVER = """
const rows = () => [...document.querySelectorAll("table.results tbody tr")]
  .map((row) => Number(row.dataset.row));
const drawn = (id) => [...document.querySelectorAll(`#${id} g.series`)]
  .map((series) => Number(series.dataset.row));
const head = (name) => document.querySelector(`th[data-column="${name}"]`);
const seen = { start: rows(), drawn: drawn("curves-0") };
head("test/accuracy").querySelector("button").click();
seen.ascending = [rows(), head("test/accuracy").getAttribute("aria-sort")];
head("test/accuracy").querySelector("button").click();
seen.descending = [rows(), head("test/accuracy").getAttribute("aria-sort")];
head("optimizer.lr").querySelector("button").click();
seen.settings = rows();
document.querySelector("input[name=show][value='2']").click();
seen.without2 = [drawn("curves-0"), drawn("cost-0")];
seen.front = document.querySelector("#cost-0 .front").getAttribute("d");
seen.address = location.hash;
document.querySelector("button[data-show=none]").click();
seen.none = [drawn("curves-0"), document.getElementById("curves-0").textContent];
document.querySelector("button[data-show=all]").click();
const metric = document.querySelector("select[data-key=metric]");
metric.value = "train/loss";
metric.dispatchEvent(new Event("change", { bubbles: true }));
seen.metric = [drawn("curves-0"), document.getElementById("curves-0").textContent];
const note = document.createElement("pre");
note.id = "seen";
note.textContent = JSON.stringify(seen);
document.body.append(note);
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five rows: three of seeds, one chosen on test, one with its own learning rate."""
    root = tmp_path / "o"
    for place, (model, values) in enumerate(
        {"lenet": [0.80, 0.82, 0.87], "mlp": [0.78, 0.83, 0.81], "nin": [0.91, 0.92]}.items()
    ):
        for seed, value in enumerate(values):
            size = 10_000 * 10**place
            write_run(root, model=model, seed=seed, test=value, num_params=size)
    write_run(root, model="mlp", test=0.85, settings={"optimizer.lr": 0.0005}, num_params=50)
    selected = {"results": {"selection": "test"}}
    write_run(root, settings={"optimizer.lr": 1e-5}, test=0.99, num_params=7, change=selected)
    return root


@pytest.fixture(scope="session")
def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        reason = "no browser: install Debian's chromium (apt-get install chromium)"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return found


def load(browser: str, page: Path, tmp_path: Path, address: str = "", *flags: str) -> str:
    """Open a page from disk and return its DOM after its script ran."""
    done = subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--disable-dev-shm-usage"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000"),
            *(flags or ("--dump-dom",)),
            f"file://{page}{address}",
        ],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def drawn(dom: str, chart: str) -> set[int]:
    [found] = re.findall(rf'<svg id="{chart}-0".*?</svg>', dom, re.DOTALL)
    return set(map(int, re.findall(r'<g class="series c\d" data-row="(\d+)"', found)))


def order(dom: str) -> list[int]:
    return list(map(int, re.findall(r'<tr data-row="(\d+)"', dom)))


def means(root: Path) -> dict[int, float]:
    rows = cnnbench.compare(root)["rows"]
    return {row["row"]: row["test/accuracy"]["mean"] for row in rows}


def test_an_address_gives_order_and_rows_drawn(browser: str, root: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    write_report(compare_runs([root]), page)
    accuracies = means(root)
    dom = load(browser, page, tmp_path)
    assert order(dom) == sorted(accuracies)
    assert drawn(dom, "curves") == drawn(dom, "cost") == set(accuracies)
    address = "#sort=test/accuracy&order=descending&show=1,3&metric=val/loss"
    dom = load(browser, page, tmp_path, address)
    assert order(dom) == sorted(accuracies, key=lambda number: -accuracies[number])
    assert drawn(dom, "curves") == drawn(dom, "cost") == {1, 3}
    assert 'data-column="test/accuracy" class="number" aria-sort="descending"' in dom
    assert ">val/loss</text>" in dom
    # What is no such address breaks nothing; a row's own opens it.
    dom = load(browser, page, tmp_path, "#sort=nonsense&show=99,x&metric=%zz&cost=no")
    assert (order(dom), drawn(dom, "curves")) == (sorted(accuracies), set())
    assert re.search(r'<details id="row-2"[^>]* open', load(browser, page, tmp_path, "#row-2"))


def test_clicks_sort_and_toggle(browser: str, root: Path, tmp_path: Path) -> None:
    found = compare_runs([root])
    text = render_report(found)
    # The page's policy forbids any script but its own; the test's copy lets the driver in.
    text = re.sub(r"script-src [^;]*", "script-src &#39;unsafe-inline&#39;", text, count=1)
    page = tmp_path / "driven.html"
    page.write_text(text.replace("</body>", f"<script>{DRIVER}</script></body>"))
    dom = load(browser, page, tmp_path)
    [written] = re.findall(r'<pre id="seen">(.*?)</pre>', dom)
    seen = json.loads(html.unescape(written))
    accuracies = means(root)
    up = sorted(accuracies, key=lambda number: accuracies[number])
    assert seen["start"] == sorted(accuracies) == sorted(seen["drawn"])
    assert seen["ascending"] == [up, "ascending"]
    assert seen["descending"] == [up[::-1], "descending"]
    rates = {row["row"]: row["optimizer.lr"] for row in cnnbench.compare(root)["rows"]}
    assert seen["settings"] == sorted(rates, key=lambda number: (rates[number], number))
    left = [number for number in sorted(accuracies) if number != 2]
    assert [sorted(numbers) for numbers in seen["without2"]] == [left, left]
    assert seen["address"] == f"#sort=optimizer.lr&show={','.join(map(str, left))}"
    rows = [row for table in found.tables for row in table.rows]
    points = {
        row.number: (float(row.values["num_params"]), accuracies[row.number])
        for row in rows
        if row.number in left and not row.not_comparable
    }
    assert len(re.findall("[MH]", seen["front"])) == len(pareto_front(points)) == 1
    assert seen["none"] == [[], "no row shown has val/accuracy"]
    assert sorted(seen["metric"][0]) == sorted(accuracies)
    assert "train/loss" in seen["metric"][1]


HOSTILE = "<script>document.title='hacked'</script><img src=x onerror=\"document.title='hacked'\">"


def test_names_from_strangers_are_inert(browser: str, root: Path, tmp_path: Path) -> None:
    break_out = f"</script>{HOSTILE}'\"><b id=out>"
    names = [break_out, *"bcdefghij"]
    counts = [[1] * 10 for _ in range(10)]
    change: dict[str, Any] = {
        "data": {"class_names": names, "source": break_out, "sha256": break_out},
        "command": [break_out],
        "model": {"name": break_out, "args": {break_out: break_out}},
        "test_confusion": counts,
    }
    settings = {"optimizer.lr": break_out, "data.normalize": break_out}
    for seed in (0, 1):
        write_run(root / "h", seed=seed, change=change, settings=settings)
    write_run(root / "h", model="mlp", status="failed", change={"reason": break_out})
    for group in (None, "optimizer.lr"):
        text = render_report(compare_runs([root / "h"], group=group))
        assert text.count("<script") == 2
        assert "<img" not in text
        page = tmp_path / "report.html"
        page.write_text(text)
        dom = load(browser, page, tmp_path)
        assert dom.count("<script") == 2
        assert "<title>cnnbench comparison</title>" in dom
        assert not re.search("<img|<b id", dom)
        # It is there as text, and the page works.
        assert "&lt;script&gt;document.title='hacked'" in dom
        assert drawn(dom, "curves") == {1}


def test_no_request_leaves_and_no_other_script_runs(
    browser: str, root: Path, tmp_path: Path
) -> None:
    """Even where markup had come into the page, its policy would let nothing of it act."""
    text = render_report(compare_runs([root]))
    assert not re.search(r"https?:|\bsrc=|url\(|@import|<link|<iframe|javascript:", text)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        there = f"http://127.0.0.1:{server.getsockname()[1]}"
        evil = (
            f'<script>document.title="hacked"</script><img src="{there}/a">'
            f'<link rel="stylesheet" href="{there}/b"><script src="{there}/c"></script>'
            f'<p style="background:url({there}/d)">'
        )
        page = tmp_path / "report.html"
        page.write_text(text.replace("<main>", f"{evil}<main>"))
        dom = load(browser, page, tmp_path)
        with pytest.raises(TimeoutError):
            server.accept()
        assert "<title>cnnbench comparison</title>" in dom
        assert drawn(dom, "curves")
        # The same without the policy does ask: the test can fail.
        page.write_text(re.sub("<meta http-equiv[^>]*>", "", page.read_text()))
        with subprocess.Popen(
            [
                *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
                *(f"--user-data-dir={tmp_path / 'other'}", f"file://{page}"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            server.settimeout(60)
            connection, _ = server.accept()
            with connection:
                assert b"GET /" in connection.recv(100)
            process.kill()


def test_a_picture_of_it_is_drawn(browser: str, root: Path, tmp_path: Path) -> None:
    from PIL import Image

    page, image = tmp_path / "report.html", tmp_path / "page.png"
    write_report(compare_runs([root]), page)
    flags = (f"--screenshot={image}", "--window-size=1200,1400", "--hide-scrollbars")
    load(browser, page, tmp_path, "", *flags)
    pixels = np.asarray(Image.open(image).convert("RGB")).astype(int)
    assert pixels.shape == (1400, 1200, 3)
    assert 0.01 < (pixels.min(axis=2) < 128).mean() < 0.3
    # The lines of the charts are coloured: Okabe and Ito's orange and blue are there.
    for color in ((213, 94, 0), (0, 114, 178)):
        assert (abs(pixels - color).max(axis=2) < 12).sum() > 50


class Outline(HTMLParser):
    """Collects what a reader without eyes or colours needs."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def all(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.tags if name == tag)


def test_it_can_be_read_without_eyes_colours_or_a_script(root: Path) -> None:
    text = render_report(compare_runs([root]))
    outline = Outline()
    outline.feed(text)
    assert next(outline.all("html"))["lang"] == "en"
    assert all(head["scope"] in ("row", "col") for head in outline.all("th"))
    assert all(box["aria-label"] for box in outline.all("input"))
    assert all(button["type"] == "button" for button in outline.all("button"))
    images = list(outline.all("svg"))
    assert all(p.get("aria-label") or p.get("aria-hidden") == "true" for p in images)
    identities = [a["id"] for _, a in outline.tags if "id" in a]
    assert len(identities) == len(set(identities))
    targets = {a["href"] for a in outline.all("a")}
    assert targets <= {f"#{identity}" for identity in identities}
    # What is not comparable says why, in words.
    assert "Row 1 is not comparable: epoch selected on test" in text


def matrix(draw: np.random.Generator, size: int) -> np.ndarray[Any, Any]:
    return draw.integers(0, 30, (size, size)) + 100 * np.eye(size, dtype=int)


def test_confusion_matrices_of_seeds_are_summed(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    counts = [matrix(draw, 10) for _ in range(3)]
    for seed, found in enumerate(counts):
        write_run(tmp_path, seed=seed, change={"test_confusion": found.tolist()})
    write_run(tmp_path, seed=3)
    torn = write_run(tmp_path, seed=4, change={"test_confusion": [[1, 2], [3, 4]]})
    write_run(tmp_path, model="mlp")
    compared = compare_runs([tmp_path])
    assert [(run.path, run.status) for run in compared.left_out] == [(torn, "foreign")]
    text = render_report(compared)
    total = sum(counts)
    [part] = re.findall(r'<table class="small confusion">.*?</table>', text, re.DOTALL)
    lines = re.findall(r"<tr>.*?</tr>", part, re.DOTALL)[1:]
    for place, line in enumerate(lines):
        cells = re.findall(r"<t[dh][^>]*>([^<]*)", line)
        assert cells[0] == CLASSES["fashion_mnist"][place]
        assert [int(cell or 0) for cell in cells[1:11]] == total[place].tolist()
        assert int(cells[11]) == total[place].sum()
        assert float(cells[12]) == pytest.approx(total[place, place] / total[place].sum(), abs=1e-4)
    assert f"The sum over 3 of 4 runs: {np.trace(total):,} of {total.sum():,} right." in text
    assert text.count("Not recorded; <code>cnnbench evaluate ") == 1


def test_many_classes_are_listed_by_what_goes_wrong(tmp_path: Path) -> None:
    names = [f"class{place}" for place in range(50)]
    counts = matrix(np.random.default_rng(1), 50)
    counts[7, 7] = 0
    counts[3, 40] = 999
    data = {"class_names": names, "num_classes": 50}
    write_run(tmp_path, change={"data": data, "test_confusion": counts.tolist()})
    text = render_report(compare_runs([tmp_path]))
    assert 'class="small confusion"' not in text
    worst = text.split("Classes with the lowest accuracy")[1]
    assert re.search(r'<th scope="row">(\w+)', worst).group(1) == "class7"
    pairs = text.split("What is taken for what most often")[1]
    first = re.search(r'<th scope="row">(\w+)</th><td>(\w+)</td><td>(\d+)', pairs)
    assert first.groups() == ("class3", "class40", "999")


def test_numbers_lead_to_where_they_came_from(tmp_path: Path) -> None:
    runs = [train(tmp_path / "o", f"seed={seed}") for seed in (0, 1)]
    text = html.unescape(render_report(compare_runs(runs)))
    for run in runs:
        info = json.loads((run / "run.json").read_text())
        assert f"<code>{run}</code>" in text
        assert f"cnnbench train --config {run}/config.yaml" in text
        assert info["provenance"]["code_version"] in text
        assert info["provenance"]["processes"][0]["started"] in text
    process = info["provenance"]["processes"][0]
    computed = f"({process['effective']['cpu_capability']}"
    for words in (info["data"]["sha256"], process["machine"]["torch"], computed):
        assert words in text
    # The network, layer by layer, as the summary has it.
    layers = cnnbench.summary(cnnbench.load(runs[0]), (1, 16, 16))["layers"]
    for layer in layers:
        cells = rf'<th scope="row">{layer["name"]}</th><td>{layer["kind"]}</td>'
        assert re.search(cells + rf".*?<td>{layer['num_params']:,}</td>", text)
    counts = [cnnbench.evaluate(run)["confusion_matrix"] for run in runs]
    infos = [json.loads((run / "run.json").read_text()) for run in runs]
    assert [info["test_confusion"] for info in infos] == counts
    total = np.sum(counts, axis=0)
    hits = f"The sum over 2 of 2 runs: {np.trace(total)} of {total.sum()} right."
    assert hits in text


def test_a_network_that_cannot_be_built_says_so(tmp_path: Path) -> None:
    mine = {"name": "custom", "in_channels": 1, "num_classes": 10, "image_size": 28}
    write_run(tmp_path, change={"model": {**mine, "args": {"path": "/x.py:Net", "args": {}}}})
    write_run(tmp_path, model="mlp", change={"model": {**mine, "name": "nobodys", "args": {}}})
    write_run(tmp_path, model="nin", change={"model": {**mine, "name": "nin", "args": [1]}})
    text = html.unescape(render_report(compare_runs([tmp_path])))
    assert text.count("Its layers are not shown: ") == 3
    assert "a network of someone's own (/x.py:Net" in text
    assert "the network 'nobodys' is unknown" in text


def test_a_hundred_runs_are_a_small_file(tmp_path: Path) -> None:
    """All differ, are deep and long, and have as many classes as a matrix is drawn for."""
    composer = Composer()
    config = single_config(composer, composer.parse(["model=mlp"]))
    facts = describe_network(config, describe_data(config)).to_dict()
    counts = matrix(np.random.default_rng(2), 20).tolist()
    for number in range(100):
        write_run(
            tmp_path / "o",
            model="mlp",
            settings={"num_epochs": 250, "optimizer.lr": 0.001 * (number + 1)},
            test=0.5 + number / 250,
            val=0.5 + number / 250,
            change={
                "model": {**facts, "args": {**facts["args"], "hidden": [number // 10 + 2] * 29}},
                "data": {"num_classes": 20, "class_names": [f"class{n}" for n in range(20)]},
                "test_confusion": counts,
            },
        )
    found = compare_runs([tmp_path / "o"])
    write_report(found, tmp_path / "new" / "report.html")
    size = (tmp_path / "new" / "report.html").stat().st_size
    assert 1e6 < size < 5e6
    text = (tmp_path / "new" / "report.html").read_text()
    assert text.count('<details id="row-') == 100
    assert text.count('<details id="network-') == 10
    network = re.findall('<details id="network-1">.*?</details>', text, re.DOTALL)[0]
    assert network.count("<tr>") > 50
    # Each row could have had its own.
    assert size + 90 * len(network) < 5e6
    assert "At first the 10 rows with the best validation accuracy are drawn." in text
    data = json.loads(re.findall(r'id="data">(.*?)</script>', text)[0])
    assert data["shown"] == list(range(1, 11))
    epochs = [point[0] for point in data["tables"][0]["rows"][0]["curves"]["val/loss"]]
    assert (epochs[0], epochs[-1], len(set(epochs)), len(epochs)) == (1, 250, 120, 120)


def test_the_same_runs_give_the_same_bytes(root: Path, tmp_path: Path) -> None:
    first = tmp_path / "first.html"
    write_report(compare_runs([root], baseline="nin", group="data"), first)
    done = command(
        *("compare", str(root / "fashion_mnist" / "mlp"), str(root), "--baseline", "nin"),
        *("--group", "data", "--html", str(tmp_path / "deep" / "second.html")),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"cnnbench: {tmp_path / 'deep' / 'second.html'}\n"
    assert (tmp_path / "deep" / "second.html").read_bytes() == first.read_bytes()


def test_groups_have_their_own_tables_and_charts(browser: str, root: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    write_report(compare_runs([root], group="model"), page)
    dom = load(browser, page, tmp_path)
    assert re.findall("<h2>(model = .*?)</h2>", dom) == [
        f"model = {name}" for name in ("lenet", "mlp", "nin")
    ]
    charts = re.findall(r'<svg id="curves-\d".*?</svg>', dom, re.DOTALL)
    assert [len(re.findall('<g class="series', chart)) for chart in charts] == [2, 2, 1]


def test_no_finished_run_is_a_page_too(browser: str, tmp_path: Path) -> None:
    run = write_run(tmp_path, status="failed", change={"reason": "no space left"})
    page = tmp_path / "report.html"
    write_report(compare_runs([tmp_path]), page)
    dom = load(browser, page, tmp_path)
    assert "No finished run to show." in dom
    assert "no space left" in dom
    assert str(run) in dom


# Measures the page as it lies in the window.
RULER = """
const size = (element) => [element.scrollWidth, element.clientWidth];
const note = document.createElement("pre");
note.id = "seen";
note.textContent = JSON.stringify({
  page: size(document.documentElement),
  table: size(document.querySelector(".scroll")),
  verdict: document.querySelector(".verdict").getBoundingClientRect().bottom,
  card: getComputedStyle(document.querySelector("table.results tbody tr")).display,
  more: [...document.querySelectorAll(".results .more")].map((cell) => cell.offsetWidth),
  letters: [...document.querySelectorAll("figure svg text")].map((text) =>
    parseFloat(getComputedStyle(text).fontSize) * text.ownerSVGElement.clientWidth / 640),
});
document.body.append(note);
"""


@pytest.mark.parametrize("width", [1400, 500])
def test_the_verdict_is_in_sight_and_the_table_fits(
    width: int, browser: str, root: Path, tmp_path: Path
) -> None:
    """Headless Chromium makes no window narrower than 500 pixels."""
    text = render_report(compare_runs([root], baseline="nin"))
    assert re.search(r'<p class="verdict"><strong>Baseline: nin, 0\.9150 ', text)
    text = re.sub(r"script-src [^;]*", "script-src &#39;unsafe-inline&#39;", text, count=1)
    page = tmp_path / "ruled.html"
    page.write_text(text.replace("</body>", f"<script>{RULER}</script></body>"))
    dom = load(browser, page, tmp_path, "", "--dump-dom", f"--window-size={width},900")
    [written] = re.findall(r'<pre id="seen">(.*?)</pre>', dom)
    seen = json.loads(html.unescape(written))
    assert seen["page"][0] <= seen["page"][1]
    assert seen["table"][0] <= seen["table"][1]
    assert seen["verdict"] < 900
    assert seen["card"] == ("table-row" if width == 1400 else "block")
    assert set(seen["more"]) == {0}
    assert min(seen["letters"]) >= 11


def test_the_dots_lie_where_their_accuracies_are(root: Path) -> None:
    found = compare_runs([root])
    text = render_report(found)
    dots = [float(at) for at in re.findall(r'class="mean" x="([\d.-]+)"', text)]
    means = [row.metric("test/accuracy")["mean"] for row in found.tables[0].rows]
    assert np.corrcoef(dots, means)[0, 1] == pytest.approx(1, abs=1e-4)
    assert "not from 0" in text
    assert dots == sorted(dots, reverse=True)


def test_captions_name_bars_and_bands_where_rows_have_seeds(root: Path, tmp_path: Path) -> None:
    for model in ("lenet", "mlp"):
        write_run(tmp_path / "single", model=model, test=0.8)
    several, single = (
        " ".join(re.findall(r"<figcaption>.*?</figcaption>", render_report(compare_runs([at]))))
        for at in (root, tmp_path / "single")
    )
    assert several.count("over seeds") == 3
    for word in ("seeds", "band", "Bars"):
        assert word not in single
    assert "One run each" in single


def test_a_row_whose_test_images_are_unread_is_not_drawn_at_zero(tmp_path: Path) -> None:
    run = train(tmp_path, "num_epochs=1", "evaluate_test=false")
    page = render_report(compare_runs([run]))
    assert "basic_cnn: test images unread</summary>" in page
    assert '"costs":{},"score":[]' in page
