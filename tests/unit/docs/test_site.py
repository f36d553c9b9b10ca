"""`make docs`: the site builds without a dead link, holds every page, and fetches nothing."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]


def needs_mkdocs() -> None:
    pytest.importorskip("mkdocs", reason="the site needs mkdocs-material, of dstc[dev]")
    pytest.importorskip("material", reason="the site needs mkdocs-material, of dstc[dev]")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs_mkdocs()
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


# Pages that are no .md files of docs/.
OUTSIDE = ("index", "manifest", "contributing", "changelog", "notebook")


def test_every_page_has_its_place_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    placed = re.findall(r"([\w-]+)\.md$", text.partition("\nnav:\n")[2], re.MULTILINE)
    pages = [path.stem for path in (ROOT / "docs").glob("*.md")]
    assert sorted(placed) == sorted([*pages, *OUTSIDE]), "add the page to nav in mkdocs.yml"
    assert yaml.safe_load(text)["theme"]["font"] is False


def test_every_page_is_there(site: Path) -> None:
    pages = [path.stem for path in (ROOT / "docs").glob("*.md")]
    assert {path.stem for path in site.glob("*.html")} == {*pages, *OUTSIDE, "404"}
    assert not list(site.rglob("*.py"))
    assert '<img alt="" src="img/notebook-0.png"' in (site / "notebook.html").read_text()


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text()
        fetched = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?([^\s\">]+)", text)
        fetched += re.findall(r"<link\b(?![^>]*canonical)[^>]*\bhref=\"?([^\s\">]+)", text)
        assert fetched
        assert not [link for link in fetched if re.match(r"\w+:|//", link)], page.name
        assert "data-md-component=source" not in text.replace('"', "")  # asks for stars


def test_links_to_files_lead_where_the_repository_is() -> None:
    needs_mkdocs()
    moved = runpy.run_path(str(ROOT / "docs" / "site_pages.py"))["moved"]
    assert moved("../manifests/README.md", "docs/images.md") == "manifest.md"
    assert moved("docs/img/demo-report.png", "README.md") == "img/demo-report.png"
    assert moved("../docs/images.md", "manifests/README.md") == "images.md"
    assert moved("notebook.ipynb", "docs/python.md") == "notebook.md"
    assert moved("students.md", "docs/images.md") == "students.md"
    assert moved("../NOTICE", "docs/licenses.md") == "https://github.com/dstc/dstc/blob/main/NOTICE"
