"""What several test files share: the chain of notebooks, run once on the planted data."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

collect_ignore = ["bench"]  # scripts, run by `make bench`
torch.set_num_threads(1)  # what notebooks run with: small matrices are slower on two

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def smoke(tmp_path_factory) -> SimpleNamespace:
    """Folders ``artifacts``, ``figures`` and ``runs``, and ``metrics``, of the profile smoke."""
    root = tmp_path_factory.mktemp("smoke")
    run = subprocess.run(
        [sys.executable, "-m", "seqsae_utils.run", "paper", "--profile", "smoke"],
        env={**os.environ, "SEQSAE_WORKSPACE": str(root), "TQDM_DISABLE": "1"},
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    folders = {name: root / name / "smoke" for name in ("artifacts", "figures", "runs")}
    metrics = json.loads((folders["figures"] / "metrics.json").read_text())
    return SimpleNamespace(**folders, root=root, metrics=metrics, shown=run.stdout)
