"""Executed notebooks without what differs between two runs of the same results."""

import re

import nbformat


def normalise(book: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Take out of an executed notebook what differs between runs of the same results.

    Times, papermill's notes, the Python version, and progress bars that have been wiped away.
    """
    book.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    count = 0
    for cell in book.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if cell.metadata.get("tags") == []:
            del cell.metadata["tags"]
        if cell.cell_type == "code":
            # Empty cells are not executed and take no number.
            count += bool(cell.source.strip())
            cell.execution_count = count if cell.source.strip() else None
            cell.outputs = _without_progress(cell.outputs)
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = count
    return book


def with_outputs(
    book: nbformat.NotebookNode, executed: nbformat.NotebookNode
) -> nbformat.NotebookNode:
    """The notebook with the outputs of its executed copy; its text cells stay as they are.

    Raises
    ------
    ValueError
        If the two do not have the same code cells. Parameters that the runner injected into the
        copy are left out.
    """
    own = [cell for cell in book.cells if cell.cell_type == "code"]
    done = [
        cell
        for cell in executed.cells
        if cell.cell_type == "code" and "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    if [cell.source for cell in own] != [cell.source for cell in done]:
        raise ValueError("its code cells are not those of its executed copy")
    for cell, copy in zip(own, done, strict=True):
        cell.outputs = copy.outputs
    return normalise(book)


def _without_progress(outputs: list) -> list:
    """Outputs with one stream per name and stretch, as a terminal would show it at the end."""
    merged = []
    errors = "".join(o.text for o in outputs if o.get("name") == "stderr")
    rest = [o for o in outputs if o.get("name") != "stderr"]
    for output in rest:
        last = merged[-1] if merged else {}
        if output.output_type == "stream" == last.get("output_type"):
            last.text += output.text
        else:
            merged.append(output)
    for output in merged:
        if output.output_type == "stream":
            output.text = _terminal(output.text)
    shown = "\n".join(line for line in _terminal(errors).split("\n") if "%|" not in line)
    if shown.strip():
        merged.append(nbformat.v4.new_output("stream", name="stderr", text=shown))
    return merged


def _terminal(text: str) -> str:
    r"""What is left to see of a text with carriage returns and steps up to an earlier line.

    >>> _terminal("50%|##  |\r100%|####|\r          \rdone\n")
    'done\n'
    """
    if "\r" not in text:
        return text
    lines, row, column = [""], 0, 0
    for part in re.split(r"(\r|\n|\x1b\[A)", text):
        if part == "\r":
            column = 0
        elif part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row == len(lines))
        elif part == "\x1b[A":
            row = max(row - 1, 0)
        else:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + part + line[column + len(part) :]
            column += len(part)
    return "\n".join(line.rstrip() for line in lines)
