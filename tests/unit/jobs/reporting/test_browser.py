"""The report's page in headless Chromium: what its script does with the gallery."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from jobs.report import write_report
from jobs.store.results import Outcome, result_table, write_part
from jobs.store.run_folder import RunFolder

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path")

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
document.title = JSON.stringify(seen);
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """Thirty rows: the last failed, the others take longer the later they are."""
    run = RunFolder(str(tmp_path / "run"))
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    rows, outcomes = [], []
    for n in range(30):
        row_id = f"row-{n:02d}"
        rows.append({"id": row_id, "content": str(tmp_path / "a.png"), "prompt": "x"})
        picture = Path(run.image(row_id))
        picture.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "a.png", picture)
        name = run.image_name(row_id)
        outcomes.append(Outcome("done", image=name, seed=1, steps=6, seconds=1.0 + n))
    outcomes[-1] = Outcome("failed", "fetch_error", "no answer", seed=1)
    write_part(run, 0, result_table(pa.Table.from_pylist(rows), outcomes))
    return Path(write_report(run.uri))


def _open(page: Path, profile: Path) -> tuple[str, str]:
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--enable-logging=stderr", f"--user-data-dir={profile}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, done.stderr


def test_the_page_opens_without_a_word_on_the_console(page: Path, tmp_path: Path) -> None:
    document, log = _open(page, tmp_path / "profile")
    assert document.count('<article class="card"') == 24
    assert "page 1 of 2" in document
    assert "CONSOLE" not in log


def test_the_gallery_pages_sorts_filters_and_compares(page: Path, tmp_path: Path) -> None:
    # The page allows no script but its own, so the probe needs a copy without that policy.
    text, found = re.subn(
        r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", page.read_text()
    )
    assert found == 1
    probed = tmp_path / "probed.html"
    probed.write_text(text.replace("</body>", f"<script>{PROBE}</script></body>"))
    document, log = _open(probed, tmp_path / "profile")
    assert "CONSOLE" not in log
    title = re.search(r"<title>(.*?)</title>", document)
    assert title is not None
    assert json.loads(title[1]) == {
        "first": 24,
        "second": [f"row-{n}" for n in range(24, 30)],
        "slowest": "row-28",
        "fastest": "row-00",
        "failed": ["row-29"],
        "found": ["row-07"],
        "before": "inset(0px 0px 0px 50%)",
        "after": "inset(0px 0px 0px 0%)",
    }
