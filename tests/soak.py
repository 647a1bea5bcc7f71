"""Break a run at random, mend it with `make paper`, and compare bytes; `make soak` calls it.

A small chain of the profile smoke runs undisturbed. Then, for five minutes and at least once, a
file is damaged, the next run is killed, a file is damaged, and the chain runs to its end. No
process may live on, and every file must have the bytes of the first run. The seed decides what is
damaged and who is killed when: in which notebook, after which share of the time that it took.
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

SMALL = {"max_users": 250, "max_epochs": 2, "compare": "", "d_sae": 32, "sae_steps": 60}
SMALL |= {"sweep_steps": 20, "variants": "topk", "n_permutations": 10, "n_raised": 16}
SMALL |= {"max_choosing": 20, "max_judging": 20, "n_cards": 4, "n_steered": 2}
#: What tells of a run and is no result: times, and a log that grows with each run.
OTHER = "timings.json", ".jsonl", ".lock"
HOW = "flip", "flip", "cut", "remove"


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
                cell.pop("id", None)  # papermill draws that of the parameters anew
                outputs = cell.get("outputs", [])
                cell["outputs"] = [o for o in outputs if o.get("name") != "stderr"]
        elif file.suffix == ".json" and file.parent.parent.name == "runs":  # a record
            content = {k: json.loads(file.read_bytes())[k] for k in ("fingerprint", "metrics")}
        if not file.name.endswith(OTHER):
            found[file.relative_to(workspace).as_posix()] = content
    return found


def damage(workspace: Path, draw: random.Random) -> str:
    files = sorted(p for p in workspace.rglob("*") if p.is_file() and p.stat().st_size)
    # One draw each, whatever there is to choose from: a seed decides all rounds.
    file, how = files[int(draw.random() * len(files))], draw.choice(HOW)
    content = bytearray(file.read_bytes())
    place = int(draw.random() * len(content))
    content[place] ^= 1 << draw.randrange(8)
    file.write_bytes(content if how == "flip" else content[:place])
    if how == "remove":
        file.unlink()
    return f"{how} {file.relative_to(workspace)} at {place}"


def wait_for(run: psutil.Popen, log: Path, seconds: list[float], draw: random.Random) -> str:
    """Wait until a run is somewhere in one of its notebooks, which took so many `seconds`."""
    before, notebook, share = log.stat().st_size, draw.randrange(len(seconds)), draw.random()
    while run.poll() is None and f"[{notebook + 1}/".encode() not in log.read_bytes()[before:]:
        time.sleep(0.05)
    end = time.monotonic() + share * seconds[notebook]
    while run.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    return f"in notebook {notebook + 1} after {share:.0%} of it"


def kill(run: psutil.Popen, draw: random.Random) -> str:
    """Kill one process or all, and wait: no process of the run may live on by itself."""
    who = draw.choice(["runner", "kernel", "all"])
    try:
        family = [run, *run.children(recursive=True)]
    except psutil.NoSuchProcess:
        return "it had ended"
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
    draw, begun = random.Random(options.seed), time.monotonic()
    again = f"`make soak PARAMS='--seed {options.seed}'` does the same again"
    print(f"seed {options.seed}: {again}", flush=True)
    root = Path(tempfile.mkdtemp(prefix="soak-"))
    here, before, said = root / "workspace", root / "before", root / "log.txt"
    with open(said, "w") as log:
        assert not start(here, log).wait(), f"the first run failed: {said}"
        expected, rounds, longest = results(here), 0, time.monotonic() - begun
        times = json.loads(next(here.rglob("timings.json")).read_text())["seconds"]
        print(f"the first run took {longest:.0f} s, and left {len(expected)} files", flush=True)
        while not rounds or time.monotonic() - begun + longest < options.seconds:
            now = time.monotonic()
            done = [damage(here, draw)]
            run = start(here, log)
            done += [wait_for(run, said, [*times.values()], draw), kill(run, draw)]
            done.append(damage(here, draw))
            shutil.rmtree(before, ignore_errors=True)
            shutil.copytree(here, before)
            status, found = start(here, log).wait(), results(here)
            names = {**expected, **found}
            differ = [name for name in names if expected.get(name) != found.get(name)]
            where = f"the state before is in {before}, the log in {said}; {again}"
            assert not status and not differ, f"{done}: status {status}, {differ} differ; {where}"
            rounds, longest = rounds + 1, max(longest, time.monotonic() - now)
            print(f"{rounds}: {'; '.join(done)}: mended", flush=True)
    shutil.rmtree(root)
    print(f"{rounds} rounds: every file has the bytes of an undisturbed run")


if __name__ == "__main__":
    main()
