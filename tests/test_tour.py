"""Does the notebook of the whole path run, and say what it promises?"""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "tour.ipynb"
pytestmark = pytest.mark.checkout


def texts(cell: nbformat.NotebookNode) -> str:
    """Return what a cell printed and showed as text."""
    outputs = cell.get("outputs", [])
    return "".join(one.get("text", "") or one.get("data", {}).get("text/plain", "") for one in outputs)


def test_the_notebook_runs_from_a_clip_to_a_page():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are stripped before committing"
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    said = [texts(cell) for cell in notebook.cells if cell.cell_type == "code"]
    assert "fewer MACs" in said[1]
    assert any("edge-npu: " in text and "MAC reduction" in text for text in said)
    assert any("latency -" in text for text in said)
    assert any("report.html" in text and "timelines" in text for text in said)
