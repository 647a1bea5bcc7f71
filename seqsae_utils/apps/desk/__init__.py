"""The steering desk: a user, knobs, and the list before and after, in a browser or a notebook."""

import os

from .engine import Desk


def open(profile: str = ""):
    """The desk of a profile (else of ``$SEQSAE_PROFILE``, else ml-100k) as a widget."""
    from .widgets import show  # ipywidgets is optional

    return show(profile or os.environ.get("SEQSAE_PROFILE", "ml-100k"))


def is_open_in_jupyter() -> bool:
    """Whether a person has opened this notebook: a runner would record widgets that differ."""
    return "JPY_SESSION_NAME" in os.environ
