"""`make check`: is this laptop ready for the workshop, and if not, what to do. Ten seconds.

Only the standard library is needed until the packages are known to be there.
"""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "torch numpy scipy pandas pyarrow scikit-learn matplotlib safetensors jupyterlab ipykernel"
)
EXERCISE = """
import torch
from seqsae_utils.workshop import check
def keep_top(values, k):
    best = values.topk(k)
    return torch.zeros_like(values).scatter(-1, best.indices, best.values.relu())
check(keep_top)
"""


def python() -> str:
    """Python's version; the way out if it is another one than the pins are for."""
    if not (3, 11) <= sys.version_info[:2] <= (3, 14):
        return "install Python 3.11 to 3.14, then: make env PYTHON=/path/to/python3.13"
    return ""


def packages() -> str:
    """Whether what is pinned is installed, in the version of the pin."""
    lines = (PROJECT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.partition("#")[0].strip().split("==") for line in lines if "==" in line)
    for name in PACKAGES.split():
        try:
            found = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            return f"{name} is missing: make env (without a network: make env WHEELS=wheelhouse)"
        if found != pins[name]:
            return f"{name} is {found}, pinned is {pins[name]}: make env"
    return ""


def memory() -> str:
    """Four gigabytes are asked for; where the system does not tell, nothing is said."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return ""
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return (
        "" if size > 3.5 else f"only {size:.1f} GB: close the browser's other tabs, or use Binder"
    )


def disk() -> str:
    """Room for what notebooks write."""
    free = shutil.disk_usage(PROJECT).free / 2**30
    return "" if free > 0.5 else f"only {free:.1f} GB are free: make room for one"


def files() -> str:
    """The made-up catalogue and the exercises."""
    for name in (
        "workshop/artifacts/smoke/sae/cfg.json",
        "workshop/exercises/W1_read_a_state.ipynb",
    ):
        if not (PROJECT / name).is_file():
            return f"{name} is missing: git checkout workshop"
    return ""


def an_exercise() -> str:
    """One exercise is solved and checked, in a process of its own."""
    command = [sys.executable, "-c", EXERCISE]
    found = subprocess.run(command, cwd=PROJECT, capture_output=True, encoding="utf-8",
                           env={**os.environ, "PYTHONIOENCODING": "utf-8"})  # fmt: skip
    if found.returncode or "passed" not in found.stdout:
        return f"{(found.stderr or found.stdout).strip()[-300:]}\n  try: rm -rf .venv; make env"
    return ""


def main() -> int:
    """Run the checks until one fails that others need; 1 if any failed."""
    start, failed = time.perf_counter(), 0
    for test in (python, memory, disk, files, packages, an_exercise):
        what = test()
        failed += bool(what)
        print(f"{'✗' if what else '✓'} {test.__name__.replace('_', ' ')}{': ' * bool(what)}{what}")
        if what and test in (python, packages):
            break
    ready = "this laptop is ready: make lab" if not failed else "this laptop is NOT ready yet"
    print(f"{ready} ({time.perf_counter() - start:.0f} s)")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
