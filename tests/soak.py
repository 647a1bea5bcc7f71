"""Break a run at random, mend it with `make paper`, and compare bytes; `make soak` calls it.

A small chain of the profile smoke runs undisturbed. Then, for five minutes, a file is damaged,
the next run is killed at some moment, a file is damaged, and the chain runs to its end. No process
may live on, and every file must have the bytes of the first run. The seed decides what is damaged,
who is killed, and when, as a share of the first run's time.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import psutil

SMALL = {"max_epochs": 2, "sae_steps": 100, "sweep_steps": 20, "variants": "topk"}
SMALL |= {"n_permutations": 20, "max_choosing": 50, "max_judging": 100, "n_cards": 4}
#: What tells of a run and is no result: times, and a log that grows with each run.
OTHER = "timings.json", ".jsonl", ".lock"


def start(workspace: Path, log) -> psutil.Popen:
    options = [word for key, value in SMALL.items() for word in ("-p", key, str(value))]
    command = "-m seqsae_utils.run paper --profile smoke --name soak".split()
    environment = {**os.environ, "SEQSAE_WORKSPACE": str(workspace), "TQDM_DISABLE": "1"}
    return psutil.Popen(
        [sys.executable, *command, *options], env=environment, stdout=log, stderr=log
    )


def results(workspace: Path) -> dict[str, object]:
    """All that a run left, by path, without what is said on the way."""
    found: dict[str, object] = {}
    for file in sorted(p for p in workspace.rglob("*") if p.is_file()):
        content: object = file.read_bytes()
        if file.suffix == ".ipynb":
            content = json.loads(file.read_bytes())
            for cell in content["cells"]:
                outputs = cell.get("outputs", [])
                cell["outputs"] = [o for o in outputs if o.get("name") != "stderr"]
        elif file.suffix == ".json" and file.parent.parent.name == "runs":  # a record
            content = {k: json.loads(file.read_bytes())[k] for k in ("fingerprint", "metrics")}
        if not file.name.endswith(OTHER):
            found[file.relative_to(workspace).as_posix()] = content
    return found


def damage(workspace: Path, draw: random.Random) -> str:
    files = sorted(p for p in workspace.rglob("*") if p.is_file() and p.stat().st_size)
    file, how = draw.choice(files), draw.choice(["flip", "flip", "cut", "remove"])
    content, place = bytearray(file.read_bytes()), draw.randrange(file.stat().st_size)
    content[place] ^= 1 << draw.randrange(8)
    file.write_bytes(content if how == "flip" else content[:place])
    if how == "remove":
        file.unlink()
    return f"{how} {file.relative_to(workspace)} at {place}"


def kill(run: psutil.Popen, draw: random.Random) -> str:
    """Kill one process or all, and wait: no process of the run may live on by itself."""
    try:
        family = [run, *run.children(recursive=True)]
    except psutil.NoSuchProcess:
        return "it had ended"
    who = draw.choice(["runner", "kernel", "all"])
    killed = {"runner": family[:1], "kernel": family[1:2] or family[:1], "all": family}[who]
    for process in killed:
        if process.is_running():
            process.kill()
    alive = psutil.wait_procs(family, timeout=60)[1]
    assert not alive, f"{who} killed, and these live on: {alive}"
    return f"{who} killed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--seconds", type=float, default=300)
    options = parser.parse_args()
    draw, begun, rounds = random.Random(options.seed), time.monotonic(), 0
    print(f"seed {options.seed}: `make soak PARAMS='--seed {options.seed}'` does the same again")
    root = Path(tempfile.mkdtemp(prefix="soak-"))
    here, before = root / "workspace", root / "before"
    with open(root / "log.txt", "w") as log:
        assert not start(here, log).wait(), f"the first run failed: {root / 'log.txt'}"
        expected, whole = results(here), time.monotonic() - begun
        while time.monotonic() - begun < options.seconds:
            done = [damage(here, draw)]
            run = start(here, log)
            time.sleep(draw.random() * whole / 2)
            done += [kill(run, draw), damage(here, draw)]
            print(f"{rounds}: {'; '.join(done)}", flush=True)
            shutil.rmtree(before, ignore_errors=True)
            shutil.copytree(here, before)
            status, found = start(here, log).wait(), results(here)
            names = {**expected, **found}
            differ = [name for name in names if expected.get(name) != found.get(name)]
            where = f"the state before is in {before}, the log in {root / 'log.txt'}"
            assert not status and not differ, f"status {status}, other bytes: {differ}; {where}"
            rounds += 1
    shutil.rmtree(root)
    print(f"{rounds} rounds: every file has the bytes of an undisturbed run")


if __name__ == "__main__":
    main()
