"""How Sphinx builds the site from what ``site/build.py`` gathered. Nothing is executed."""

import re
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert

HERE = Path(__file__).parent

project = "seqsae"
author = "the seqsae authors"
language = "en"
html_title = "seqsae"
html_theme = "furo"
html_static_path = [str(HERE / "static")]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_extra_path = [str(HERE / "_build" / "extra")]
html_copy_source = False
html_show_sphinx = False
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"

extensions = ["myst_nb", "sphinx_design", "sphinx.ext.napoleon", "autoapi.extension"]
exclude_patterns = ["headlines.md"]

nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

# The package is read, not imported: the site's environment needs no torch.
autoapi_dirs = [str(HERE.parent / "seqsae_utils")]
autoapi_root = "api"
autoapi_options = ["members", "show-module-summary"]
autoapi_python_class_content = "class"
autoapi_add_toctree_entry = False
autoapi_member_order = "bysource"
napoleon_google_docstring = False
default_role = "py:obj"

suppress_warnings = [
    "misc.highlighting_failure",  # shell lines in a block of Python
    "autoapi.python_import_resolution",
    "ref.python",  # a name of several modules links to the first
    "mystnb.unknown_mime_type",
]


def plain_bars(app, what, name, obj, options, lines) -> None:
    """Docstrings are plain text: a bar stands for itself, and sources are numbered in each."""
    for number, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            parts = re.split(r"(``.*?``)", re.sub(r"(\[\d\])_", r"\1", line))
            parts[0] = re.sub(r"^( *)\.\. (?=\[\d\])", r"\1*  ", parts[0])
            parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
            lines[number] = "".join(parts)


def skip_namesake(app, what, name, obj, skip, options) -> bool:
    """The function `run.demo` has the name of its module: one of them can be linked to."""
    return skip or (what, name) == ("function", "seqsae_utils.run.demo")


def inline(writer, node) -> None:
    """A formula in a line, as MathML, which browsers draw without a script from elsewhere."""
    writer.body.append(convert(node.astext()))
    raise nodes.SkipNode


def block(writer, node) -> None:
    """A formula of its own."""
    formula = convert(node.astext(), display="block")
    writer.body.append(f'<div class="math">{formula}</div>')
    raise nodes.SkipNode


def setup(app) -> None:
    """Say what is not Sphinx' own way."""
    app.connect("autodoc-process-docstring", plain_bars)
    app.connect("autoapi-skip-member", skip_namesake)
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
