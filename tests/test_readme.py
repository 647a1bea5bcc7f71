"""The README's own numbers are those of metrics.json, and its links lead somewhere."""

import json
import re
import textwrap
from pathlib import Path

import pandas as pd

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text()
METRICS = {
    name: json.loads((PROJECT / "figures" / name / "metrics.json").read_text())
    for name in ("ml-100k",)
}


def number(key: str, dataset: str = "ml-100k") -> float:
    value = METRICS[dataset]
    for part in key.split("."):
        value = value[part]
    return value


def shown(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1)


def in_trainings(stage: str, name: str) -> list[float]:
    table = pd.read_csv(PROJECT / "figures" / "ml-100k" / "trainings.csv")
    return table[(table["stage"] == stage) & (table["name"] == name)]["value"].tolist()


def test_the_row_of_all_teaching_shows_the_committed_numbers():
    (line,) = [line for line in README.splitlines() if "everybody's last item" in line]
    ours = in_trainings("recommender", "leave_last_out.sasrec.ndcg@10")
    models = ("ease", "item_knn", "popularity")
    others = [number(f"recommender.leave_last_out.{model}.ndcg@10") for model in models]
    expected = [shown(value) for value in (min(ours), max(ours), *others)]
    assert len(ours) == 5 and re.findall(r"\.\d{3}\b", line) == expected


def test_one_training_is_set_beside_the_others():
    (line,) = [line for line in README.splitlines() if "One training decides nothing" in line]
    first, *others = in_trainings("interpretability", "sae.max_correlation")
    expected = [shown(value) for value in (first, min(others), max(others))]
    assert len(others) == 4 and re.findall(r"\.\d{3}\b", line) == expected
    (line,) = [line for line in README.splitlines() if "can know films instead" in line]
    assert f"{number('data.items'):,} films" in line


def test_the_claims_stand_between_their_marks():
    """Their text is held to claims.csv in test_notebooks.py."""
    inside = README.partition("<!-- claims -->")[2].partition("<!-- end of claims -->")[0]
    assert inside.count("| **") >= 8
    rest = README.replace(inside, "")
    assert not re.findall(r"\*\*(holds|does not hold|undecided)\*\* \|", rest)


def test_what_is_said_of_the_datasets_is_counted():
    names = ("ml-100k", "ml-1m", "ml-1m-small", "ml-100k-fresh")
    found = {
        n: pd.read_csv(PROJECT / "figures" / n / "claims.csv").set_index("claim") for n in names
    }
    verdicts = {name: table["verdict"] for name, table in found.items()}
    undecided = verdicts["ml-100k"][verdicts["ml-100k"] == "undecided"].index
    now = verdicts["ml-1m"].reindex(undecided).dropna()
    assert "Two datasets, two answers" in README and (now == "holds").mean() > 0.5
    held = found["ml-1m-small"].loc["an SAE feature tells a genre better than a hidden dimension"]
    assert held["number"] > 0.5 * (0.180 + 0.713), "nearer to ML-1M than to MovieLens-100K"
    assert (verdicts["ml-100k-fresh"] == "holds").sum() < (verdicts["ml-100k"] == "holds").sum()


def test_numbers_of_others_name_their_source():
    assert README.count("[a]") == 3 and "**[a]**" in README


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


def test_the_house_is_the_one_that_stands_here():
    (house,) = re.findall(r"(?ms)^## The house\n+```\n(.*?)^```", README)
    for folder in re.findall(r"(?m)^([a-z_]+)/  ", house):
        assert (PROJECT / folder).is_dir(), folder
    rooms = [line.split("  ")[0].split() for line in re.findall(r"(?m)^  ([a-z].*)", house)]
    package = PROJECT / "seqsae_utils"
    found = {path.stem for path in package.iterdir() if not path.name.startswith("__")}
    assert {name for room in rooms for name in room} == found


def test_the_twelve_lines_from_a_model_of_ones_own_are_those_that_are_run():
    """`tests/test_contract.py` runs them."""
    source = (PROJECT / "tests" / "own_model.py").read_text()
    body = textwrap.dedent(source.partition('numbered(histories)`."""\n')[2])
    assert body.replace("return ids[", "lists = ids[") in README
