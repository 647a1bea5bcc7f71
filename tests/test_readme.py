"""The README's numbers are those of the committed metrics.json, and its links lead somewhere."""

import json
import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text()
METRICS = json.loads((PROJECT / "figures" / "ml-100k" / "metrics.json").read_text())

#: What a row of the results table begins with, and the numbers that it must show, in order.
ROWS = {
    "NDCG@10 for users never seen": [
        "recommender.ndcg@10",
        "recommender.ndcg@10_low",
        "recommender.ndcg@10_high",
        "recommender.ease.ndcg@10",
        "recommender.popularity.ndcg@10",
        "recommender.shuffled_history.ndcg@10",
    ],
    "NDCG@10 for everybody's last item": [
        "recommender.leave_last_out.sasrec.ndcg@10",
        "recommender.leave_last_out.sasrec.ndcg@10_low",
        "recommender.leave_last_out.sasrec.ndcg@10_high",
        "recommender.leave_last_out.ease.ndcg@10",
        "recommender.leave_last_out.item_knn.ndcg@10",
        "recommender.leave_last_out.popularity.ndcg@10",
    ],
    "variance that 8 of 512 features explain": [
        "sae.explained_variance",
        "sae.by_dictionary.random.explained_variance",
    ],
    "NDCG kept": ["sae.ndcg_recovered", "sae.by_dictionary.random.ndcg_recovered"],
    "correlation of the best feature": [
        "interpretability.sae.max_correlation",
        "interpretability.sae.max_correlation_low",
        "interpretability.sae.max_correlation_high",
        "interpretability.neurons.max_correlation",
        "interpretability.neurons.max_correlation_low",
        "interpretability.neurons.max_correlation_high",
        "interpretability.random_directions.max_correlation",
    ],
    "the same with genres permuted": [
        "interpretability.sae.null_correlation",
        "interpretability.neurons.null_correlation",
    ],
    "share of a genre in the top 10": [
        "control.sae.mean.share_at_0",
        "control.sae.mean.share_at_strong",
        "control.diffmean.mean.share_at_strong",
        "control.random.mean.share_at_strong",
    ],
    "NDCG@10 at that dose": [
        "control.sae.mean.ndcg_at_strong",
        "control.diffmean.mean.ndcg_at_strong",
        "control.random.mean.ndcg_at_strong",
    ],
}


def number(key: str) -> float:
    value = METRICS
    for part in key.split("."):
        value = value[part]
    return value


@pytest.mark.parametrize("row", ROWS)
def test_the_results_table_shows_the_committed_numbers(row):
    (line,) = [line for line in README.splitlines() if line.startswith(f"| {row}")]
    assert re.findall(r"\.\d{3}\b", line) == [f"{number(key):.3f}"[1:] for key in ROWS[row]]


def test_a_knob_at_zero_changes_nothing():
    assert number("control.zero_edit.max_logit_change") == 0


def test_links_and_figures_lead_to_files():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    local = [target for target in targets if not target.startswith("http")]
    assert len(local) >= 8
    assert [target for target in local if not (PROJECT / target).exists()] == []


def test_every_notebook_and_profile_is_mentioned():
    notebooks = sorted(path.name for path in (PROJECT / "notebooks").glob("*.ipynb"))
    assert [name for name in notebooks if f"notebooks/{name}" not in README] == []
    profiles = sorted(path.stem for path in (PROJECT / "notebooks" / "params").glob("*.yaml"))
    assert [name for name in profiles if name not in README] == []
