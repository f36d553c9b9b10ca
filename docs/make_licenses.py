"""Renews docs/licenses.md: `python docs/make_licenses.py`, where the whole lock is installed."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "licenses.md"
DEVELOPMENT = "# Only for development:"
# Packages whose metadata is silent: what their files say.
SILENT = {
    "cuda-toolkit": "names NVIDIA's packages, holds none",
    "resvg-py": "MIT",
}


def locked() -> dict[str, str]:
    """Name -> "run" or "development", of each package in the lock."""
    run, _, development = (ROOT / "requirements.lock").read_text().partition(DEVELOPMENT)
    uses = {"run": run, "development": development}
    names = ((re.findall(r"(?m)^(\S+)==", text), use) for use, text in uses.items())
    return {name: use for found, use in names for name in found}


def license_of(name: str) -> str:
    """What an installed package says of its license, in one line.

    Raises:
        PackageNotFoundError: it is not installed. KeyError: it says nothing.
    """
    metadata = importlib.metadata.metadata(name)
    words = [metadata.get("License-Expression") or ""]
    classifiers = [c for c in metadata.get_all("Classifier") or () if c.startswith("License ::")]
    words.append("; ".join(c.rpartition(" :: ")[2] for c in classifiers))
    words.append((metadata.get("License") or "").strip().partition("\n")[0])
    said = next((word for word in words if word and word != "OSI Approved"), None)
    return (said or SILENT[name]).replace("|", "/")


def listed() -> dict[str, str]:
    """Name -> license, as the page has them."""
    return dict(
        re.findall(r"(?m)^\| ([\w-]+) \| (.+?) \| (?:run|development) \|$", PAGE.read_text())
    )


def main() -> None:
    rows = [f"| {name} | {license_of(name)} | {use} |" for name, use in sorted(locked().items())]
    text = PAGE.read_text().partition("| package |")[0]
    head = "| package | license | needed for |\n| --- | --- | --- |\n"
    PAGE.write_text(text + head + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
