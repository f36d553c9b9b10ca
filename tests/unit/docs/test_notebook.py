"""docs/notebook.ipynb as it is stored: run, small, and with nothing of the machine that ran it."""

from __future__ import annotations

import json
import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[3] / "docs"
TEXT = (DOCS / "notebook.ipynb").read_text()
CELLS = json.loads(TEXT)["cells"]


def test_it_was_run_in_order_and_shows_pictures() -> None:
    cells = [cell for cell in CELLS if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 5


def test_it_is_small_and_names_no_folder_of_a_machine() -> None:
    assert len(TEXT) < 300_000
    words = re.sub(r'"image/png": "[^"]*"', "", TEXT)
    assert not re.findall(r"/(?:home|root|tmp|work|usr)\b", words)


def test_its_links_are_not_dead() -> None:
    prose = "".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\(([^)#\s]+)", prose)
    assert links and all((DOCS / link).is_file() for link in links)
