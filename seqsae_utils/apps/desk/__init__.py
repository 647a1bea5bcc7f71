"""The steering desk: a user, knobs, and the list before and after, in a browser or a notebook.

===========  ===================================================================================
``engine``   what the desk knows and does; needs no screen
``pages``    its tables as HTML
``widgets``  knobs and buttons on top; needs ipywidgets, the extra ``app`` of this package
===========  ===================================================================================
"""

import os

from .engine import Desk

__all__ = ["Desk", "is_open_in_jupyter", "open"]


def open(profile: str = ""):
    """The desk of a profile (else of ``$SEQSAE_PROFILE``, else ml-100k) as a widget.

    Where a stage is missing, the widget says so, and which command repairs it.
    """
    from .widgets import show  # ipywidgets is optional

    return show(profile or os.environ.get("SEQSAE_PROFILE", "ml-100k"))


def is_open_in_jupyter() -> bool:
    """Whether a person sees this notebook, and no runner: widgets in its output would differ."""
    return "JPY_SESSION_NAME" in os.environ
