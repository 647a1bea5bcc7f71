"""Keep a second run out while the first one writes."""

from contextlib import contextmanager
from pathlib import Path

from .parameters import RunError

try:
    import fcntl
except ImportError:  # Windows has no flock: two runs at a time are then the user's care
    fcntl = None


@contextmanager
def locked(folder: Path, what: str):
    """Hold a folder for the length of the block; the lock ends with the process, however it ends.

    Raises
    ------
    RunError
        If another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{what} is being run already; wait") from None
        yield
