"""What a run leaves in ``figures/``: metrics, manifest and timings, and the numbers it shows."""

import json
import os

from ..workspace import STAGES, Workspace, flat, output_root, write_json
from .changes import metrics

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
    records = {n: json.loads((workspace.runs / f"{n}.json").read_text()) for n in STAGES.values()}
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
