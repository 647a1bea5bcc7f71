"""The README's own numbers are those of metrics.json, and its links lead somewhere."""

import json
import re
import tempfile
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from seqsae_utils import claims
from seqsae_utils.sae import saelens, variants

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text()
CONTRIBUTING = (PROJECT / "CONTRIBUTING.md").read_text()
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


def paragraph(words: str) -> str:
    """The one paragraph or point of the README with these words, in one line."""
    parts = [" ".join(part.split()) for part in re.split(r"\n\n|\n(?=\* )", README)]
    (found,) = [part for part in parts if words in part]
    return found


def in_trainings(stage: str, name: str) -> list[float]:
    table = pd.read_csv(PROJECT / "figures" / "ml-100k" / "trainings.csv")
    return table[(table["stage"] == stage) & (table["name"] == name)]["value"].tolist()


def test_the_row_of_all_teaching_shows_the_committed_numbers():
    line = paragraph("everybody's last item")
    ours = in_trainings("recommender", "leave_last_out.sasrec.ndcg@10")
    numbers = [min(ours), max(ours), number("recommender.leave_last_out.ease.ndcg@10")]
    field = pd.read_csv(PROJECT / "figures" / "ml-1m-last" / "trainings.csv")
    means = field.groupby("name")["value"].mean()
    sasrec = field.loc[field["name"] == "last_item.sasrec.ndcg@10", "value"]
    numbers += [sasrec.mean(), sasrec.min(), sasrec.max(), means["last_item.sasrec.hit_rate@10"]]
    numbers += [means[f"last_item.ligr.{measure}@10"] for measure in ("ndcg", "hit_rate")]
    numbers.append(means["last_item.ease.ndcg@10"])
    (published,) = [c.baselines for c in claims.claims() if c.number == "last_item.sasrec.ndcg@10"
                    and "eSASRec, published" in c.baselines]  # fmt: skip
    for name, hit_rate in {"HSTU-large": 0.329, "eSASRec": 0.313}.items():
        numbers += [published[f"{name}, published"], hit_rate]
    others = ("sasrec_64", "sasrec_ties_by_item", "sasrec_ties_shuffled")
    numbers += [means[f"last_item.{name}.ndcg@10"] for name in others]
    verdicts = pd.read_csv(PROJECT / "figures" / "ml-1m-last" / "claims.csv").set_index("control")
    assert set(verdicts.loc["HSTU-large, published", "verdict"]) == {"undecided"}
    assert field["seed"].nunique() == 3 and len(ours) == 5
    assert re.findall(r"\.\d{3}\b", line) == [shown(value) for value in numbers]


def test_one_training_is_set_beside_the_others():
    line = paragraph("One training decides nothing")
    first, *others = in_trainings("interpretability", "sae.max_correlation")
    expected = [shown(value) for value in (first, min(others), max(others))]
    assert len(others) == 4 and re.findall(r"\.\d{3}\b", line) == expected
    line = paragraph("can memorise single films")
    assert f"{number('data.items'):,} films" in line


def test_the_claims_stand_between_their_marks():
    """Their text is held to claims.csv in test_notebooks.py."""
    inside = README.partition("<!-- claims -->")[2].partition("<!-- end of claims -->")[0]
    assert inside.count("| **") >= 8
    rest = README.replace(inside, "")
    assert not re.findall(r"\*\*(holds|does not hold|undecided)\*\* \|", rest)


def test_what_is_said_of_the_datasets_is_counted():
    names = ("ml-100k", "ml-1m", "ml-1m-small", "ml-100k-fresh", "ml-1m-later")
    found = {
        n: pd.read_csv(PROJECT / "figures" / n / "claims.csv").set_index("claim") for n in names
    }
    verdicts = {name: table["verdict"] for name, table in found.items()}
    undecided = verdicts["ml-100k"][verdicts["ml-100k"] == "undecided"].index
    now = verdicts["ml-1m"].reindex(undecided).dropna()
    held = (now == "holds").sum()
    said = f"Of {len(now)} claims that are undecided on MovieLens-100K {held} hold"
    assert f"{said} on ML-1M" in paragraph("Two datasets")
    held = found["ml-1m-small"].loc["an SAE feature matches a genre better than a hidden dimension"]
    assert held["number"] > 0.5 * (0.180 + 0.713), "nearer to ML-1M than to MovieLens-100K"
    fresh = verdicts["ml-100k-fresh"]
    fresh = fresh[verdicts["ml-100k"].reindex(fresh.index) == "holds"]
    tested = fresh[fresh != "not tested"]
    assert f"{(tested == 'holds').sum()} of {len(tested)} hold again" in paragraph("Two datasets")


