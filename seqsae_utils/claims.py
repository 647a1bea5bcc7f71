"""Claims, each decided by its numbers over users and trainings."""

from pathlib import Path


def write_claims(roots: dict[int, Path], profile: str) -> None:
    """Write ``figures/<profile>/claims.csv`` from the trainings of a profile.

    Parameters
    ----------
    roots
        By seed, the folder that holds the training's ``artifacts/<profile>/metrics.json`` and
        ``artifacts/<profile>/draws/``.
    """
