"""Claims are decided by trainings and users together: on trainings whose truth is known."""

import json
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from seqsae_utils import claims, figures
from seqsae_utils.claims import Claim, Training
from seqsae_utils.interpretability import REPRESENTATIONS
from seqsae_utils.resampling import draws

USERS = 200
PROJECT = Path(__file__).parents[1]


def training(own: float, control: float, seed: int, spread: float = 0.3) -> Training:
    """Per-user scores around two means, and their means in 500 draws of the same users."""
    rng = np.random.default_rng(seed)
    taste = rng.normal(0, spread, USERS)  # moves both alike: only a paired comparison sees through
    counts = draws(USERS) / USERS
    numbers, drawn = {}, {}
    for key, mean in {"ours.score": own, "theirs.score": control}.items():
        values = mean + taste + rng.normal(0, 0.05, USERS)
        numbers["sae", key], drawn["sae", key] = float(values.mean()), counts @ values
    return Training(numbers, drawn)


def one_claim(monkeypatch, baselines=None, smaller=False):
    baselines = baselines or {"rival": "theirs.score"}
    claim = Claim("sae", "ours is better", "score", "ours.score", baselines, smaller)
    monkeypatch.setattr(claims, "claims", lambda: [claim])


def decide(trainings) -> pd.Series:
    return claims.table(trainings).iloc[0]


def test_a_lead_in_all_trainings_holds_although_the_intervals_overlap(monkeypatch):
    one_claim(monkeypatch)
    row = decide([training(0.55, 0.50, s) for s in range(5)])
    assert row["low"] < row["control_high"], "unpaired it would be undecided"
    assert (row["verdict"], row["holds_in"], row["n_trainings"]) == ("holds", 5, 5)


def test_a_lead_that_training_turns_round_is_undecided(monkeypatch):
    """Sure over users in each training, but not over trainings: the fault that this is against."""
    one_claim(monkeypatch)
    leads = [0.06, -0.05, 0.05, -0.04, 0.02]
    row = decide([training(0.5 + lead, 0.5, s) for s, lead in enumerate(leads)])
    assert (row["verdict"], row["holds_in"]) == ("undecided", 3)
    assert decide([training(0.56, 0.5, 0)])["verdict"] == "holds", "a single training was sure"


def test_behind_in_all_trainings_does_not_hold(monkeypatch):
    one_claim(monkeypatch)
    assert decide([training(0.45, 0.5, s) for s in range(5)])["verdict"] == "does not hold"


def test_of_many_claims_one_that_chance_would_decide_does_not_last():
    verdicts = ["holds", "does not hold", "holds"] + ["undecided"] * 37
    found = pd.DataFrame({"verdict": verdicts, "p": [0.001, 0.04, np.nan, *np.full(37, 0.5)]})
    assert claims.lasting(found).tolist() == [True, False, True] + [False] * 37
    assert claims.lasting(found[:3]).all(), "among few, each is decided"
    assert not claims.lasting(pd.DataFrame({"verdict": ["not tested"], "p": [np.nan]})).any()


@pytest.mark.parametrize("n", [2, 3, 5])
def test_where_trainings_differ_by_chance_one_claim_in_twenty_is_decided(monkeypatch, n):
    """Few trainings, drawn again with replacement, would decide a half, a quarter, a seventh."""
    one_claim(monkeypatch)
    rng, keys = np.random.default_rng(0), [("sae", "ours.score"), ("sae", "theirs.score")]
    by_chance = rng.normal(1, 0.1, (400, n, 2))
    decided = [
        decide([Training(dict(zip(keys, pair, strict=True)), {}) for pair in pairs])
        for pairs in by_chance
    ]
    assert 0.02 < np.mean([row["verdict"] in claims.DECIDED for row in decided]) < 0.08


def test_where_users_and_trainings_differ_by_chance_few_claims_are_decided(monkeypatch):
    """A lead of 0 on average, which moves with users, with trainings, and with both together."""
    one_claim(monkeypatch)
    rng, drawn = np.random.default_rng(0), draws(USERS) / USERS
    decided = 0
    for _ in range(200):
        of_users, trainings = rng.normal(size=USERS), []
        for _ in range(5):
            theirs = rng.normal(size=USERS)
            ours = theirs + rng.normal(0, 0.1) + of_users + rng.normal(0, 0.5, USERS)
            both = {("sae", "ours.score"): ours, ("sae", "theirs.score"): theirs}
            means = {key: float(values.mean()) for key, values in both.items()}
            trainings.append(Training(means, {k: drawn @ values for k, values in both.items()}))
        decided += decide(trainings)["verdict"] in claims.DECIDED
    assert 0 < decided < 20


