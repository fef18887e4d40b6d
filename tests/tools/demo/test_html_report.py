"""The page of predictions, in a real browser."""

import html
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest

from lesa_d2.tools.demo import HtmlReport
from lesa_d2.tools.demo.panels import Panels

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
OFFLINE = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]

# What a person does to the page, and what can then be seen.
STEPS = """
function see() {
  const cards = [...document.querySelectorAll("article.card")].filter(card => !card.hidden);
  const labels = cards.map(card => [...card.querySelectorAll("figure")].map(figure =>
    [...figure.querySelectorAll("g.detection:not([hidden]) text")].map(text => text.textContent)));
  return {names: cards.map(card => card.querySelector(".name").textContent), labels,
          summary: document.getElementById("summary").textContent,
          counts: [...document.querySelectorAll(".class")].map(chip => chip.textContent),
          empty: !document.getElementById("nothing").hidden};
}
function set(id, value, event) {
  const node = document.getElementById(id);
  if (node.type === "checkbox") node.checked = value; else node.value = value;
  node.dispatchEvent(new Event(event));
}
const seen = {start: see(), title: document.title, page: document.querySelector("h1").textContent};
set("score", "0.2", "input"); seen.lower = see();
document.querySelector('input[data-class="nut"]').click(); seen.without = see();
document.getElementById("none").click(); set("only", true, "change"); seen.none = see();
document.getElementById("all").click(); set("score", "0.7", "input"); seen.higher = see();
set("only", false, "change"); set("name", "SECOND", "input"); seen.named = see();
set("name", "", "input"); set("order", "most", "change"); set("score", "0.2", "input"); seen.most = see();
set("masks", false, "change");
seen.masks = getComputedStyle(document.querySelector(".mask")).display;
seen.sizes = [...document.querySelectorAll("svg")].map(svg => svg.viewBox.baseVal.width);
seen.box = document.querySelector("article .detection .box").getBBox().width;
const result = document.createElement("pre");
result.id = "seen"; result.textContent = JSON.stringify(seen); document.body.append(result);
"""


@pytest.fixture
def page(models, panels, tmp_path):
    report = HtmlReport("Fruits & <nuts>", models, 0.5)
    report.add("first.jpg", panels)
    few = Panels(panels.image, [panels.detections[0][:0], panels.detections[1]])
    report.add("photos/second.jpg", few)
    return report.save(tmp_path / "report.html")


def browse(page, script, folder):
    """Open a copy with a script of the test's at its end: the page afterwards, and what it logged."""
    copy = folder / "copy.html"
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", f"<script>{script}</script></body>"))
    arguments = [
        *QUIET,
        *OFFLINE,
        f"--user-data-dir={folder / 'profile'}",
        "--enable-logging=stderr",
        "--dump-dom",
    ]
    done = subprocess.run([BROWSER, *arguments, copy.as_uri()], capture_output=True, text=True, timeout=120)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def needs_browser():
    if BROWSER is None:
        # CI installs one: there, its absence is a failure
        if os.environ.get("CI"):
            pytest.fail("no Chromium here, which .ci/run installs")
        pytest.skip("needs Chromium or Chrome")


def test_filters_in_a_browser(page, tmp_path):
    needs_browser()
    content, console = browse(page, STEPS, tmp_path)
    assert console == []
    seen = json.loads(html.unescape(re.search(r'<pre id="seen">(.*?)</pre>', content, re.S)[1]))
    assert seen["title"] == seen["page"] == "Fruits & <nuts>"
    start = seen["start"]
    assert start["names"] == ["first.jpg", "photos/second.jpg"]
    assert start["labels"] == [[["nut 90%"], ["</script> 60%"]], [[], ["</script> 60%"]]]
    assert start["summary"] == "2 of 2 pictures, detections shown: 1 by LESA, 2 by convolution"
    assert seen["lower"]["labels"][0] == [["fig 30%", "nut 90%"], ["</script> 60%"]]  # the largest first
    assert seen["lower"]["counts"] == ["nut1", "fig1", "</script>2"]
    assert seen["without"]["labels"][0] == [["fig 30%"], ["</script> 60%"]]
    assert seen["none"]["names"] == []
    assert seen["none"]["empty"]
    assert seen["higher"]["names"] == ["first.jpg"]
    assert seen["named"]["names"] == ["photos/second.jpg"]
    assert seen["most"]["names"] == ["first.jpg", "photos/second.jpg"]
    assert seen["masks"] == "none"
    assert seen["sizes"] == [90] * 4
    assert seen["box"] == pytest.approx(40)


def test_errors_of_a_page_are_seen(page, tmp_path):
    """Else the test above could not fail for them."""
    needs_browser()
    _, console = browse(page, "throw new Error('as a test');", tmp_path)
    assert any("as a test" in line for line in console)


def test_one_file_without_anything_from_outside(page):
    content = page.read_text(encoding="utf-8")
    assert re.findall(r'(?:src|href)="(?!data:)[^"]*"|https?://(?!www\.w3\.org)[^"\s]*', content) == []
    assert content.count("</script>") == 2  # of the page itself: the class of that name is escaped


def test_detections_with_low_scores_are_kept_for_the_filter(models, panels, make_detections):
    report = HtmlReport("x", models[:1], 0.5)
    found = make_detections((60, 90), [[1, 1, 9, 9]] * 3, [0.04, 0.06, 0.9], [0, 0, 0])
    report.add("a", Panels(panels.image, [found]))
    assert [round(d["score"], 2) for d in report._pictures[0]["panels"][0]] == [0.06, 0.9]


def test_boxes_without_masks_and_large_pictures(models, make_detections):
    report = HtmlReport("x", models[:1], 0.5)
    found = make_detections((1000, 2000), [[1, 1, 9, 9]], [0.9], [0], masks=False)
    report.add("a", Panels(np.zeros((1000, 2000, 3), np.uint8), [found]))
    (picture,) = report._pictures
    assert picture["panels"][0][0]["outline"] == ""
    assert (picture["width"], picture["height"]) == (2000, 1000)
    assert len(picture["jpeg"]) < 40_000  # 960 pixels wide


def test_outlines_have_holes(models, panels, make_detections):
    report = HtmlReport("x", models[:1], 0.5)
    found = make_detections((60, 90), [[10, 10, 40, 40]], [0.9], [0])
    found.pred_masks[0, 20:30, 20:30] = False
    report.add("a", Panels(panels.image, [found]))
    assert report._pictures[0]["panels"][0][0]["outline"].count("M") == 2