@pytest.mark.parametrize(
    "name, other, begins",
    [
        ("ml-1m", "ml-1m-later", "Cut in time"),
        ("ml-100k", "ml-100k-again", "One training decides nothing"),
    ],
)
def test_how_many_verdicts_stand_elsewhere_is_counted(name, other, begins):
    line = paragraph(begins)
    here, there = (
        pd.read_csv(PROJECT / "figures" / n / "claims.csv").set_index("claim")["verdict"]
        for n in (name, other)
    )
    decided = here[here.isin(claims.DECIDED)]
    again = there.reindex(decided.index)
    of = {"holds": "does not hold", "does not hold": "holds"}
    n = {name: (again == name).sum() for name in ("undecided", "not tested")}
    assert not (again == decided.map(of)).any() and "none is reversed" in line
    said = (
        f"{len(decided)} verdicts {(again == decided).sum()} stand, {n['undecided']} are undecided"
    )
    assert said in line and (f"{n['not tested']} are not tested" in line) == bool(n["not tested"])


def test_what_is_said_of_the_cut_in_time_is_counted():
    line = paragraph("Cut in time")
    later = pd.read_csv(PROJECT / "figures/ml-1m-later/claims.csv").set_index("claim")
    start = "given the current item, an SAE feature predicts the next item's genres better than "
    counted = later.loc[start + "counting the genres of the last ten items"]
    beaten = counted["verdict"] == "does not hold"
    assert ("the last ten genres beat a feature there" in line) == beaten
    start = "after a cut in time, the recommender beats what was popular just before "
    (recent,) = later.loc[[start + "each item"]].to_dict("records")
    assert (recent["n_trainings"], counted["n_trainings"]) == (3, 3)
    assert "three trainings)" in line
    quoted = [recent["number"], recent["control_number"]]
    assert re.findall(r"\.\d{3}\b", line) == [shown(x) for x in quoted]


#: Paragraphs of the README, and the claims whose numbers they quote.
QUOTED = {
    "Are the features interpretable?": [
        "an SAE feature matches a genre better than a hidden dimension",
        "an SAE feature matches a genre better than an SAE of item vectors, which sees no history",
    ],
    "What does the sequence add?": [
        "given the current item, an SAE feature predicts the genres of the NEXT item better than "
        "an SAE of static item embeddings",
        "given the current item, an SAE feature predicts the next item's genres better than "
        "counting the genres of the last ten items",
        "given the last ten items too, an SAE feature predicts the next item's genres better than "
        "a decayed mean of item embeddings",
    ],
    "Do the knobs work?": [
        "steering with several SAE features costs less than the same choice for a permuted genre",
        "steering with several SAE features costs less than re-ranking (scores raised)",
    ],
    "Another seed finds other features": ["another seed finds most features again"],
    "Labels of features predict too little": [
        "counting features without a label too, labels predict more than those of untrained or "
        "static dictionaries"
    ],
    "One feature is rarely a cheap knob": ["one SAE feature steers cheaply on most genres"],
    "No measured gain for a user who asks": ["turning a knob helps a user who turns to a genre"],
    "does not beat EASE": ["the recommender beats models without order"],
}


@pytest.mark.parametrize("words", QUOTED)
def test_what_is_said_quotes_the_claims(words):
    """Each number in it is one of a claim that it quotes; each claim's own number is in it."""
    quoted = re.findall(r"(?<![\d.])\.\d{3}\b", paragraph(words))
    tables = [
        pd.read_csv(PROJECT / "figures" / name / "claims.csv") for name in ("ml-100k", "ml-1m")
    ]
    rows = pd.concat(table[table["claim"].isin(QUOTED[words])] for table in tables)
    own, best = ([shown(v) for v in rows[c]] for c in ("number", "control_number"))
    assert quoted and not {*quoted} - {*own, *best}
    missing = {*own} - {*quoted}
    assert not missing or (words == "does not beat EASE" and len(missing) == 1)


