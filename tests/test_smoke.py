"""The whole chain on planted concepts: what is known to be there must be found, and obey."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr

from seqsae_utils import data
from seqsae_utils.run import attributes_exist
from seqsae_utils.workspace import STAGES

PROJECT = Path(__file__).parents[1]
STRONG = 4.0  # the strength that notebook 06 reports
#: Runs the first four notebooks of the profile smoke with another seed.
OTHER_SEED = """
from seqsae_utils import run
from seqsae_utils.run.parameters import resolve
from seqsae_utils.workspace import STAGES, Workspace
parameters = resolve("smoke", {"seed": 1})
for stage in list(STAGES)[:4]:
    run.execute(Workspace("smoke"), stage, parameters[STAGES[stage]])
"""


@pytest.fixture(scope="module")
def again(smoke, tmp_path_factory) -> dict[str, Path]:
    """The same chain once more, and the first four notebooks with another seed, side by side."""
    commands = {
        "same": ["-m", "seqsae_utils.run", "paper", "--profile", "smoke"],
        "other": ["-c", OTHER_SEED],
    }
    roots, runs = {}, {}
    for name, command in commands.items():
        roots[name] = tmp_path_factory.mktemp(name)
        environment = {**os.environ, "SEQSAE_WORKSPACE": str(roots[name]), "TQDM_DISABLE": "1"}
        with open(roots[name] / "log.txt", "w") as log:
            runs[name] = subprocess.Popen(
                [sys.executable, *command], env=environment, cwd=PROJECT, stdout=log, stderr=log
            )
    for name, run in runs.items():
        assert run.wait() == 0, (roots[name] / "log.txt").read_text()
    return {name: root / "artifacts" / "smoke" for name, root in roots.items()}


def test_every_stage_records_its_numbers(smoke):
    assert list(smoke.metrics) == list(STAGES)


def test_an_attribute_that_no_item_has_is_refused_before_training(smoke):
    known = data.load(smoke.artifacts / "data").attributes
    written = SimpleNamespace(load=lambda stage: smoke.artifacts / stage)
    attributes_exist(written, {"05": {"attribute": known[0]}, "06": {"attributes": ""}})
    for wrong in ({"attribute": "Westerns"}, {"attributes": f"{known[0]}|Westerns"}):
        with pytest.raises(ValueError, match="attribute 'Westerns': no item has it; nearest: "):
            attributes_exist(written, {"06": wrong})


def test_the_recommender_beats_popularity_by_far(smoke):
    found = smoke.metrics["recommender"]
    ours, popular = found["ndcg@10"], found["popularity"]["ndcg@10"]
    assert ours > 2 * popular, f"NDCG@10 {ours:.3f}, popularity {popular:.3f}"
    assert found["ndcg@10_low"] > popular


def test_the_sae_recovers_planted_concepts_far_better_than_dimensions_do(smoke):
    found = smoke.metrics["interpretability"]
    score = {name: found[name]["max_correlation"] for name in
             ("neurons", "pca", "random_directions", "sae")}  # fmt: skip
    null = found["sae"]["null_correlation"]
    message = f"correlation with the planted concepts: {score}, permuted concepts {null:.3f}"
    rest = max(value for name, value in score.items() if name != "sae")
    assert score["sae"] > score["neurons"] + 0.15, message
    assert score["sae"] > rest + 0.15, message
    assert score["sae"] > null + 0.4, message
    assert found["sae"]["max_correlation_low"] > found["neurons"]["max_correlation_high"], message
    assert found["sae"]["p_value"] < 0.02, message


def test_every_planted_concept_has_its_own_feature(smoke):
    best = pd.read_parquet(smoke.artifacts / "interpretability" / "best.parquet")
    best = best.set_index(["representation", "attribute"])
    sae, neurons = (best.loc[name, "correlation"] for name in ("sae", "neurons"))
    assert len(sae) == smoke.metrics["data"]["attributes"] == 12
    assert (sae > neurons).sum() >= 11, pd.DataFrame({"sae": sae, "neurons": neurons}).round(2)
    assert best.loc["sae", "feature"].nunique() >= 11


def test_features_were_chosen_on_sae_users_and_scored_on_test_users(smoke):
    """From the arrays on the disk, by SciPy: the file of neurons is the hidden states."""
    best = pd.read_parquet(smoke.artifacts / "interpretability" / "best.parquet")
    items = pd.read_parquet(smoke.artifacts / "data" / "items.parquet").set_index("item")
    states, carried = {}, {}
    for group in ("dev", "test"):
        folder = smoke.artifacts / "activations"
        states[group] = np.load(folder / f"{group}.npy").astype(float)
        index = pd.read_parquet(folder / f"{group}_index.parquet")
        carried[group] = items.loc[index["item"], "attributes"].str.split("|")
    for row in best[best["representation"] == "neurons"].itertuples():
        has = {g: np.array([row.attribute in names for names in carried[g]]) for g in carried}
        r = [pearsonr(column, has["dev"]).statistic for column in states["dev"].T]
        assert row.feature == np.argmax(np.abs(r))
        scored = pearsonr(states["test"][:, row.feature], has["test"]).statistic
        assert row.correlation == pytest.approx(scored * row.sign, abs=1e-4)


def test_users_who_trained_the_sae_are_not_those_who_test_it(smoke):
    users = pd.read_parquet(smoke.artifacts / "data" / "users.parquet").set_index("user")["split"]
    for group in ("dev", "test"):
        index = pd.read_parquet(smoke.artifacts / "activations" / f"{group}_index.parquet")
        assert set(users[index["user"]]) == {group}


def test_the_scale_is_measured_on_the_sae_users_and_folded_in(smoke):
    folder = smoke.artifacts / "activations"
    found = json.loads((smoke.artifacts / "sae" / "cfg.json").read_text())["metadata"]["std"]
    states = {group: np.load(folder / f"{group}.npy").astype(float) for group in ("dev", "test")}
    assert found == pytest.approx(states["dev"].std(), rel=1e-6)
    assert found != pytest.approx(states["test"].std(), rel=1e-6)


def test_the_zero_edit_changes_no_logit_at_all(smoke):
    assert smoke.metrics["control"]["zero_edit"]["max_logit_change"] == 0.0


def test_steering_a_concept_raises_it_and_not_the_others(smoke):
    table = pd.read_parquet(smoke.artifacts / "control" / "side_effects.parquet")
    table = table[table["strength"] == STRONG]
    own = table[table["attribute"] == table["other"]].set_index(["method", "attribute"])["change"]
    others = table[table["attribute"] != table["other"]].groupby(["method", "attribute"])["change"]
    assert len(own["sae_feature"]) == 12
    for concept, change in own["sae_feature"].items():
        mean, most = others.mean()["sae_feature", concept], others.max()["sae_feature", concept]
        message = f"{concept} {change:+.2f}, others {mean:+.2f}, at most {most:+.2f}"
        assert change > 0.2, message
        assert mean <= 0, message
        assert most < change / 2, message  # every item has two concepts: one may come along
    assert own["sae_feature"].mean() > own["random"].mean() + 0.2, own.groupby("method").mean()


def test_turning_a_concept_down_removes_it(smoke):
    curves = pd.read_csv(smoke.figures / "tables" / "06_dose_response.csv")
    share = curves[curves["method"] == "sae_feature"].pivot(
        index="attribute", columns="strength", values="share"
    )
    assert (share[-STRONG] < share[0.0] / 2).all(), share.round(2)


def test_strength_zero_is_the_untouched_model_for_every_method(smoke):
    curves = pd.read_parquet(smoke.artifacts / "control" / "curves.parquet")
    zero = curves[curves["strength"] == 0]
    assert set(zero["method"]) == set(curves["method"])
    assert not zero["ndcg_change"].any()
    assert zero["ndcg"].nunique() == zero["coverage"].nunique() == 1
    assert zero["ndcg"].iloc[0] == pytest.approx(smoke.metrics["recommender"]["ndcg@10"], abs=1e-6)
    assert (zero.groupby("attribute")["share"].nunique() == 1).all()


def test_the_same_seed_gives_the_same_numbers_to_the_last_byte(smoke, again):
    first, second = (folder / "metrics.json" for folder in (smoke.artifacts, again["same"]))
    assert first.read_bytes() == second.read_bytes()


def test_the_same_seed_gives_the_same_artifacts(smoke, again):
    for stage in STAGES:
        first, second = (
            json.loads((folder / stage / "manifest.json").read_text())["files"]
            for folder in (smoke.artifacts, again["same"])
        )
        assert first == second, f"the files of {stage} differ"


def test_another_seed_trains_anew_for_the_same_users(smoke, again):
    other = json.loads((again["other"] / "metrics.json").read_text())
    assert list(other) == list(STAGES)[:4]
    assert other["data"] == smoke.metrics["data"]
    first, second = (
        json.loads((folder / "data" / "manifest.json").read_text())
        for folder in (smoke.artifacts, again["other"])
    )
    assert first == second  # the same files, down to the checksum
    for stage, number in {
        "recommender": "ndcg@10",
        "activations": "probe_auc",
        "sae": "explained_variance",
    }.items():
        assert other[stage][number] != smoke.metrics[stage][number], f"{stage}: {number}"
