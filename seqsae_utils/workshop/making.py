"""From the solutions to what the students get, to the teacher's slides, and to HTML."""

import ast
import re
from copy import deepcopy
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter, SlidesExporter
from nbconvert.preprocessors import TagRemovePreprocessor
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_notebook

from ..data.sources import Archive, download
from ..workspace import project, write_text

#: A package that ships reveal.js: nothing of it is kept here.
REVEAL = Archive(
    "rise==5.7.1",
    "rise-5.7.1-py2.py3-none-any.whl",
    "rise/static/reveal.js",
    "sha256:df8ce9f0e575d334b27ff40a1f91a4c78d9f7b4995858bb81185ceeaf98eae3a",
)
STARS = {1: "★☆☆", 2: "★★☆", 3: "★★★"}
HINT = "<details>\n<summary>Hint</summary>\n\n{}\n\n</details>"


def tags(cell: NotebookNode) -> set[str]:
    """The tags of a cell."""
    return {*cell.metadata.get("tags", [])}


def exercises(book: NotebookNode) -> NotebookNode:
    """The students' notebook: stubs for solutions, hints folded, no mistakes and no outputs."""
    book = deepcopy(book)
    book.cells = [cell for cell in book.cells if not tags(cell) & {"observe", "wrong"}]
    for cell in book.cells:
        if "hint" in tags(cell):
            cell.source = HINT.format(cell.source)
        if "exercise" in tags(cell):
            cell.source = announced(cell)
        if "solution" in tags(cell):
            cell.source = stub(cell.source)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        cell.metadata = {}
    return book


def announced(cell: NotebookNode) -> str:
    """The text of an exercise, with its minutes and difficulty below the heading."""
    heading, _, rest = cell.source.partition("\n")
    extra = "for the fast, " * cell.metadata.get("extra", False)
    how = f"*{extra}{cell.metadata.minutes} minutes, {STARS[cell.metadata.difficulty]}*"
    return f"{heading}\n\n{how}\n{rest}"


def stub(source: str) -> str:
    """The function without its body: signature, docstring, and where the code goes."""
    function = ast.parse(source).body[0]
    lines = source.splitlines()[: function.body[0].end_lineno]  # type: ignore[attr-defined]
    return "\n".join([*lines, "    # your code here"])


def slides(folder: Path) -> str:
    """One HTML file of all slides, which asks nothing of a network.

    The opening is ``opening.md``, slides parted by lines of ``---``; then come the cells tagged
    ``slide``: text begins a slide, and code goes on with it, but not with an exercise, which it
    would give away. ``output`` hides the code of a cell.
    """
    opening = (folder / "opening.md").read_text(encoding="utf-8").replace("](../", "](")
    cells = [
        new_markdown_cell(text.strip(), id=f"opening-{i}")
        for i, text in enumerate(opening.split("\n---\n"))
    ]
    for path in solutions(folder):
        cells += [cell for cell in nbformat.read(path, as_version=4).cells if "slide" in tags(cell)]
    for cell, before in zip(cells, [cells[0], *cells], strict=False):
        begins = cell.cell_type == "markdown" or "output" in tags(cell)
        begins |= bool(tags(before) & {"exercise", "wrong"})
        if "exercise" in tags(cell):
            cell.source = announced(cell)
        cell.metadata["slideshow"] = {"slide_type": "slide" if begins else "-"}
    hide = TagRemovePreprocessor(remove_input_tags={"output"}, enabled=True)
    exporter = SlidesExporter(embed_images=True, preprocessors=[hide], reveal_theme="white")
    resources = {"metadata": {"name": "Workshop", "path": str(folder.parent)}}
    page, _ = exporter.from_notebook_node(new_notebook(cells=cells), resources)
    return _self_contained(offline(page), (folder / "slides.css").read_text(encoding="utf-8"))


def _self_contained(page: str, style: str) -> str:
    """The page with reveal.js in it, from a wheel of the package index, and our own style."""
    reveal, _ = download(REVEAL, project() / "data" / "downloads")
    script = (reveal / "js" / "reveal.js").read_text(encoding="utf-8")
    styles = [
        (reveal / "css" / name).read_text("utf-8") for name in ("reveal.css", "theme/white.css")
    ]
    styles = [re.sub(r"@import [^;]*;", "", text) for text in styles]  # typefaces from elsewhere
    page = re.sub(r'<link[^>]*href="[^"]*/dist/[^"]*"[^>]*>', "", page)
    begin = page.rindex("<script>\nrequire(")
    size = "width: 1100, height: 750, margin: 0.03, center: false"
    start = f"Reveal.initialize({{history: true, slideNumber: true, {size}}})"
    head = "".join(f"<style>{text}</style>" for text in [*styles, style])
    return f"{page[:begin]}{head}<script>{script}\n{start}</script></html>"


def offline(page: str) -> str:
    """A page of nbconvert's without the scripts that it would fetch."""
    fetched = r"<script[^>]*\ssrc=.*?</script>|<script type=.module.*?</script>"
    return re.sub(fetched, "", page, flags=re.DOTALL)


def solutions(folder: Path) -> list[Path]:
    """The notebooks that all else is made from."""
    return sorted((folder / "solutions").glob("W*.ipynb"))


def make(folder: Path) -> None:
    """Write ``exercises/`` and ``html/``: slides, and the executed solutions to fall back on."""
    for path in solutions(folder):
        book = nbformat.read(path, as_version=4)
        write_text(folder / "exercises" / path.name, nbformat.writes(exercises(book)) + "\n")
        page, _ = HTMLExporter(embed_images=True).from_filename(str(path))
        write_text(folder / "html" / f"{path.stem}.html", offline(page))
    write_text(folder / "html" / "slides.html", slides(folder))
