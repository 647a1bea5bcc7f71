"""What a run leaves in ``figures/``: metrics, manifest and timings, and the numbers it shows."""

import os
import re
import shutil
from pathlib import Path

import pandas as pd

from ..workspace import STAGES, Workspace, flat, output_root, read_json, replacing, write_json
from .changes import metrics
from .parameters import RunError, resolve

#: The numbers shown at the end; each is left out where no notebook recorded it.
HEADLINES = {
    "NDCG@10 of the recommender": "recommender.ndcg@10",
    "NDCG@10 of popularity": "recommender.popularity.ndcg@10",
    "explained variance of the SAE": "sae.explained_variance",
    "active features (L0)": "sae.l0",
    "NDCG recovered by the SAE": "sae.ndcg_recovered",
    "correlation with attributes, neurons": "interpretability.neurons.max_correlation",
    "correlation with attributes, SAE": "interpretability.sae.max_correlation",
    "largest logit change of the zero edit": "control.zero_edit.max_logit_change",
    "share of a steered attribute before": "control.sae_feature.mean.share_at_0",
    "share of it with its feature turned up": "control.sae_feature.mean.share_at_strong",
}


def gather(workspace: Workspace) -> None:
    """Write and show the results of a profile: its metrics, manifest and timings."""
    records = {n: read_json(workspace.runs / f"{n}.json") for n in STAGES.values()}
    manifests = {stage: workspace.manifest(stage) for stage in STAGES}
    files = {name: digest for r in records.values() for name, digest in r["files"].items()}
    inside = workspace.figures.relative_to(output_root()).as_posix() + "/"
    figures = {n.removeprefix(inside): files[n] for n in sorted(files) if n.startswith(inside)}
    first, seed = manifests["data"], manifests["recommender"]["seed"]  # the data have another seed
    summary = {"label": first["label"], "profile": workspace.profile, "seed": seed}
    summary |= {"version": first["version"], "files": figures}
    summary["parameters"] = {stage: found["parameters"] for stage, found in manifests.items()}
    seconds = {name: record["seconds"] for name, record in records.items()}
    memory = max(record["memory_mb"] for record in records.values())
    write_json(workspace.figures / "metrics.json", metrics(workspace))
    write_json(workspace.figures / "manifest.json", summary)
    write_json(workspace.figures / "timings.json", {"seconds": seconds, "memory_mb": memory})

    print(f"\n{workspace.label} in {sum(seconds.values()):.0f} s, {memory:,} MB at most")
    print("Figures, each as PDF too and with its table in tables/:")
    for name in figures:
        if "/" not in name and not name.endswith(".pdf"):
            print("  " + os.path.relpath(workspace.figures / name))
    print()
    numbers = flat(metrics(workspace))
    for title, key in HEADLINES.items():
        if numbers.get(key) is not None:
            low, high = numbers.get(f"{key}_low"), numbers.get(f"{key}_high")
            interval = f"  [{low:.3f}, {high:.3f}]" if None not in (low, high) else ""
            print(f"  {title:<40}{numbers[key]:>8.4g}{interval}")
    if missing := [name for name, number in numbers.items() if number is None]:
        parts = dict.fromkeys(".".join(name.split(".")[:2]) for name in missing)
        print(f"\n{len(missing)} of {len(numbers)} numbers could not be measured on these data")
        print(f"(null in metrics.json): {', '.join(parts)}")


def folder_of(profile: str, overrides: dict, name: str = "") -> Path | None:
    """Output root of a run by its `name`, or by what it changes in the profile; None: nothing."""
    given, own = resolve(profile, overrides), resolve(profile, {})
    given = {n: {k: v for k, v in keys.items() if k != "n_jobs"} for n, keys in given.items()}
    changed = {
        key: given[n][key] for n in given for key in given[n] if given[n][key] != own[n][key]
    }
    if not (name or changed):
        return None
    name = name or ",".join(f"{key}={value}" for key, value in sorted(changed.items()))
    folder = re.sub(r"[^\w.,=-]+", "_", name).lstrip(".")[:120]
    return Workspace(profile).runs.absolute() / "others" / folder


def begin(root: Path, workspace: Workspace) -> None:
    """Copy the profile's own run to another output root, so that only what differs runs there.

    Its other trainings stay behind: they had other parameters.
    """
    if root.is_dir():
        return
    partial = root.with_name(f"{root.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    gathered = ("trainings*", "draws.parquet", "claims.csv")
    leave = shutil.ignore_patterns("*.partial", "*.old", "*.done", "*.lock", "others", *gathered)
    for folder in (workspace.artifacts, workspace.figures, workspace.runs):
        if folder.is_dir():
            to = partial / folder.relative_to(output_root())
            shutil.copytree(folder, to, ignore=leave)
    partial.rename(root)


def compare(profile: str, root: Path | None) -> None:
    """Show and write the numbers of a profile beside those of a run with other parameters.

    Where ``trainings.csv`` has several trainings of the profile, what they move a number by stands
    beside it: only a difference beyond their range is shown as one. `RunError` without both runs.
    """
    if root is None:
        raise RunError("compare with what? Give its parameters (-p k 8), or its --name")
    inside = Workspace(profile).figures.relative_to(output_root())
    runs = {"profile": output_root(), root.name: root}
    found = {name: read_json(place / inside / "metrics.json") for name, place in runs.items()}
    for name, numbers in found.items():
        if not numbers:
            where = os.path.relpath(runs[name] / inside)
            raise RunError(f"{where} has no metrics.json: run `paper` with these parameters first")
    table = pd.DataFrame({name: pd.Series(flat(own), dtype=object) for name, own in found.items()})
    table = table.apply(pd.to_numeric, errors="coerce").dropna(how="all")
    table["difference"] = table[root.name] - table["profile"]
    trainings = output_root() / inside / "trainings.csv"
    table[["lowest", "highest"]] = float("nan")
    if trainings.is_file():
        seen = pd.read_csv(trainings)
        numbers = pd.to_numeric(seen["value"], errors="coerce")
        by_name = numbers.groupby(seen["stage"] + "." + seen["name"]).agg(["min", "max"])
        table[["lowest", "highest"]] = by_name.reindex(table.index)
    beyond = ~table[root.name].between(table["lowest"], table["highest"])
    table["beyond_retraining"] = beyond & table["lowest"].notna() & (table["difference"] != 0)
    file = root / "comparison.csv"
    with replacing(file) as temporary:
        table.rename_axis("number").to_csv(temporary, float_format="%.6g")
    shown = table[table["beyond_retraining"] | table.index.isin(HEADLINES.values())]
    print(shown.to_string(float_format="{:.4g}".format, na_rep=""))
    print(f"\nall {len(table)} numbers: {os.path.relpath(file)}")
    if table["lowest"].isna().all():
        print(f"`make seeds PROFILE={profile}` would tell what retraining alone moves")
