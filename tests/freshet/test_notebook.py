"""The example notebook runs, and is kept with its outputs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")
pytest.importorskip("pandas", reason="pandas is not installed")

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "notebook.ipynb"


# The client of the kernel leaves its sockets and its event loop to the garbage collector.
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_the_notebook_runs_and_its_outputs_are_those_of_its_cells(tmp_path: Path) -> None:
    stored = nbformat.read(NOTEBOOK, as_version=4)
    run = nbformat.read(NOTEBOOK, as_version=4)
    for cell in run.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = nbclient.NotebookClient(run, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}})
    client.execute(env=os.environ | {"PYTHONPATH": str(ROOT)})
    pairs = [(old, new) for old, new in zip(stored.cells, run.cells, strict=True) if new.cell_type == "code"]
    for old, new in pairs:
        kinds = [{*output.get("data", {}), output.output_type} for output in new.outputs]
        assert [{*output.get("data", {}), output.output_type} for output in old.outputs] == kinds, new.source
    # A report is a table: learners with their metrics.
    (report,) = (new.outputs[0].data["text/html"] for _, new in pairs if new.source.startswith("columns ="))
    assert "<td>fm</td><td>3,000</td>" in report
    assert any("True\nFalse" in output.get("text", "") for _, new in pairs for output in new.outputs)
