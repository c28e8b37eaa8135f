"""The notebook runs from top to bottom, in a real kernel, on a small set."""

from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

NOTEBOOK = Path(__file__).parent.parent / "examples" / "first_encoder.ipynb"


def read_notebook() -> Any:
    """The notebook as it is committed."""
    return nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]


def test_it_is_committed_without_outputs() -> None:
    """So that a change of the notebook can be read, and nobody's results or paths are published with it."""
    for cell in read_notebook().cells:
        assert cell.cell_type != "code" or (cell.outputs == [] and cell.execution_count is None)


@pytest.mark.slow
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To its last cell: the encoder lies in the run folder, as ONNX beside it, and its accuracy is printed."""
    out = tmp_path / "run"
    for name, value in {"DATA": "digits", "MINUTES": "0.3", "OUT": str(out)}.items():
        monkeypatch.setenv(f"MOCO_NOTEBOOK_{name}", value)
    notebook = read_notebook()
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "kNN accuracy of the encoder:" in printed
    assert (out / "encoder.safetensors").stat().st_size > 0
    assert (out / "report.html").stat().st_size > 0
    assert (tmp_path / "run.onnx").stat().st_size > 0
