"""The report's page in headless Chromium: what its script does, what it asks the network for."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import threading
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dstc.report import write_report
from dstc.store.results import Outcome, result_table, write_part
from dstc.store.run_folder import RunFolder

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path")

ADDRESS = "http://report.invalid/"
# Chromium speaks to servers of its makers when it starts, whatever it opens; some of it can be
# turned off.
QUIET = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
OWN = re.compile(r"\b[\w.-]+\.(google|googleapis|gstatic)\.com\b")

# Uses the page as a reader would, and leaves what it saw in the document.
PROBE = """
const seen = {}, at = (id) => document.getElementById(id);
const ids = () => [...document.querySelectorAll(".card h3")].map((h) => h.textContent);
const put = (id, value) => {
  at(id).value = value;
  at(id).dispatchEvent(new Event("input", {bubbles: true}));
};
seen.first = ids().length;
at("next").click();
seen.second = ids();
put("sort", "seconds");
seen.slowest = ids()[0];
put("order", "low");
seen.fastest = ids()[0];
const orders = () => [...at("order").options].map((option) => option.textContent);
seen.plain = orders();
put("sort", "metric clip_score");
seen.worst = ids()[0];
seen.higher = orders();
put("order", "high");
seen.best = ids()[0];
put("sort", "metric structure_distance");
put("order", "low");
seen.closest = ids()[0];
seen.lower = orders();
put("sort", "");
put("flag", "*");
seen.flagged = ids();
put("flag", "range");
seen.range = ids();
put("flag", "");
put("reason", "fetch_error");
seen.failed = ids();
put("reason", "");
put("search", "row-07");
seen.found = ids();
document.querySelector(".compare-button").click();
const range = document.querySelector(".compare input"), over = range.previousElementSibling;
seen.before = over.style.clipPath;
range.value = 100;
range.dispatchEvent(new Event("input", {bubbles: true}));
seen.after = over.style.clipPath;
const view = at("view");
document.querySelector("a.open").click();
seen.enlarged = [view.open, view.querySelector("img").naturalWidth,
  view.querySelector("a").getAttribute("href")];
view.querySelector("button").click();
seen.closed = !view.open;
document.title = JSON.stringify(seen);
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """Thirty rows: the last failed, the others take longer the later they are.

    Rows 2 and 3 are flagged; rows 4, 5 and 6 end the metrics, and most rows have none.
    """
    run = RunFolder(str(tmp_path / "run"))
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    rows, outcomes = [], []
    for n in range(30):
        row_id = f"row-{n:02d}"
        rows.append({"id": row_id, "content": str(tmp_path / "a.png"), "prompt": "x"})
        image = Path(run.image(row_id))
        image.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "a.png", image)
        name = run.image_name(row_id)
        outcomes.append(Outcome("done", image=name, seed=1, steps=6, seconds=1.0 + n))
    outcomes[-1] = Outcome("failed", "fetch_error", "no answer", seed=1)
    outcomes[2] = replace(outcomes[2], flagged="structure")
    outcomes[3] = replace(outcomes[3], flagged="range, structure")
    table = result_table(pa.Table.from_pylist(rows), outcomes)
    write_part(run, 0, table)
    measures = [None] * 4 + [0.9, -0.1, 0.5] + [None] * 22 + [0.4]
    distances = [None] * 4 + [0.3, 0.2, 0.01] + [None] * 23
    metrics = {"id": table["id"], "clip_score": measures, "structure_distance": distances}
    (tmp_path / "run" / "metrics").mkdir()
    pq.write_table(pa.table(metrics), tmp_path / "run" / "metrics" / "part-00000.parquet")
    return Path(write_report(run.uri))


@dataclass(frozen=True)
class Seen:
    """What came of opening a page: its document, Chromium's log, and URLs that it asked for."""

    document: str
    log: str
    asked: list[str]

    @property
    def hosts(self) -> set[str]:
        return {re.sub(r"^\w+://", "", url).split("/")[0].split(":")[0] for url in self.asked}


def _open(url: str, profile: Path, *options: str) -> tuple[str, str]:
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--enable-logging=stderr", f"--user-data-dir={profile}", *options, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, done.stderr


def _open_recorded(page: str, profile: Path) -> Seen:
    """Opens it from a host that there is not, by way of a proxy that notes all that is asked.

    The proxy alone resolves names, so that nothing passes it; it answers with the page itself, and
    refuses whatever else.
    """
    asked: list[str] = []

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if self.path != ADDRESS:
                return self.send_error(404)
            body = page.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_CONNECT = do_POST = do_HEAD = do_OPTIONS = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        proxy = f"--proxy-server=http://127.0.0.1:{server.server_address[1]}"
        try:
            found = _open(ADDRESS, profile, proxy, "--proxy-bypass-list=<-loopback>", *QUIET)
        finally:
            server.shutdown()
            thread.join()
    return Seen(*found, [url for url in asked if not OWN.search(url)])


