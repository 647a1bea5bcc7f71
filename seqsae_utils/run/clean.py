"""Executed notebooks without what differs between two runs of the same results."""

import re

from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from nbformat import NotebookNode

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
#: A line of a progress bar, with a share or without (`recommender.training.BAR`).
BAR = re.compile(r"(%|: )\|[ #\d\u2588-\u258f]*\| ")


def normalise(book: NotebookNode) -> NotebookNode:
    """An executed notebook without times, papermill's notes, Python version and progress bars."""
    book.metadata, count = METADATA, 0
    for cell in book.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = {"tags": tags} if tags else {}
        if cell.cell_type == "code":
            # Empty cells are not executed and take no number.
            count += bool(cell.source.strip())
            cell.execution_count = count if cell.source.strip() else None
            cell.outputs.sort(key=lambda output: output.get("name") == "stderr")
    # One stream for each stretch, without what carriage returns have overwritten.
    book, _ = CoalesceStreamsPreprocessor().preprocess(book, {})
    for cell in _code_cells(book):
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = cell.execution_count
            elif output.get("name") == "stderr":
                lines = re.sub(r"\x1b\[A", "", output.text).split("\n")  # steps to an upper bar
                output.text = "\n".join(line.rstrip() for line in lines if not BAR.search(line))
        cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr" or o.text.strip()]
    return book


def with_outputs(book: NotebookNode, executed: NotebookNode) -> NotebookNode:
    """The notebook with its executed copy's outputs; `ValueError` if their code cells differ."""
    own, done = _code_cells(book), _code_cells(executed)
    done = [cell for cell in done if not _is_injected(cell)]
    if [cell.source for cell in own] != [cell.source for cell in done]:
        raise ValueError("its code cells are not those of its executed copy")
    for cell, copy in zip(own, done, strict=True):
        cell.outputs = copy.outputs
    return normalise(book)


def beside(book: NotebookNode, executed: NotebookNode, label: str) -> NotebookNode:
    """The notebook as it was executed on other data, for a folder of its own below its own.

    The title ends with the label, and the parameters that were set stand below those declared.
    Warnings are left out: they name folders. `ValueError` as `with_outputs`.
    """
    given = [cell for cell in _code_cells(executed) if _is_injected(cell)]
    book = with_outputs(book, executed)
    number = next(n for n, c in enumerate(book.cells) if "parameters" in c.metadata.get("tags", []))
    book.cells[number + 1 : number + 1] = given
    for cell in _code_cells(book):
        cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    first = book.cells[0]
    first.source = re.sub(r"\A(# .*)", rf"\1 ({label})", first.source)
    for cell in book.cells:
        if cell.cell_type == "markdown":  # chapters lie beside it, everything else one folder up
            cell.source = re.sub(r"\]\((?!\w+:|#|0\d_\w+\.ipynb)", "](../", cell.source)
    return normalise(book)


def _is_injected(cell: NotebookNode) -> bool:
    return "injected-parameters" in cell.metadata.get("tags", [])


def _code_cells(book: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in book.cells if cell.cell_type == "code"]
