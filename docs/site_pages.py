"""The documentation as a site (`make docs`): pages outside docs/, the notebook, links, anchors.

Pages are written for readers of the repository, who follow relative links from file to file. MkDocs
knows the files of docs/ alone: other pages get a name there, and a link to any other file of the
repository becomes one to where the repository is kept.
"""

from __future__ import annotations

import base64
import json
import posixpath
import re
import tomllib
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
# Pages that are no .md files of docs/, by their place in the site.
OUTSIDE = {
    "index.md": "README.md",
    "manifest.md": "manifests/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "notebook.md": "docs/notebook.ipynb",
}
_PAGES = {there: here for here, there in OUTSIDE.items()}
_FENCED = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!\w+:|#)([^)\s#]+)")


def on_config(config: Any) -> Any:
    """Gives headings the anchors that code hosts give them, so that one link fits both."""
    config.mdx_configs["toc"]["slugify"] = anchor
    return config


def anchor(heading: str, separator: str = "-") -> str:
    """Of a heading's text.

    Example:
        >>> anchor("images/<xx>/<id>.png")
        'imagesxxidpng'
    """
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", separator)


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages outside docs/, and the notebook with its images."""
    for here, there in OUTSIDE.items():
        text = (ROOT / there).read_text()
        if there.endswith(".ipynb"):
            text, images = notebook_page(text)
            for name, image in images.items():
                files.append(File.generated(config, name, content=image))
        files.append(File.generated(config, here, content=text))
    return files


def notebook_page(notebook: str) -> tuple[str, dict[str, bytes]]:
    """A notebook as the text of a page, and the PNGs in it by the names that the page has.

    Args:
        notebook: JSON, as nbformat 4 has it. Of an output with several forms, PNG is taken, else
            plain text.
    """
    parts: list[str] = []
    images: dict[str, bytes] = {}
    for cell in json.loads(notebook)["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "image/png" in data:
                name = f"img/notebook-{len(images)}.png"
                images[name] = base64.b64decode("".join(data["image/png"]))
                parts.append(f"![]({name})")
            else:
                parts.append(f"```text\n{''.join(data['text/plain']).strip()}\n```")
    return "\n\n".join(parts) + "\n", images


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page with its links as they are in the site."""
    source = OUTSIDE.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    parts = _FENCED.split(markdown)  # every other one is code
    return "".join(
        part if number % 2 else _LINK.sub(lambda link: f"]({moved(link[1], source)}", part)
        for number, part in enumerate(parts)
    )


def moved(link: str, source: str) -> str:
    """A relative link of a file of the repository, as the site has it.

    Example:
        >>> moved("../manifests/README.md", "docs/images.md")
        'manifest.md'
    """
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    if target in _PAGES:
        return _PAGES[target]
    if target.startswith("docs/") and target.endswith((".md", ".png")):
        return target.removeprefix("docs/")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return f"{project['urls']['Repository']}/blob/main/{target}"
