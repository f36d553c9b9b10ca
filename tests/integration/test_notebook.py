"""docs/notebook.ipynb runs from its first cell to its last, in a kernel of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
pytestmark = pytest.mark.usefixtures("no_ray")


# What Jupyter's own packages say of each other.
@pytest.mark.filterwarnings("ignore")
def test_the_notebook_runs(tmp_path: Path) -> None:
    for name in ("nbformat", "nbclient", "ipykernel"):
        pytest.importorskip(name, reason=f"the notebook is run by {name}, of dstc[dev]")
    import nbclient
    import nbformat

    notebook = nbformat.read(DOCS / "notebook.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in cells:
        # The one image at the end is made by the real networks.
        cell.source = cell.source.replace("slots=2", "slots=2, engine='fake'")
        cell.source = cell.source.replace("tempfile.mkdtemp()", repr(str(tmp_path)))
    where = {"metadata": {"path": str(DOCS)}}
    nbclient.NotebookClient(notebook, timeout=200, resources=where).execute()
    outputs = [output for cell in cells for output in cell.outputs]
    told = "".join(output.get("text", "") for output in outputs)
    assert "4 done, 0 rejected, 0 failed" in told and "4/4" in told
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 5
    assert len(list(tmp_path.glob("pictures/*/*.png"))) == 8
