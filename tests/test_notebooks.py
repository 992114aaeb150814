"""The notebooks run from top to bottom, and what is committed is small and clean."""

from pathlib import Path

import nbformat
import pytest
from conftest import CONFIGS
from nbclient import NotebookClient

NOTEBOOKS = sorted((CONFIGS.parent / "notebooks").glob("*.ipynb"))


def shown(cell: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """What a cell shows but for warnings: a training cut short finds too little for some thresholds, and says so."""
    return [output for output in cell.get("outputs", []) if output.get("name") != "stderr"]


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_on_a_reduced_size(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMALL", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, as_version=4)
    committed = [len(shown(cell)) for cell in notebook.cells]
    # in an empty folder: nothing but the package is needed, and nothing is left
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert [len(shown(cell)) for cell in notebook.cells] == committed
    kinds = {output.output_type for cell in notebook.cells for output in shown(cell)}
    assert kinds <= {"display_data", "execute_result"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_committed_is_small_and_clean(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run once, from top to bottom"
    assert {output.output_type for output in outputs(notebook)} <= {"display_data", "execute_result"}, "no chatter"
    assert any("image/png" in output.data for output in outputs(notebook))
    assert path.stat().st_size < 700_000
    assert str(CONFIGS.parent) not in path.read_text()


def test_there_are_four() -> None:
    assert len(NOTEBOOKS) == 4
