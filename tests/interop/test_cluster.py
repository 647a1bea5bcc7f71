"""Trainings and sweeps on a dask cluster of this machine, whose workers may be killed.

The project does not need dask, so these tests run in an environment of their own: `make interop`.
"""

import os
import signal
import threading
import time
from dataclasses import replace

import joblib
import numpy as np
import pandas as pd
import psutil
import pytest

from seqsae_utils import sae
from seqsae_utils.run import seeds
from seqsae_utils.workspace import project

WHY = "lives in an environment of its own: run `make interop`"
distributed = pytest.importorskip("distributed", reason=f"dask {WHY}")

SHORT = {"max_epochs": 2, "sae_steps": 100, "sweep_steps": 10, "n_permutations": 5}


@pytest.fixture
def cluster(monkeypatch):
    """Two workers that joblib uses; the value is their client."""
    monkeypatch.setenv("PYTHONPATH", str(project()))  # the project is not installed there
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as local,
        distributed.Client(local) as client,
        joblib.parallel_config("dask"),
    ):
        yield client


def test_a_sweep_is_the_same_table(tmp_path, cluster):
    states = np.random.default_rng(0).normal(5, 3, (3_000, 24)).astype(np.float32)
    training = sae.Training(steps=20, batch_size=256, warmup_steps=1)
    configs = [sae.Config(24, 64, v, k=3, l1_coefficient=0.5) for v in sae.VARIANTS]
    runs = [(config, replace(training, seed=s)) for config in configs for s in (0, 1)]
    spread = sae.sweep(runs, states[:2_000], states[2_000:], tmp_path / "spread")
    with joblib.parallel_config("sequential"):
        alone = sae.sweep(runs, states[:2_000], states[2_000:], tmp_path / "alone")
    pd.testing.assert_frame_equal(spread, alone)


def test_a_training_loses_nothing_when_its_worker_is_killed(tmp_path, monkeypatch, cluster):
    record, killed = tmp_path / "spread" / "runs" / "smoke" / "01_data.json", []

    def kill() -> None:
        """Kill the worker of the first training once that has left its first notebook behind."""
        while not record.is_file():
            time.sleep(0.2)
        for pid in cluster.run(os.getpid).values():
            for chain in psutil.Process(pid).children():
                if chain.environ().get("SEQSAE_WORKSPACE") == str(tmp_path / "spread"):
                    killed.append(record.stat().st_mtime)
                    os.kill(pid, signal.SIGKILL)

    monkeypatch.setenv("SEQSAE_WORKSPACE", str(tmp_path / "spread"))
    threading.Thread(target=kill, daemon=True).start()
    seeds("smoke", SHORT, n=2, jobs=None)
    assert killed == [record.stat().st_mtime], "killed once, and the first notebook not done again"
    monkeypatch.setenv("SEQSAE_WORKSPACE", str(tmp_path / "alone"))
    with joblib.parallel_config("sequential"):
        seeds("smoke", SHORT, n=1)
    tables = [
        pd.read_csv(tmp_path / root / "figures/smoke/trainings.csv", dtype=str).query("seed == '0'")
        for root in ("spread", "alone")
    ]
    assert len(tables[0]) > 500
    pd.testing.assert_frame_equal(*tables)
