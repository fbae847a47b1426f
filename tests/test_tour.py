"""The tour runs as it is printed, in an empty folder, and is stored without outputs."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

TOUR = Path(__file__).parents[1] / "scripts" / "tour.ipynb"


@pytest.fixture
def notebook():
    return nbformat.read(TOUR, as_version=4)


def test_the_tour_is_valid_and_has_no_outputs(notebook):
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert not any(cell.outputs or cell.execution_count for cell in code)


def test_the_links_of_the_tour_lead_somewhere(notebook):
    text = "\n".join(cell.source for cell in notebook.cells)
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    for link in links:
        assert (TOUR.parent / link).exists(), link


@pytest.mark.slow
def test_the_tour_runs(notebook, tmp_path):
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    printed = "".join(
        output.text
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "stream" and output.name == "stdout"
    )
    (error,) = re.findall(r"test error ([\d.]+) %", printed)
    assert float(error) < 30
    assert printed.count("taken for a") >= 1
    assert (tmp_path / "saved_models" / "mine" / "1" / "saved_model.pb").is_file()
    assert (tmp_path / "digits" / "test" / "0" / "0024.png").is_file()  # asked for by the last cell
