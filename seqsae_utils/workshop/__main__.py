"""``python -m seqsae_utils.workshop``: exercises, slides and HTML from the solutions."""

from ..workspace import project
from .making import make

make(project() / "workshop")
