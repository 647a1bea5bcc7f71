"""The README's numbers are those of the committed metrics.json, and its links lead somewhere."""

import json
import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text()
METRICS = {
    name: json.loads((PROJECT / "figures" / name / "metrics.json").read_text())
    for name in ("ml-100k", "ml-1m")
}

#: What a row of the results table begins with, and the numbers of its two cells, for each dataset.
ROWS = {
    "NDCG@10 for users never seen": (
        ["recommender.ndcg@10", "recommender.ndcg@10_low", "recommender.ndcg@10_high"],
        [
            "recommender.ease.ndcg@10",
            "recommender.popularity.ndcg@10",
            "recommender.shuffled_history.ndcg@10",
        ],
    ),
    "variance that 16 active features explain": (
        ["sae.explained_variance"],
        ["sae.by_dictionary.random.explained_variance"],
    ),
    "correlation of the best feature with its genre, mean over genres": (
        [
            "interpretability.sae.max_correlation",
            "interpretability.sae.max_correlation_low",
            "interpretability.sae.max_correlation_high",
        ],
        [
            "interpretability.neurons.max_correlation",
            "interpretability.random_directions.max_correlation",
            "interpretability.sae_static.max_correlation",
        ],
    ),
    "the same with genres permuted across items": (
        ["interpretability.sae.null_correlation"],
        [
            "interpretability.neurons.null_correlation",
            "interpretability.random_directions.null_correlation",
        ],
    ),
    "lead over hidden dimensions, above chance": (
        [
            "interpretability.neurons.lead_above_null",
            "interpretability.neurons.lead_above_null_low",
            "interpretability.neurons.lead_above_null_high",
        ],
        [
            "interpretability.ica.lead_above_null",
            "interpretability.random_directions.lead_above_null",
        ],
    ),
    "pairs of unseen items told right from a feature's label": (
        [
            "interpretability.names.sae.all.accuracy",
            "interpretability.names.sae.all.low",
            "interpretability.names.sae.all.high",
        ],
        [
            "interpretability.names.sae.all.shuffled",
            "interpretability.names.random_directions.all.accuracy",
        ],
    ),
    "share of a genre in the top 10, its feature turned up by 4": (
        ["control.sae.mean.share_at_0", "control.sae.mean.share_at_strong"],
        ["control.diffmean.mean.share_at_strong", "control.random.mean.share_at_strong"],
    ),
    "NDCG@10 at that dose": (
        ["control.sae.mean.ndcg_at_strong"],
        ["control.diffmean.mean.ndcg_at_strong", "control.random.mean.ndcg_at_strong"],
    ),
    "area under kept NDCG@10 against gained share, several SAE features (1: gains are free)": (
        [f"control.sae_several.pareto_area{end}" for end in ("", "_low", "_high")],
        [
            f"control.{method}.pareto_area"
            for method in ("sae", "diffmean", "output_direction", "boost", "random")
        ],
    ),
    "a list's distance from the share of .400 that was dialled": (
        ["control.dial.mean_abs_error"],
        ["control.dial.mean_abs_error_one_dose"],
    ),
    "NDCG@10 gained by the knob of a stated wish": (
        [f"control.serving.stated.sae_several.{end}" for end in ("change", "low", "high")],
        ["control.serving.stated.diffmean.change", "control.serving.stated.boost.change"],
    ),
}


def number(key: str, dataset: str = "ml-100k") -> float:
    value = METRICS[dataset]
    for part in key.split("."):
        value = value[part]
    return value


def shown(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1)


@pytest.mark.parametrize("row", ROWS)
def test_the_results_table_shows_the_committed_numbers(row):
    (line,) = [line for line in README.splitlines() if line.startswith(f"| {row} |")]
    cells = line.split("|")[2:6]
    for dataset, (first, second) in zip(METRICS, (cells[:2], cells[2:]), strict=True):
        for cell, keys in zip((first, second), ROWS[row], strict=True):
            expected = [shown(number(key, dataset)) for key in keys]
            assert re.findall(r"-?\.\d{3}\b", cell) == expected, dataset


def test_the_row_of_all_teaching_shows_the_committed_numbers():
    (line,) = [line for line in README.splitlines() if "everybody's last item" in line]
    found = "recommender.leave_last_out"
    keys = [f"{found}.sasrec.ndcg@10{end}" for end in ("", "_low", "_high")]
    keys += [f"{found}.{model}.ndcg@10" for model in ("ease", "item_knn", "popularity")]
    assert re.findall(r"\.\d{3}\b", line) == [shown(number(key)) for key in keys]


def test_numbers_of_others_name_their_source():
    """What was not measured here stands in the last column, with its source or as not reported."""
    table = [line for line in README.splitlines() if line.startswith(tuple(f"| {r}" for r in ROWS))]
    assert len(table) == len(ROWS)
    for line in table:
        assert re.search(r"\[a\]|not reported", line.split("|")[6]), line
    assert "**[a]**" in README


@pytest.mark.parametrize(
    ("name", "function"), [("05_interpretability", "conclusion"), ("06_control", "verdict")]
)
def test_the_sentences_below_the_table_are_the_conclusions_of_the_notebooks(name, function):
    """Composed by the code from the intervals, and quoted, so that nobody words them better."""
    book = json.loads((PROJECT / f"notebooks/{name}.ipynb").read_text())
    cells = [cell for cell in book["cells"] if f".{function}(" in "".join(cell["source"])]
    said = ["".join(output.get("text", "")) for cell in cells for output in cell.get("outputs", [])]
    assert said and said[0].strip() in README


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
