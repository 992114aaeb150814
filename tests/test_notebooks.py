"""The notebooks run from top to bottom, and what is committed is small and clean."""

from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from conftest import CONFIGS, environment
from jupyter_client.manager import KernelManager, start_new_kernel
from nbclient import NotebookClient

NOTEBOOKS = sorted((CONFIGS.parent / "notebooks").glob("*.ipynb"))


def shown(cell: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """What a cell shows but for warnings: a training cut short finds too little for some thresholds, and says so."""
    return [output for output in cell.get("outputs", []) if output.get("name") != "stderr"]


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelManager]:
    """One for all notebooks, which have their imports in common; each starts with no names."""
    manager, client = start_new_kernel(env={**environment(), "SMALL": "1"})
    client.stop_channels()
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_on_a_reduced_size(path: Path, tmp_path: Path, kernel: KernelManager) -> None:
    notebook = nbformat.read(path, as_version=4)
    committed = [len(shown(cell)) for cell in notebook.cells]
    # in an empty folder: nothing but the package is needed, and nothing is left
    clean = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(f"%reset -f\n%cd -q {tmp_path}")])
    for each in (clean, notebook):
        NotebookClient(each, timeout=120, km=kernel).execute()
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
