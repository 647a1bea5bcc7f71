"""Keep a second run out while the first one writes."""

from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from .parameters import RunError


@contextmanager
def locked(folder: Path, what: str):
    """Hold a folder for the length of the block; the lock ends with the process, however it ends.

    Raises
    ------
    RunError
        If another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", blocking=False):
            yield
    except Timeout:
        raise RunError(f"{what} is being run already; wait") from None
