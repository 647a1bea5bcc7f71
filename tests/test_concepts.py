"""Concepts and groups of users: read, built in, fetched; found on items that did not choose."""

import json

import numpy as np
import pandas as pd
import pytest
import requests
import torch
from scipy import sparse
from sklearn.metrics import roc_auc_score

from seqsae_utils import activations, control, data, interpretability, sae
from seqsae_utils.data import concepts, dbpedia
from seqsae_utils.interpretability import concepts as found
from seqsae_utils.interpretability import films, future
from seqsae_utils.interpretability.comparison import Positions


@pytest.fixture(scope="module")
def dataset():
    return data.prepare(data.synthetic(n_users=120))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of own data that concepts and users may be put into."""
    monkeypatch.setenv("SEQSAE_DATA_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    return tmp_path / "mine"


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def ids(dataset, *numbers):
    return [dataset.items["item_id"].iloc[i - 1] for i in numbers]


# Reading


def test_concepts_are_read_by_id_and_each_counts_once(dataset, folder):
    rows = [f"{i},studio,Elm" for i in ids(dataset, *range(1, 10))]
    write(folder / "concepts.csv", "item_id,kind,concept", *rows, rows[0], "nobody,studio,Elm")
    known = concepts.load_concepts("mine", dataset)
    assert known.table.to_dict("records") == [
        {"kind": "studio", "concept": "Elm", "items": 9, "name": "studio: Elm"}
    ]
    assert np.flatnonzero(known.matrix.toarray()[:, 0]).tolist() == list(range(1, 10))


def test_a_concept_of_one_item_or_of_all_tells_nothing_and_is_left_out(dataset, folder):
    every = dataset.items["item_id"].tolist()
    rows = [f"{i},country,Land" for i in every] + [f"{every[0]},actor,One"]
    rows += [f"{i},actor,Some" for i in every[:8]]
    write(folder / "concepts.csv", "item_id,kind,concept", *rows)
    assert concepts.load_concepts("mine", dataset).table["name"].tolist() == ["actor: Some"]
    write(folder / "concepts.csv", "item_id,kind,concept", *rows[:-8])
    with pytest.raises(data.DataError, match=f"the largest has {len(every)}; lower min_i"):
        concepts.load_concepts("mine", dataset)


def test_ids_that_match_nothing_are_shown_on_both_sides(dataset, folder):
    write(folder / "concepts.csv", "item_id,kind,concept", "0001,studio,Elm")
    with pytest.raises(data.DataError, match="it has item_id '0001', .* the catalogue '1', '2'"):
        concepts.load_concepts("mine", dataset)


def test_without_a_file_everybody_has_decades_popularity_series_and_audiences(dataset, folder):
    known = concepts.load_concepts("mine", dataset)
    assert {"decade", "popularity", "audience"} <= set(known.table["kind"])
    year = np.r_[0, dataset.items["year"]]
    row = known.table["name"].tolist().index("decade: 1960s")
    assert np.array_equal(known.matrix.toarray()[:, row] > 0, (year >= 1960) & (year < 1970))
    audiences = known.matrix[:, (known.table["kind"] == "audience").to_numpy()]
    assert audiences.sum(axis=1).max() == 1  # an item is in one cluster
    again = concepts.load_concepts("mine", dataset)
    assert again.table.equals(known.table) and (again.matrix != known.matrix).nnz == 0


def test_one_user_to_learn_from_makes_no_audiences():
    alone = data.prepare(data.synthetic(n_users=3), min_attribute_items=1)
    assert len(alone.sequences("recommender")) == 1
    assert set(concepts.built_in(alone)["kind"]) == {"decade", "popularity"}


@pytest.mark.parametrize(
    "title, series",
    [
        ("Star Trek: First Contact (1996)", "Star Trek"),
        ("Alien 3 (1992)", "Alien"),
        ("Godfather: Part II, The (1974)", "Godfather"),
        ("Die Hard 2 (1990)", "Die Hard"),
        ("Fargo (1996)", "Fargo"),
        ("X (1999)", "X"),
    ],
)
def test_series_are_found_in_titles(title, series):
    assert concepts.series_of(title) == series


def test_a_series_needs_a_sequel(dataset):
    titles = ["Jaws (1975)", "Jaws 2 (1978)", "Fargo (1996)"]
    items = dataset.items.iloc[:3].assign(title=titles)
    built = concepts.built_in(data.Dataset(*_first_three(dataset, items)))
    assert built[built["kind"] == "series"]["item"].tolist() == [1, 2]


def _first_three(dataset, items):
    kept = dataset.interactions[dataset.interactions["item"] <= 3]
    return kept, items, dataset.users, dataset.everyone, dataset.counts


# Users


def test_groups_of_users_are_read_as_publishers_write_them(dataset, folder):
    users = dataset.users["user_id"].tolist()
    for name, line in (
        ("u.user", "{}|{}|{}|writer|00000"),
        ("users.dat", "{0}::{2}::{1}::3::00000"),
    ):
        rows = [line.format(u, 20 if i % 2 else 51, "FM"[i % 2]) for i, u in enumerate(users)]
        write(folder / name, *rows)
        groups = concepts.load_users("mine", dataset)
        expected = [("age", "18"), ("gender", "F")]
        assert sorted(groups) == expected
        assert groups["gender", "F"].tolist() == [i % 2 == 0 for i in range(len(users))]
        (folder / name).unlink()
    assert concepts.load_users("mine", dataset).shape == (len(users), 0)


def test_who_judges_later_is_in_the_group_of_before(folder):
    later = data.prepare(data.synthetic(), test_users="later", test_fraction=0.2)
    ids = later.users["user_id"].str.removesuffix(data.LATER)
    people = ids.unique()
    rows = [f"{person},{'ab'[i % 2]}" for i, person in enumerate(people)]
    write(folder / "users.csv", "user_id,plan", *rows)
    has = concepts.load_users("mine", later)["plan", "a"].to_numpy()
    assert has.tolist() == ids.isin(people[::2]).tolist()
    assert has[later.users["split"] == "test"].any()


def test_an_empty_cell_of_users_is_no_value(dataset, folder):
    users = dataset.users["user_id"].tolist()
    rows = [f"{user},{('a', '', ' b ')[i % 3]}" for i, user in enumerate(users)]
    write(folder / "users.csv", "user_id,plan", *rows)
    groups = concepts.load_users("mine", dataset)
    assert sorted(groups) == [("plan", "a"), ("plan", "b")]
    assert groups["plan", "b"].tolist() == [i % 3 == 2 for i in range(len(users))]
    write(folder / "users.csv", "user_id,plan", ",a", *rows)
    with pytest.raises(data.DataError, match=r"users.csv: line 2 has user_id '', expected an id"):
        concepts.load_users("mine", dataset)


def test_numbered_occupations_get_the_names_of_their_publisher(dataset, folder):
    users = dataset.users["user_id"].tolist()
    rows = (f"{u}::F::25::{(10, 0, 99)[i % 3]}::00000" for i, u in enumerate(users))
    write(folder / "users.dat", *rows)
    groups = concepts.load_users("mine", dataset)
    assert sorted(groups) == [("occupation", name) for name in ("99", "K-12 student", "other")]
    assert groups["occupation", "K-12 student"].tolist() == [i % 3 == 0 for i in range(len(users))]


def test_own_columns_of_users_are_groups_and_many_numbers_are_quartered(dataset, folder):
    users = dataset.users["user_id"].tolist()
    rows = [f"{u},{'ab'[i % 2]},{i},same" for i, u in enumerate(users)]
    write(folder / "users.csv", "user_id,plan,score,land", *rows, "stranger,a,1,same")
    groups = concepts.load_users("mine", dataset)
    assert [name for name, _ in groups].count("score") == 4
    assert ("plan", "a") in groups and not any(name == "land" for name, _ in groups)
    write(folder / "users.csv", "user_id,plan", "stranger,a")
    with pytest.raises(data.DataError, match="none of its users is in the data; .*'stranger'"):
        concepts.load_users("mine", dataset)
    write(folder / "users.csv", "name,plan", "stranger,a")
    with pytest.raises(data.DataError, match="names the columns name, plan; missing: user_id"):
        concepts.load_users("mine", dataset)


# DBpedia


class Reply:
    """A recorded answer of the query interface."""

    def __init__(self, facts):
        keys = ("asked", "kind", "concept")
        rows = [{key: {"value": v} for key, v in zip(keys, fact, strict=True)} for fact in facts]
        self.found = {"results": {"bindings": rows}}

    def raise_for_status(self):
        pass

    def json(self):
        return self.found


@pytest.fixture
def films_only(dataset):
    items = dataset.items.iloc[:20].assign(title=[f"Film {i} (1990)" for i in range(20)], year=1990)
    return data.Dataset(
        dataset.interactions, items, dataset.users, dataset.everyone, dataset.counts
    )


def test_dbpedia_is_asked_once_and_a_film_must_be_of_its_year(films_only, folder, monkeypatch):
    asked = []

    def answer(url, options, timeout):
        asked.append(options["query"])
        return Reply(
            [
                ("Film 1 (film)", "category", "1991 films"),
                ("Film 1 (film)", "studio", "Elm"),
                ("Film 2", "category", "1970 films"),
                ("Film 2", "studio", "Oak"),
            ]
            if '"Film 1"@en' in options["query"]
            else []
        )

    monkeypatch.setattr(requests, "get", answer)
    file = dbpedia.build("mine", films_only)
    table = pd.read_csv(file, dtype=str)
    assert table["concept"].tolist() == ["1991 films", "Elm"]
    assert set(table["item_id"]) == {films_only.items["item_id"].iloc[1]}
    assert len(asked) == 2  # of 20 films, in batches of 15
    dbpedia.build("mine", films_only)
    assert len(asked) == 2  # the answers were kept


def test_an_interrupted_build_goes_on_and_says_what_to_do(films_only, folder, monkeypatch):
    replies = [Reply([("Film 1", "category", "1990 films")])]

    def answer(url, options, timeout):
        if not replies:
            raise requests.ConnectionError("no route to host")
        return replies.pop()

    monkeypatch.setattr(requests, "get", answer)
    with pytest.raises(
        data.DataError, match="no route to host; what it has told so far is kept in"
    ):
        dbpedia.build("mine", films_only)
    assert not list(folder.parent.glob("data/concepts/*.csv"))
    replies.append(Reply([]))
    assert len(pd.read_csv(dbpedia.build("mine", films_only))) == 1
    (kept,) = [f for f in folder.parent.glob("data/concepts/answers/*") if "Film" in f.read_text()]
    assert json.loads(kept.read_text()) == [["Film 1", "category", "1990 films"]]


# Finding


def test_ranks_and_auc_are_those_of_scikit_learn_with_weights():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 4, (60, 40)).astype(float)
    matrix = (rng.random((60, 3)) < 0.3).astype(float)
    weights = rng.integers(0, 3, 60).astype(float)
    scores = found.auc(found.ranks(values, weights), matrix, weights)
    for i in range(40):  # more than are ranked at a time
        for j in range(3):
            known = roc_auc_score(matrix[:, j], values[:, i], sample_weight=weights)
            assert scores[i, j] == pytest.approx(known, abs=1e-12)


@pytest.fixture(scope="module")
def planted():
    """Codes of 200 users on 200 items: feature 0 fires on concept 0, others are noise."""
    rng = np.random.default_rng(0)
    n_items = 200
    matrix = np.zeros((n_items + 1, 3), np.float32)
    matrix[1:41, 0] = 1
    matrix[rng.permutation(np.arange(1, n_items + 1))[:40], 1] = 1
    matrix[1:3, 2] = 1  # too few to be scored
    codes, positions = {}, {}
    for group in ("dev", "test"):
        users = np.repeat(np.arange(100), 20)
        items = rng.integers(1, n_items + 1, len(users))
        x = rng.random((len(users), 6)) * (rng.random((len(users), 6)) < 0.3)
        x[:, 0] = matrix[items, 0] * (1 + rng.random(len(users)))
        codes[group] = sparse.csr_array(x)
        positions[group] = Positions(users, items, matrix[items])
    popularity = np.r_[0, rng.integers(1, 50, n_items)]
    return codes, positions, sparse.csr_array(matrix), popularity


def test_a_concept_with_a_feature_is_found_and_others_are_not(planted):
    codes, positions, matrix, popularity = planted
    noise = {group: x[:, 1:] for group, x in codes.items()}
    folds = films.film_splits(popularity)[:4]
    table, scores, drawn = found.find_concepts(
        {"sae": codes, "noise": noise}, positions, matrix, folds, popularity
    )
    assert scores["sae"][0] > 0.99 and scores["sae"][1] < 0.8
    assert np.isnan(scores["sae"][2])
    assert table.loc["sae", "above_90"] == 1 and table.loc["noise", "above_90"] == 0
    assert table.loc["sae", "concepts"] == 2 and table.loc["sae", "chance_90"] < 0.2
    assert drawn["sae.above_90"].shape == (500,)
    assert drawn["sae.above_90"].mean() == pytest.approx(1)
    assert table.loc["sae", "auc_low"] < table.loc["sae", "auc"] < table.loc["sae", "auc_high"]


def test_the_concept_of_a_feature_is_named_and_noise_has_none(planted):
    codes, positions, matrix, popularity = planted
    half = films.film_splits(popularity)[0]
    table = found.explained(codes, positions, matrix, ["a", "b", "c"], half, popularity)
    named = table.set_index("feature")["concept"]
    assert named[0] == "a" and (named.drop(0) == "").all()


def test_a_label_is_judged_against_alike_items_of_as_many_features(planted):
    codes, positions, matrix, popularity = planted
    half = films.film_splits(popularity)[0]
    few = {group: x[:, [0, 3]] for group, x in codes.items()}
    item = np.arange(len(popularity))
    strata, genres = item % 3, np.column_stack([item <= 100, item > 100]) * 1.0
    table, drawn = found.told_by_labels(
        {"sae": few, "all": codes}, positions, matrix, half, strata, genres
    )
    assert table["features"].tolist() == [2, 2], "as many of each"
    assert 0.7 < table.loc["sae", "accuracy"] < 0.8, "one knows its concept, the other guesses"
    assert drawn["sae.hard"].mean() == pytest.approx(table.loc["sae", "hard"], abs=0.02)


def test_pairs_are_of_one_stratum_and_ties_count_half():
    value, strata = np.array([3.0, 1, 2, 2, 9]), np.array([0, 0, 1, 1, 1])
    has, everybody = np.array([True, False, True, False, False]), np.ones(5, bool)
    assert found._ahead(value, has, strata, everybody) == pytest.approx((1 + 0.5 + 0) / 3)
    assert np.isnan(found._ahead(value, has, strata, has))


# What the sequence adds


def histories(n_users=60, length=30, n_items=40, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "user": np.repeat(np.arange(n_users), length),
            "item": rng.integers(1, n_items + 1, n_users * length),
            "position": np.tile(np.arange(length), n_users),
        }
    )


@pytest.fixture(scope="module")
def genres():
    return np.vstack([np.zeros(3), np.random.default_rng(5).random((40, 3)) < 0.4]).astype(
        np.float32
    )


def test_partial_correlations_are_those_of_residuals(genres):
    rng = np.random.default_rng(1)
    codes, given = rng.random((300, 4)), rng.random((300, 5))
    targets = (rng.random((300, 2)) < 0.5) + given[:, :2]
    scores = future.partial_correlations(sparse.csr_array(codes), targets, given)
    design = np.column_stack([np.ones(300), given])
    left = [x - design @ np.linalg.lstsq(design, x)[0] for x in (codes, targets)]
    known = np.corrcoef(np.hstack(left).T)[:4, 4:]
    assert scores == pytest.approx(known, abs=1e-10)
    assert np.isnan(future.partial_correlations(given, targets, given)).all()


def test_decayed_means_and_shares_are_those_of_a_plain_loop(genres):
    index, vectors = histories(4, 14), np.random.default_rng(2).random((41, 5))
    means, shares = future.decayed_mean(vectors, index), future.shares_of_last(genres, index)
    for row, (user, position) in enumerate(zip(index["user"], index["position"], strict=True)):
        items = index["item"].to_numpy()[index["user"] == user][: position + 1]
        weights = future.DECAY ** np.arange(position, -1, -1)
        expected = weights @ vectors[items] / weights.sum()
        assert means[row] == pytest.approx(expected, rel=1e-5)
        assert shares[row] == pytest.approx(genres[items[-10:]].mean(axis=0))


def test_exchanged_futures_are_of_another_user_at_the_same_place():
    index = histories(7, 9)
    rows = np.arange(len(index))
    own, theirs = future.exchanged(index, rows)
    pair = index.iloc[own].reset_index(drop=True), index.iloc[theirs].reset_index(drop=True)
    assert (pair[0]["user"] != pair[1]["user"]).all()
    assert (pair[0]["position"] == pair[1]["position"]).all() and len(own) == len(index)


@pytest.mark.parametrize("horizon, history", [(1, False), (5, False), (1, True)])
def test_a_feature_that_sees_the_future_is_found_and_one_of_the_present_is_not(
    genres, horizon, history
):
    index = {"dev": histories(seed=0), "test": histories(seed=1)}
    sees, present = {}, {}
    for group, table in index.items():
        rows, target = future.wanted(genres, table, horizon)
        x = np.zeros((len(table), 3))
        x[rows] = target
        sees[group], present[group] = x, genres[table["item"]].astype(float)
    table, scores, drawn = future.ahead(
        {"sees": sees, "present": present}, index, genres, horizon, history
    )
    assert (scores["sees"] > 0.99).all() and (scores["present"].abs() < 0.1).all()
    assert abs(table.loc["sees", "null"]) < 0.1
    assert table.loc["sees", "ahead_low"] > 0.99 and len(drawn["sees"]) == 500


def test_each_feature_takes_the_attribute_of_the_next_item_that_it_tells(genres):
    index, codes = {"dev": histories(seed=0), "test": histories(seed=1)}, {}
    for group, table in index.items():
        rows, target = future.wanted(genres, table, 1)
        codes[group] = np.zeros((len(table), 4))
        codes[group][rows, 0] = 1 - target[:, 1]
        codes[group][:, 1] = genres[table["item"]][:, 0]  # the present, and nothing else
        codes[group][:, 2] = codes[group][:, 1] + np.random.default_rng(2).random(len(table))
    attribute, told = future.of_next(codes, index, genres)
    assert attribute[0] == 1 and told[0] < -0.99 and abs(told[2]) < 0.1
    assert np.isnan(told[[1, 3]]).all()


def test_the_last_positions_have_no_future():
    index = histories(3, 6)
    rows, target = future.wanted(np.eye(41)[:, :2], index, 5)
    assert index["position"].iloc[rows].eq(0).all() and target.shape == (3, 2)


# Groups of users


def test_a_group_that_states_hold_is_told_and_noise_is_not():
    rng = np.random.default_rng(0)
    groups, states, noise = {}, {}, {}
    for name, n in (("dev", 300), ("test", 120)):
        has = rng.random(n) < 0.4
        groups[name] = pd.DataFrame({("gender", "F"): has, ("rare", "x"): np.arange(n) < 2})
        states[name] = rng.normal(size=(n, 4)) + 2 * has[:, None] * np.eye(4)[0]
        noise[name] = rng.normal(size=(n, 4))
    table, drawn = interpretability.tell_groups({"states": states, "noise": noise}, groups)
    auc = table.set_index("representation")["auc"]
    assert set(table["value"]) == {"F"}  # two users cannot be scored
    assert auc["states"] > 0.85 and abs(auc["noise"] - 0.5) < 0.15
    assert (table["low"] < table["auc"]).all() and drawn["states"].shape == (500,)


def test_without_groups_there_is_nothing_to_tell():
    empty = {"dev": pd.DataFrame(index=range(5)), "test": pd.DataFrame(index=range(5))}
    x = {group: np.zeros((5, 2)) for group in empty}
    table, drawn = interpretability.tell_groups({"states": x}, empty)
    assert table.empty and "auc" in table and drawn == {}


def test_means_of_users_and_the_features_that_tell_a_group_most():
    codes = sparse.csr_array([[1.0, 0], [3, 0], [0, 2]])
    means = interpretability.of_users(codes, np.array([4, 4, 9]))
    assert means.tolist() == [[2, 0], [0, 2]]
    values = np.column_stack([np.arange(8) % 2, np.arange(8) < 4, np.zeros(8)]).astype(float)
    assert interpretability.telling_features(values, np.arange(8) < 4, 1).tolist() == [1]


# Three examples


def test_examples_leave_the_rest_and_a_concept_must_have_one():
    matrix = np.zeros((12, 2), np.float32)
    matrix[1:8, 0] = matrix[3:11, 1] = 1
    tasks, examples, rest = control.draw_examples(matrix, 3, 2)
    assert tasks.tolist() == [0, 0, 1, 1]
    for task, items in enumerate(examples):
        assert len(set(items)) == 3 and matrix[items, tasks[task]].all()
        assert rest[items, task].sum() == 0
        assert rest[:, task].sum() == matrix[:, tasks[task]].sum() - 3
    with pytest.raises(ValueError, match="concept 1 has 3 items: 3 examples leave nothing"):
        matrix[6:, 1] = 0
        control.draw_examples(matrix, 3)


def test_what_all_examples_share_becomes_the_knob():
    mean = np.zeros((7, 3))
    mean[1:4, 0] = 1.0  # fires on all examples
    mean[1, 1] = 50.0  # on one of them
    decoder = np.eye(3)
    directions, features = control.by_examples(mean, np.array([[1, 2, 3], [4, 5, 6]]), decoder, 1)
    assert features[0].tolist() == [0] and directions[0].tolist() == [1, 0, 0]
    assert np.isnan(directions[1]).all()  # nothing fires on these


def test_the_nearest_items_are_those_of_the_examples_direction():
    vectors = np.array([[0, 0], [1, 0], [1, 0.1], [5, 0.2], [0, 1], [-1, 0]])
    near = control.nearest_items(vectors, np.array([[1, 2]]), 3)
    assert np.flatnonzero(near[:, 0]).tolist() == [1, 2, 3]


# Forgetting


@pytest.fixture
def grouped():
    rng = np.random.default_rng(0)
    has = rng.random(800) < 0.5
    states = rng.normal(size=(800, 6)).astype(np.float32)
    states[:, 0] += 3 * has
    states[:, 1] += states[:, 0]
    return states, has


@pytest.mark.parametrize("forget", [control.leace, control.project_out])
def test_no_linear_probe_reads_the_group_after_erasure(forget, grouped):
    states, has = grouped
    hidden = torch.from_numpy(states)[None]
    after = (hidden + forget(states, has)(hidden))[0].numpy()
    apart = [np.abs(x[has].mean(axis=0) - x[~has].mean(axis=0)).max() for x in (states, after)]
    assert apart[0] > 2 and apart[1] < 0.01
    assert activations.probe_auc(states, has[:, None], states, has[:, None])[0] > 0.95
    assert activations.probe_auc(after, has[:, None], after, has[:, None])[0] < 0.65


def test_a_suppressed_feature_is_silent_and_the_others_stay():
    torch.manual_seed(0)
    config = sae.Config(d_in=6, d_sae=12, variant="topk", k=3)
    states = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    dictionary = sae.untrained(config, states)
    code = dictionary.encode(torch.from_numpy(states))
    feature = int((code > 0).sum(dim=0).argmax())
    delta = control.suppress(dictionary, np.array([feature]))(torch.from_numpy(states))
    expected = -code[:, [feature]] @ dictionary.W_dec[[feature]]
    assert torch.allclose(delta, expected, atol=1e-5)
