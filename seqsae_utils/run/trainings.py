"""Train the whole chain with several seeds, each in a workspace of its own, and gather numbers."""

import json
import os
import re
import sys
from contextlib import chdir
from functools import partial
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen

import pandas as pd
from joblib import Parallel, delayed

from ..claims import PUBLISHED, load_trainings, publish, read_training, write_trainings
from ..data import load_raw
from ..workspace import STAGES, Workspace, locked, output_root, project
from .parameters import RunError, resolve

#: What the kernels run with: our own Python, threads that sleep when idle, one order of sets, one
#: thread for NumPy (sums have one order on any machine, and chains side by side do not wait).
KERNEL = {"JUPYTER_PREFER_ENV_PATH": "1", "OMP_WAIT_POLICY": "PASSIVE"}
KERNEL |= {"OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
#: Lines of a chain that are shown (a notebook starts, it is done, an error); the log has them all.
SHOWN = re.compile(r"\[\d+/\d+\]|\s+\d+ s$|error: ")


def seeds(profile: str, overrides: dict, n: int = 5, jobs: int | None = None) -> None:
    """Train the chain of a profile with n seeds and write ``trainings.csv`` and ``claims.csv``.

    The first has the profile's own seed, the others those that follow; `overrides` are parameters
    of all. `jobs` run side by side through joblib (None: as ``joblib.parallel_config`` says, also
    on a cluster). What is up to date is not trained again, and other seeds in ``trainings.csv``
    stay. Raises `RunError` for n below 1 and, when the others are finished, for one that failed.
    """
    if n < 1:
        raise RunError(f"{n} trainings: at least one is needed")
    parameters = resolve(profile, overrides)
    roots = places(profile, parameters, n)
    logs = {seed: _folder(profile) / str(seed) / "log.txt" for seed in roots}
    declared = {key for own in parameters.values() for key in own}
    # Only the first training compares all variants of SAEs.
    once = {"variants": "topk"} if "variants" in declared else {}
    given = dict(overrides)
    if n > 1 and jobs != 1 and "n_jobs" in declared:
        given.setdefault("n_jobs", 1)  # those that run side by side have the cores already
    calls = []
    for seed, root in roots.items():
        own = given if root == output_root().absolute() else {**once, **given, "seed": seed}
        resolve(profile, own)  # refuses before anything runs
        command = _command(profile, own)
        calls.append(delayed(train)(seed, command, _environment(root), project(), logs[seed]))
    with locked(_folder(profile), f"`seeds` of profile {profile}"):
        if not all((root / "runs" / profile / "01_data.json").is_file() for root in roots.values()):
            with chdir(project() / "notebooks"):  # where notebook 01 looks for a path
                load_raw(parameters[STAGES["data"]]["dataset"])  # or all would fetch it at once
        failed = []
        # A training is a process of its own; the thread only waits for it.
        run = Parallel(jobs, prefer="threads", return_as="generator_unordered")(calls)
        for done, (seed, status) in enumerate(run, start=1):
            failed += [seed] * (status != 0)
            print(f"{done - len(failed)} of {n} trainings done", flush=True)
        if failed:
            which = ", ".join(f"seed {seed} (see {os.path.relpath(logs[seed])})" for seed in failed)
            raise RunError(f"{len(failed)} of {n} trainings failed: {which}")
        folder = Workspace(profile).figures
        done = {seed: read_training(root, profile) for seed, root in roots.items()}
        numbers = write_trainings(load_trainings(folder) | done, folder)
        if profile in PUBLISHED and output_root() == project():
            publish()
        where = os.path.relpath(folder / "trainings.csv")
        print(f"\n{where}: {len(numbers)} numbers of {numbers['seed'].nunique()} trainings")
        verdicts = pd.read_csv(folder / "claims.csv")["verdict"].value_counts()
        print("claims: " + ", ".join(f"{n} {verdict}" for verdict, n in verdicts.items()))


def places(profile: str, parameters: dict[str, dict], n: int) -> dict[int, Path]:
    """Output roots of n trainings, by seed, from each notebook's parameters (`resolve`)."""
    first = next((own["seed"] for own in parameters.values() if "seed" in own), 0)
    others = {seed: _folder(profile) / str(seed) for seed in range(first + 1, first + n)}
    return {first: output_root().absolute(), **others}


def train(seed: int, command: list, environment: dict, folder: Path, log: Path) -> tuple[int, int]:
    """Bring one training up to date in a process of its own; returns its seed and exit status.

    It takes plain values and leaves files: joblib can call it wherever the folder is seen.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    # Its standard input is held open: it ends with this process.
    start = partial(Popen, stdin=PIPE, stdout=PIPE, stderr=STDOUT, text=True, errors="replace")
    process = start([sys.executable, *command], cwd=folder, env={**os.environ, **environment})
    with open(log, "w") as file, process:
        for line in process.stdout:
            file.write(line)
            file.flush()
            if SHOWN.match(line):
                print(f"seed {seed} | {line.rstrip()}", flush=True)
    return seed, process.returncode


def _folder(profile: str) -> Path:
    return Workspace(profile).runs.absolute() / "trainings"


def _command(profile: str, parameters: dict) -> list[str]:
    """Arguments of Python for one chain; values as YAML, which JSON is."""
    values = {k: v if isinstance(v, str) else json.dumps(v) for k, v in parameters.items()}
    options = [word for key, value in values.items() for word in ("-p", key, value)]
    return ["-m", "seqsae_utils.run", "paper", "--profile", profile, "--end-with-stdin", *options]


def _environment(root: Path) -> dict[str, str]:
    """What a chain needs of our environment, on another machine too; every path in full."""
    own = {name: value for name, value in os.environ.items() if name.startswith("SEQSAE_")}
    if own.get("SEQSAE_DATA_DIR"):
        own["SEQSAE_DATA_DIR"] = str(Path(own["SEQSAE_DATA_DIR"]).absolute())
    return {**own, **KERNEL, "SEQSAE_WORKSPACE": str(root), "TQDM_DISABLE": "1"}