def _without_policy(page: str) -> str:
    """The page allows no script or source but its own; a test that adds one needs a copy."""
    text, found = re.subn(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", page)
    assert found == 1
    return text


def test_the_page_opens_without_a_word_on_the_console(page: Path, tmp_path: Path) -> None:
    document, log = _open(page.as_uri(), tmp_path / "profile")
    assert document.count('<article class="card"') == 24
    assert "page 1 of 2" in document
    assert "CONSOLE" not in log


def test_the_page_asks_the_network_for_nothing_but_itself(page: Path, tmp_path: Path) -> None:
    text = page.read_text()
    assert not OWN.search(text), "else a request of the page could pass for one of Chromium"
    seen = _open_recorded(text, tmp_path / "profile")
    assert seen.document.count('<article class="card"') == 24
    assert seen.asked == [ADDRESS], "no image, no style, no script, no icon"
    assert "CONSOLE" not in seen.log


def test_requests_of_a_page_would_be_noticed(page: Path, tmp_path: Path) -> None:
    """And the page's own policy stops them."""
    more = "".join(
        f'<{tag}://{host}.invalid/x"></script>'
        for tag, host in [
            ('img src="http', "image"),
            ('script src="https', "script"),
            ('link rel="stylesheet" href="http', "style"),
            ('link rel="preconnect" href="https', "early"),
        ]
    )
    text = page.read_text().replace("<body>", f"<body>{more}")
    seen = _open_recorded(_without_policy(text), tmp_path / "open")
    names = {f"{name}.invalid" for name in ("report", "image", "script", "style", "early")}
    assert seen.hosts == names
    seen = _open_recorded(text, tmp_path / "closed")
    assert not seen.hosts & (names - {"report.invalid", "early.invalid"})


def test_the_gallery_pages_sorts_filters_and_compares(page: Path, tmp_path: Path) -> None:
    text = _without_policy(page.read_text())
    text = text.replace("</body>", f"<script>{PROBE}</script></body>")
    seen = _open_recorded(text, tmp_path / "profile")
    assert "CONSOLE" not in seen.log and seen.asked == [ADDRESS]
    title = re.search(r"<title>(.*?)</title>", seen.document)
    assert title is not None
    assert json.loads(title[1]) == {
        "first": 24,
        "second": [f"row-{n}" for n in range(24, 30)],
        "slowest": "row-28",
        "fastest": "row-00",
        "plain": ["highest first", "lowest first"],
        "worst": "row-05",
        "best": "row-04",
        "higher": ["highest, the best first", "lowest, the worst first"],
        "closest": "row-06",
        "lower": ["highest, the worst first", "lowest, the best first"],
        "flagged": ["row-02", "row-03"],
        "range": ["row-03"],
        "failed": ["row-29"],
        "found": ["row-07"],
        "before": "inset(0px 0px 0px 50%)",
        "after": "inset(0px 0px 0px 0%)",
        "enlarged": [True, 8, "../a.png"],
        "closed": True,
    }


# Unfolds all, and notes at each width what is wider than the window or than its own frame.
WIDTHS = """
const frame = document.querySelector("iframe"), seen = {};
frame.onload = () => {
  const page = frame.contentDocument;
  for (const details of page.querySelectorAll("details")) details.open = true;
  for (const width of [320, 390, 1440]) {
    frame.style.width = width + "px";
    const scrolls = (element) => element.scrollWidth > element.clientWidth + 1
      && ["auto", "scroll"].includes(page.defaultView.getComputedStyle(element).overflowX);
    seen[width] = [...page.querySelectorAll("body *")].filter(scrolls).map((e) => e.outerHTML);
    if (page.documentElement.scrollWidth > width) seen[width].push("the page");
  }
  document.title = JSON.stringify(seen);
};
"""


def test_nothing_scrolls_sideways(page: Path, tmp_path: Path) -> None:
    run = page.parent
    value = {"mean": 0.123456, "low": 0.1111, "high": 0.1333, "count": 30}
    record = {
        "judging": {"dino": "a-network"},
        "rows": 30,
        "metrics": {"structure_distance": value, "clip_score": value},
        "baselines": {
            name: {"structure_distance": {"mean": mean, "low": mean, "high": mean}}
            for name, mean in (("source_copy", 0.0), ("style_copy", 0.5))
        },
    }
    (run / "metrics.json").write_text(json.dumps(record))
    (run / "job.json").write_text(json.dumps({"run_id": "x" * 90, "settings": {"long": "y" * 90}}))
    other = shutil.copytree(run, tmp_path / ("z" * 90))
    text = _without_policy(Path(write_report(str(run), beside=other)).read_text())
    assert 'id="measures"' in text and 'id="flags"' in text and "<pre" in text
    assert 'id="paired"' in text and 'data-name="beside"' in text
    outer = tmp_path / "outer.html"
    framed = f'<iframe srcdoc="{html.escape(text)}"></iframe><script>{WIDTHS}</script>'
    outer.write_text(f"<!doctype html>{framed}")
    document, _ = _open(outer.as_uri(), tmp_path / "profile")
    title = re.search(r"<title>(.*?)</title>", document)
    assert title is not None
    assert json.loads(html.unescape(title[1])) == {"320": [], "390": [], "1440": []}