def test_the_verdicts_are_those_of_the_claims():
    of = {name: pd.read_csv(PROJECT / "figures" / name / "claims.csv").set_index("claim")["verdict"]
          for name in ("ml-100k", "ml-1m")}  # fmt: skip

    def verdicts(words):
        return [of[name][claim] for claim in QUOTED[words] for name in of]

    assert verdicts("Are the features interpretable?") == ["holds"] * 2 + ["undecided"] * 2
    added = ["holds"] * 2 + ["undecided"] * 2 + ["does not hold", "holds"]
    assert verdicts("What does the sequence add?") == added
    assert verdicts("Do the knobs work?") == ["holds"] * 2 + ["does not hold"] * 2
    assert verdicts("No measured gain for a user who asks") == ["undecided"] * 2
    assert of["ml-100k"][QUOTED["does not beat EASE"][0]] == "undecided"


def test_numbers_of_others_name_their_source():
    line = paragraph("Not comparable with the authors' numbers")
    assert "from executed notebooks of the paper's authors" in line
    assert re.findall(r"\.\d{3}\b", line) == [".658", ".136"]
    assert all(README.count(value) == 1 for value in (".658", ".136 (from"))


def test_a_knob_at_zero_changes_nothing():
    assert number("control.zero_edit.max_logit_change") == 0


def test_links_and_figures_lead_to_files():
    targets = re.findall(r"\]\(([^)#]+)", README)
    local = [target for target in targets if not target.startswith("http")]
    assert len(local) >= 8
    assert [target for target in local if not (PROJECT / target).exists()] == []


def test_it_is_read_in_one_sitting():
    assert README.count("\n") <= 200


def test_every_notebook_and_profile_is_mentioned():
    notebooks = sorted(path.name for path in (PROJECT / "notebooks").glob("*.ipynb"))
    assert [name for name in notebooks if f"notebooks/{name}" not in README] == []
    profiles = sorted(path.stem for path in (PROJECT / "notebooks" / "params").glob("*.yaml"))
    assert [name for name in profiles if name not in README] == []


def test_the_house_is_the_one_that_stands_here():
    (house,) = re.findall(r"(?ms)^## The house\n+```\n(.*?)^```", README)
    for folder in re.findall(r"(?m)^([a-z_]+)/  ", house):
        assert (PROJECT / folder).is_dir(), folder
    (layers,) = re.findall(r"(?ms)^## The layers\n.*?^```\n(.*?)^```", CONTRIBUTING)
    rooms = [re.split("  +", line)[0].split() for line in re.findall(r"(?m)^  ([a-z].*)", layers)]
    package = PROJECT / "seqsae_utils"
    found = {path.stem for path in package.iterdir() if not path.name.startswith("__")}
    assert {name for room in rooms for name in room} == found


def test_the_examples_of_contributing_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQSAE_WORKSPACE", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    own = [known.copy() for known in (variants.VARIANTS, saelens.ARCHITECTURES)]
    names: dict = {"__name__": "contributing"}
    try:
        for example in re.findall(r"(?ms)^```python\n(.*?)^```", CONTRIBUTING):
            exec(example, names)
    finally:
        for known, before in zip((variants.VARIANTS, saelens.ARCHITECTURES), own, strict=True):
            known.clear()
            known.update(before)
        plt.rcdefaults()
    assert names["history"]["explained_variance"].iloc[-1] > 0.1
    assert len([*names["folder"].glob("batchtopk-*/cfg.json")]) == len(names["runs"]) == 4
    assert len(names["raw"].interactions) == 4
    assert (tmp_path / "figures" / "smoke" / "01_popular.png").is_file()


def test_contributing_has_the_columns_of_every_file_of_a_run(smoke):
    listed = dict(re.findall(r"(?m)^\| `(\S+)` \| .* \| (.*) \|$", CONTRIBUTING))
    for file, columns in listed.items():
        read = pd.read_csv if file.endswith(".csv") else pd.read_parquet
        assert list(read(smoke.artifacts / file).columns) == columns.split(", "), file
    tables = [p.relative_to(smoke.artifacts) for p in smoke.artifacts.rglob("*.*")]
    tables = [p for p in tables if p.suffix in (".csv", ".parquet") and len(p.parts) == 2]
    rest = {p.as_posix() for p in tables if p.parts[0] != "draws"} - {*listed}
    assert {
        name for name in rest if not re.search(r"/(untrained_)?(dev|test)_index", name)
    } == set()


def test_the_twelve_lines_from_a_model_of_ones_own_are_those_that_are_run():
    """`tests/test_contract.py` runs them."""
    source = (PROJECT / "tests" / "own_model.py").read_text()
    body = textwrap.dedent(source.partition('numbered(histories)`."""\n')[2])
    assert body.replace("return ids[", "lists = ids[") in README