def test_an_interval_over_trainings_is_student_s(monkeypatch):
    one_claim(monkeypatch, {"one half": 0.5})
    own = np.array([0.61, 0.55, 0.7, 0.64])
    row = decide([Training({("sae", "ours.score"): x}, {}) for x in own])
    half = stats.t.ppf(0.975, 3) * stats.sem(own)
    assert row["low"] == pytest.approx(own.mean() - half, abs=0.15 * half)
    assert row["high"] == pytest.approx(own.mean() + half, abs=0.15 * half)


def test_p_agrees_with_the_verdict(monkeypatch):
    one_claim(monkeypatch)
    for lead, verdict in ((0.05, "holds"), (-0.05, "does not hold"), (0.0, "undecided")):
        row = decide([training(0.5 + lead, 0.5, s) for s in range(5)])
        assert row["verdict"] == verdict
        assert (row["p"] <= 0.05) == (verdict != "undecided")
        assert 0 < row["p"] <= 1
    single = decide([Training(t.numbers, {}) for t in [training(0.9, 0.5, 0)]])
    assert single["verdict"] == "not tested" and np.isnan(single["p"])


def test_where_less_is_better_the_signs_turn(monkeypatch):
    one_claim(monkeypatch, smaller=True)
    row = decide([training(0.45, 0.5, s) for s in range(5)])
    assert (row["verdict"], row["holds_in"]) == ("holds", 5)
    assert 1 < row["ratio_low"] < row["ratio"] < row["ratio_high"]
    assert row["ratio"] == pytest.approx(row["control_number"] / row["number"])


def test_where_the_baseline_may_be_zero_there_is_no_ratio(monkeypatch):
    one_claim(monkeypatch)
    row = decide([training(0.5, 0.0, s) for s in range(5)])
    assert row["verdict"] == "holds"
    assert row[["ratio", "ratio_low", "ratio_high"]].isna().all()


def test_trainings_come_back_from_the_tables_beside_the_claims(monkeypatch, tmp_path):
    one_claim(monkeypatch)
    made = {s: training(0.5 + s / 100, 0.45, s) for s in (0, 3)}
    numbers = claims.write_trainings(made, tmp_path)
    assert numbers["seed"].tolist() == [0, 0, 3, 3]
    found = claims.load_trainings(tmp_path)
    assert list(found) == [0, 3]
    for seed, own in made.items():
        assert found[seed].numbers == pytest.approx(own.numbers)
        for key, values in own.draws.items():
            np.testing.assert_allclose(found[seed].draws[key], values, rtol=1e-6)
    again = pd.read_csv(tmp_path / "claims.csv").iloc[0]
    assert again["verdict"] == decide(list(made.values()))["verdict"]
    claims.write_trainings(found | {3: made[0]}, tmp_path)  # a training takes its seed's place
    assert claims.load_trainings(tmp_path)[3].numbers == found[0].numbers


def test_nothing_is_loaded_where_nothing_was_trained(tmp_path):
    assert claims.load_trainings(tmp_path) == {}


def test_the_best_control_counts(monkeypatch):
    trainings = [training(0.55, 0.5, s) for s in range(5)]
    one_claim(monkeypatch, {"rival": "theirs.score", "a constant": 0.9})
    row = decide(trainings)
    assert (row["control"], row["verdict"]) == ("a constant", "does not hold")
    assert row["control_low"] == row["control_high"] == 0.9
    one_claim(monkeypatch, {"rival": "theirs.score", "a constant": 0.1})
    assert decide(trainings)["control"] == "rival"


def test_the_interval_grows_with_what_training_moves(monkeypatch):
    one_claim(monkeypatch)
    calm = decide([training(0.5, 0.3, 0, 0.01) for _ in range(5)])
    moved = decide([training(0.5 + s / 50, 0.3, 0, 0.01) for s in range(-2, 3)])
    assert moved["high"] - moved["low"] > 3 * (calm["high"] - calm["low"])
    assert moved["number"] == pytest.approx(calm["number"], abs=1e-6)


def test_numbers_without_draws_vary_with_the_trainings_only(monkeypatch):
    one_claim(monkeypatch)
    trainings = [Training(training(0.5 + s / 100, 0.3, s).numbers, {}) for s in range(5)]
    row = decide(trainings)
    own = [t.numbers["sae", "ours.score"] for t in trainings]
    assert row["low"] < row["number"] < row["high"] < row["low"] + 2 * np.ptp(own)


