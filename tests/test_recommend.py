"""A batch of histories: the lists are the desk's, the reasons are those of leaving items out."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from seqsae_utils import data, recommend, recommender, sae
from seqsae_utils.apps.desk.engine import Desk, State
from seqsae_utils.control import Scenario
from seqsae_utils.recommend import User


@pytest.fixture(scope="module")
def desk() -> Desk:
    """One of a model and a dictionary that nobody trained."""
    dataset = data.prepare(data.synthetic(n_users=60), min_attribute_items=1)
    torch.manual_seed(0)
    config = recommender.Config(dataset.n_items, d_model=16, n_layers=1, max_length=8)
    model = recommender.create(config).eval()
    torch.nn.init.normal_(model.item_embedding.weight)
    dictionary = sae.create(sae.Config(16, 24, k=4))
    features = pd.DataFrame({"feature": range(24), "label": "", "density": 0.5})
    features["label"] = features["feature"].map("of {}".format)
    rows = [(name, i, 1.0) for i, name in enumerate([*dataset.attributes[:5], data.POPULAR])]
    knobs = pd.DataFrame(rows, columns=["attribute", "feature", "weight"])
    return Desk("", dataset, model, "blocks.0", dictionary, features, knobs)


@pytest.fixture(scope="module")
def scenario(desk) -> Scenario:
    first, second = desk.attributes[:2]
    return Scenario("x", turn={first: 4.0, "popular": -2.0}, suppress=(second,))


def served(desk, users, *arguments, **options):
    lists, effects = zip(*recommend.recommend(desk, users, *arguments, **options), strict=True)
    return pd.concat(lists, ignore_index=True), pd.concat(effects, ignore_index=True)


@pytest.fixture(scope="module")
def some(desk) -> list[User]:
    return [User(str(user), items[:-1], int(items[-1])) for user, items in desk.sequences.items()]


def test_lists_places_and_features_are_those_of_the_desk(desk, scenario, some):
    lists, _ = served(desk, some, scenario)
    for user in some:
        desk._go(State(tuple(user.history.tolist())))
        desk.play(scenario)
        ours, theirs = lists[lists["user_id"] == user.user_id], desk.lists()
        assert ours["title"].tolist() == theirs["title_after"].tolist()
        assert ours["place_before"].tolist() == theirs["rank_before"].tolist()
        reasons = desk.reasons()
        for item, text in zip(theirs["item_after"], ours["features"], strict=True):
            own = reasons[reasons["item"] == item]
            assert text and text == "; ".join(own["name"] + " (" + own["feature"].astype(str) + ")")


@pytest.mark.parametrize("how", ["features", "scores"])
def test_because_is_the_item_without_which_most_is_lost(desk, scenario, some, how):
    lists, _ = served(desk, some[:2], scenario, how)
    for user in some[:2]:
        rows = lists[lists["user_id"] == user.user_id]
        recent = user.history[-desk.model.max_length :]

        def log_scores(history):
            if how == "scores":
                scores = desk.model.next_item_scores([history])
                scores = scores + torch.from_numpy(recommend.raised(desk, scenario)).float()
            else:
                delta = recommend.sae_delta(desk.dictionary, scenario.edits(desk.knobs))
                scores = recommend.steered_scorer(desk.model, desk.site, delta)([history])
            return scores.log_softmax(dim=1)[0]

        full = log_scores(recent)
        lost = torch.stack([full - log_scores(np.delete(recent, j)) for j in range(len(recent))])
        numbers = dict(zip(desk.dataset.items["item_id"], desk.dataset.items["item"], strict=True))
        items = [numbers[one] for one in rows["item_id"]]
        np.testing.assert_allclose(rows["lost"], lost[:, items].amax(dim=0), atol=1e-4)
        brought = recent[lost[:, items].argmax(dim=0).numpy()]
        assert rows["because"].tolist() == [desk.dataset.unique_titles[i] for i in brought]


def test_both_ways_are_priced_side_by_side(desk, scenario, some):
    _, effects = served(desk, [*some, User("new", some[0].history)], scenario, why=False)
    assert effects.groupby("way").size().to_dict() == dict.fromkeys(
        ["untouched", "features", "scores"], len(some) + 1
    )
    assert effects["ndcg"].isna().sum() == 3  # the new one has no target
    histories, targets = [u.history for u in some], np.array([u.target for u in some])
    ranking = recommender.rank_items(desk.model.next_item_scores, histories, targets)
    own = effects.loc[effects["way"] == "untouched", "ndcg"].dropna()
    np.testing.assert_allclose(own, recommend.metrics.ndcg(ranking.rank))
    first, second = desk.attributes[:2]
    means = effects.groupby("way")[[first, second]].mean()
    assert means.loc["scores", first] > means.loc["untouched", first]
    assert means.loc["scores", second] == 0


def test_a_title_of_two_items_is_not_taken_for_one(desk):
    titles = ["Emma (1996)"] * 2 + desk.dataset.items["title"][2:].tolist()
    parts = desk.model, desk.site, desk.dictionary, desk.features, desk.knobs
    twins = Desk("", replace(desk.dataset, items=desk.dataset.items.assign(title=titles)), *parts)
    first, second = desk.dataset.items["item_id"][:2]
    with pytest.raises(
        ValueError, match=rf"may be 'Emma .1996. \[{first}\]', 'Emma .1996. \[{second}"
    ):
        twins.find("Emma (1996)")
    assert twins.find(f"Emma (1996) [{second}]") == 2
    twins.compose(f"Emma (1996) [{first}]")
    assert twins.state.history == (1,)


def test_features_cannot_be_raised_as_scores(desk, some):
    with pytest.raises(ValueError, match=r"features \[3, 5\] have no scores to raise"):
        served(desk, some, Scenario(features={3: 1.0}, suppress=(5,)), "scores")
    _, effects = served(desk, some, Scenario(features={3: 1.0}))
    assert set(effects["way"]) == {"untouched", "features"}
    with pytest.raises(ValueError, match="how='both' is unknown"):
        served(desk, some, Scenario(features={3: 1.0}), "both")


def test_memory_is_that_of_a_block(desk, scenario, some):
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield some[len(taken) % len(some)]

    blocks = recommend.recommend(desk, endless(), scenario, why=False)
    lists, _ = next(blocks)
    assert len(taken) == recommend.USERS_AT_A_TIME == lists["place"].eq(1).sum()


FILES = {
    "users.csv": (
        'user_id,history,target\nu,{0}|{1},{2}\n,{0},\nv,nowhere|lost,\n"w",{0}| {1}|lost,\n'
        "x,{0},nowhere\ny,{0},,more\n{0}\nz,{2},\n"
    ),
    "users.jsonl": "\n".join(
        [
            '{{"user_id": "u", "history": ["{0}", "{1}"], "target": "{2}"}}',
            '{{"history": ["{0}"]}}',
            '{{"user_id": "v", "history": ["nowhere"]}}',
            '{{"user_id": "w", "history": ["{0}", "{1}", "lost"]}}',
            '{{"user_id": "x", "history": ["{0}"], "target": "nowhere"}}',
            "no JSON",
            "[1, 2]",
            '{{"user_id": "z", "history": ["{2}"]}}',
        ]
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_bad_rows_are_said_by_line_and_the_rest_is_served(tmp_path, desk, name):
    ids = desk.dataset.items["item_id"].tolist()
    (tmp_path / name).write_text(FILES[name].format(*ids))
    number, said = {one: i for i, one in enumerate(ids, start=1)}, []
    found = list(recommend.users(recommend.rows(tmp_path / name), number, said.append))
    assert [user.user_id for user in found] == ["u", "w", "z"]
    assert [user.history.tolist() for user in found] == [[1, 2], [1, 2], [3]]
    assert [user.target for user in found] == [3, 0, 0]
    first = 2 if name.endswith("csv") else 1
    lines = [int(text.split()[1].rstrip(":")) for text in said]
    assert lines == [first + i for i in (1, 2, 3, 4, 5, 6)]
    assert "nowhere" in said[1] and "1 items are not known" in said[2]


@pytest.mark.parametrize("end", recommend.FORMATS)
def test_the_command_reads_and_writes_each_format(tmp_path, monkeypatch, capsys, desk, some, end):
    monkeypatch.setattr(Desk, "of", lambda profile: desk)
    ids = np.append("", desk.dataset.items["item_id"])
    table = pd.DataFrame({"user_id": [user.user_id for user in some]})
    table["history"] = [[*ids[user.history]] for user in some]
    table["target"] = ids[[user.target for user in some]]
    file, out = tmp_path / f"users{end}", tmp_path / f"lists{end}"
    if end == ".parquet":
        table.to_parquet(file)
    elif end == ".jsonl":
        table.to_json(file, orient="records", lines=True)
    else:
        table.assign(history=table["history"].map("|".join)).to_csv(file, index=False)
    scenarios = tmp_path / "scenarios.yaml"
    scenarios.write_text(f"mine: {{turn: {{{desk.attributes[0]}: 3}}}}\n")
    arguments = ["--histories", str(file), "--scenarios", str(scenarios), "--out", str(out)]
    monkeypatch.setattr(recommend, "USERS_AT_A_TIME", 4)
    assert recommend.main([*arguments, "--scenario", "mine"]) == 0
    shown = capsys.readouterr().out
    assert f"{len(some)} lists, by features" in shown and "ndcg" in shown and "scores" in shown
    read = {".csv": pd.read_csv, ".parquet": pd.read_parquet}.get(
        end, lambda path: pd.DataFrame(map(json.loads, path.read_text().splitlines()))
    )
    lists = read(out)
    expected, _ = served(desk, some, Scenario(turn={desk.attributes[0]: 3.0}))
    assert lists["title"].tolist() == expected["title"].tolist()
    np.testing.assert_allclose(lists["lost"], expected["lost"], rtol=1e-2, atol=1e-4)
    assert recommend.main([*arguments, "--scenario", "mien"]) == 1
    assert "no scenario 'mien'; nearest: 'mine'" in capsys.readouterr().err
    assert recommend.main(["--scenario", "mine", *arguments[:-1], "lists.txt"]) == 1
    assert "expected a name that ends in .csv" in capsys.readouterr().err


def found_in(file, desk):
    number = {one: i for i, one in enumerate(desk.dataset.items["item_id"], start=1)}
    said = []
    return list(recommend.users(recommend.rows(file), number, said.append)), said


def test_whole_numbers_stay_ids_where_others_are_missing(tmp_path):
    """pandas makes 12.0 and NaN of them."""
    number = {str(n): n for n in (1, 2, 3)}
    table = pd.DataFrame({"user_id": [7, 8], "history": [[1.0, 2.0], [3.0]], "target": [3, None]})
    for end in (".parquet", ".jsonl"):
        file, said = tmp_path / f"users{end}", []
        if end == ".parquet":
            table.to_parquet(file)
        else:
            table.to_json(file, orient="records", lines=True)
        found = list(recommend.users(recommend.rows(file), number, said.append))
        assert [(u.user_id, u.history.tolist(), u.target) for u in found] == [
            ("7", [1, 2], 3), ("8", [3], 0),
        ]  # fmt: skip
        assert said == []


def test_a_history_of_another_kind_or_encoding_is_said_and_the_rest_is_served(tmp_path, desk):
    one = desk.dataset.items["item_id"][0]
    odd = [10**6, None, {"a": 1}, True, [None], [[one]], [{"b": 2}], ""]
    lines = [json.dumps({"user_id": f"u{i}", "history": h}) for i, h in enumerate(odd)]
    lines += ["", json.dumps({"user_id": "v", "history": [one]})]
    file = tmp_path / "users.jsonl"
    file.write_text("\n".join(lines))
    found, said = found_in(file, desk)
    assert [user.user_id for user in found] == ["v"] and len(said) == len(odd)
    file = tmp_path / "users.csv"
    text = f"user_id,history\nRené,{one}\nMia,Zoë\nv,{one}\n"
    file.write_bytes(text.encode("latin-1"))
    found, said = found_in(file, desk)
    assert [user.user_id for user in found] == ["v"]
    assert said[0] == "line 2 is left out: its user_id is not UTF-8" and "line 3" in said[1]


@pytest.mark.parametrize("end", [".csv", ".parquet"])
def test_a_file_without_the_columns_is_refused_once(tmp_path, desk, end):
    file = tmp_path / f"users{end}"
    table = pd.DataFrame({"user": ["a"] * 9, "history": ["b"] * 9})
    table.to_csv(file, index=False) if end == ".csv" else table.to_parquet(file)
    with pytest.raises(ValueError, match="has the columns user, history; missing: user_id"):
        found_in(file, desk)


def test_an_output_that_would_be_empty_or_the_input_is_not_written(
    tmp_path, monkeypatch, capsys, desk
):
    monkeypatch.setattr(Desk, "of", lambda profile: desk)
    monkeypatch.chdir(tmp_path)
    text = "user_id,history\nu,nowhere\n"
    (tmp_path / "users.csv").write_text(text)
    (tmp_path / "mine.yaml").write_text(f"mine: {{turn: {{{desk.attributes[0]}: 3}}}}\n")
    arguments = ["--histories", "users.csv", "--scenarios", "mine.yaml", "--scenario", "mine"]
    assert recommend.main([*arguments, "--out", "lists.csv"]) == 1
    assert "users.csv: nobody could be served" in capsys.readouterr().err
    assert recommend.main([*arguments, "--out", "./users.csv"]) == 1
    assert "users.csv holds the histories" in capsys.readouterr().err
    assert {p.name for p in tmp_path.iterdir()} == {"users.csv", "mine.yaml"}
    assert (tmp_path / "users.csv").read_text() == text


def test_a_scenario_that_asks_for_shares_is_refused(desk, some):
    scenario = Scenario("half", share={desk.attributes[0]: 0.5})
    with pytest.raises(ValueError, match="'half' asks for shares, .* what to turn"):
        served(desk, some, scenario)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_histories_are_read_as_programs_write_them(tmp_path, encoding):
    file = tmp_path / "users.csv"
    file.write_bytes("user_id,history\r\nä,a b\r\n".encode(encoding))
    assert list(recommend.rows(file)) == [(2, {"user_id": "ä", "history": "a b"})]


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more"])
def test_a_damaged_parquet_file_of_histories_is_named(tmp_path, content):
    file = tmp_path / "users.parquet"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="users.parquet is no whole parquet file: "):
        list(recommend.rows(file))