def test_one_training_without_draws_decides_nothing(monkeypatch):
    one_claim(monkeypatch)
    alone = training(0.9, 0.1, 0)
    row = decide([alone])
    assert (row["verdict"], row["drawn"]) == ("holds", "users")
    row = decide([alone._replace(draws={})])
    assert (row["verdict"], row["holds_in"], row["drawn"]) == ("not tested", 1, "trainings")


def test_what_a_profile_lacks_is_left_out(monkeypatch):
    one_claim(monkeypatch, {"rival": "gpt2.score"})
    assert claims.table([training(0.5, 0.4, 0)]).empty


def test_an_edit_by_zero_must_be_zero_in_every_training(monkeypatch):
    key = "zero_edit.max_logit_change"
    claim = Claim("control", "nothing changes", "logit", key, {"not the last bit": 0.0}, True)
    monkeypatch.setattr(claims, "claims", lambda: [claim])
    exact, off = Training({("control", key): 0.0}, {}), Training({("control", key): 1e-9}, {})
    assert decide([exact] * 5)["verdict"] == "holds"
    row = decide([exact] * 4 + [off])
    assert (row["verdict"], row["holds_in"]) == ("does not hold", 4)


def test_every_claim_names_numbers_that_are_compared_once():
    found = claims.claims()
    assert len({(claim.stage, claim.number, claim.claim) for claim in found}) == len(found)
    assert all(claim.baselines for claim in found)
    assert 6 <= sum(claim.headline for claim in found) <= 12


def test_the_readme_draws_the_claims_as_they_were_decided():
    table, asked = claims.figure_table(), [claim for claim in claims.claims() if claim.figure]
    assert list(table["question"].unique()) == [*claims.QUESTIONS.values()]
    assert table.groupby("data")["row"].nunique().tolist() == [len(asked)] * len(claims.MAIN)
    figures.style()
    axes = figures.claims(table).axes
    assert [axis.get_title(loc="left") for axis in axes] == [*claims.QUESTIONS.values()]
    drawn = [line.get_xdata() for axis in axes for line in axis.lines if line.get_marker() == "o"]
    assert sorted(np.concatenate(drawn)) == sorted(table["ratio"])
    holds = table["verdict"] == "holds"
    assert (holds == (table["ratio_low"] > 1)).mean() > 0.9  # a ratio's interval is not a lead's
    plt.close("all")
    plt.rcdefaults()


def test_trainings_are_read_from_their_folders(tmp_path):
    folder = tmp_path / "artifacts" / "toy"
    (folder / "draws").mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"sae": {"a": {"b": 1.5}, "name": "x"}}))
    pd.DataFrame({"a.b": np.arange(500.0)}).to_parquet(folder / "draws" / "sae.parquet")
    found = claims.read_training(tmp_path, "toy")
    assert found.numbers == {("sae", "a.b"): 1.5, ("sae", "name"): "x"}
    assert found.draws["sae", "a.b"][-1] == 499


def test_rows_are_shown_as_papers_print_them(monkeypatch):
    one_claim(monkeypatch, {"one half": 0.5})
    found = claims.table([training(0.75, 0.5, s, 0.0) for s in range(5)])
    line = claims.shown(found, "sae").splitlines()[-1]
    assert line.startswith("| ours is better | score | .7")
    assert line.endswith("| one half: .500 | 5 of 5 | **holds** |")


def test_representations_are_called_as_in_the_figures():
    of_films = [
        (name, key)
        for claim in claims.claims()
        for name, key in claim.baselines.items()
        if isinstance(key, str) and key.endswith(".held_out")
    ]
    assert len(of_films) >= 10
    for name, key in of_films:
        assert name == REPRESENTATIONS[key.removesuffix(".held_out")]


def test_publishing_decides_and_shows_anew_where_it_stands(tmp_path, monkeypatch):
    shown = claims.rendered()
    files = [*shown, *PROJECT.glob("figures/*/*.csv"), *PROJECT.glob("figures/*/draws.parquet")]
    for file in [*files, PROJECT / "notebooks" / "claims.yaml"]:
        (tmp_path / file.relative_to(PROJECT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tmp_path / file.relative_to(PROJECT))
    (tmp_path / "notebooks" / "params").mkdir()
    decided = tmp_path / "figures" / "ml-100k" / "claims.csv"
    decided.write_text(decided.read_text().replace("holds", "is undone"))
    monkeypatch.chdir(tmp_path / "notebooks")
    claims.publish()
    assert decided.read_bytes() == (PROJECT / "figures" / "ml-100k" / "claims.csv").read_bytes()
    assert (tmp_path / "figures" / "claims.png").stat().st_size > 50_000
    for path, text in shown.items():
        assert (tmp_path / path.relative_to(PROJECT)).read_text() == text
