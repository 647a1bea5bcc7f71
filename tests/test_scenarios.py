"""Scenarios: what a person may write, what it becomes, and what is logged of it."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from seqsae_utils import control, sae
from seqsae_utils.control import Edit, Scenario, scenarios
from seqsae_utils.recommender import CausalTransformer, Config, rank_items
from seqsae_utils.workspace import project

KNOBS = pd.DataFrame(
    [
        ("Horror", 3, 0.8), ("Horror", 5, 0.6), ("Children's", 7, 0.8), ("Children's", 5, -0.6),
        ("Animation", 7, 1.0), ("popular", 9, -1.0),
    ],
    columns=["attribute", "feature", "weight"],
)  # fmt: skip
FEATURES = pd.DataFrame({"feature": range(12), "density": [0.1] * 11 + [0.0]})
FAMILY = """
family evening:
  about: for children
  turn: {Children's: 2, Animation: 1.5}
  features: {0: -1}
  suppress: [Horror, 9]
"""


def test_a_scenario_becomes_one_edit_for_each_feature():
    family = scenarios.parse(FAMILY)["family evening"]
    family.check(KNOBS, FEATURES)
    found = {(edit.mode, edit.feature): edit.value for edit in family.edits(KNOBS)}
    low = scenarios.SUPPRESSED
    held = {3: 0.8 * low, 5: 0.6 * low, 9: low}
    added = {0: -1.0, 7: 2 * 0.8 + 1.5, 5: 2 * -0.6}
    expected = {("set", f): v for f, v in held.items()} | {("add", f): v for f, v in added.items()}
    assert found == pytest.approx(expected)
    assert len(family.edits(KNOBS)) == len(found)


def test_suppressing_twice_is_suppressing_once():
    once = Scenario(suppress=("Animation",)).edits(KNOBS)
    assert Scenario(suppress=("Animation", "Children's", 7, "Animation")).edits(KNOBS) == once
    assert once == [Edit(7, scenarios.SUPPRESSED, "set")]


def test_what_speaks_against_a_suppressed_attribute_stays():
    assert Scenario(suppress=("popular",)).edits(KNOBS) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {turns: {Horror: 1}}", "no key 'turns'; nearest: 'turn'"),
        ("a: {supress: [Horror]}", "no key 'supress'; nearest: 'suppress'"),
        ("a: {turn: {Horror: .inf}}", "'Horror': a knob cannot stand at inf"),
        ("a: {turn: {Horror: .nan}}", "'Horror': a knob cannot stand at nan"),
        ("a: {features: {3: -101}}", "3: a knob cannot stand at -101; strengths go from -100 to"),
        ("a: {turn: {Horror: true}}", "a strength is a number, not True"),
        ("a: {turn: {Horror: much}}", "a strength is a number, not 'much'"),
        ("a: {turn: {Horror: }}", "a strength is a number, not None"),
        ("a: {turn: [Horror]}", "turn is ['Horror'], expected attribute: strength"),
        ("a: {turn: {3: 1}}", "turn has 3, expected attribute: strength"),
        ("a: {features: {Horror: 1}}", "features has 'Horror', expected number of a feature"),
        ("a: {features: {true: 1}}", "features has True"),
        ("a: {suppress: Horror}", "suppress is 'Horror', expected a list"),
        ("a: {suppress: [1.5]}", "suppress has 1.5, expected a list of attributes or numbers"),
        ("a: {share: {Horror: 40}}", "'Horror': a share lies between 0 and 1 (40 % is 0.4)"),
        ("a: {share: {Horror: .nan}}", "'Horror': a share lies between 0 and 1"),
        ("a: {share: {Horror: true}}", "'Horror': a share lies between 0 and 1"),
        ("a: {share: {Horror: 0}, by: force}", "by 'force': choose from both, features, scores"),
        ("a: {by: scores}", "'a': it turns nothing"),
        ("a: {about: nothing else}", "'a': it turns nothing; it takes about, turn, features,"),
        ("a: {}", "'a': it turns nothing"),
        ("a: 3", "'a': it turns nothing"),
        ("2000: {turn: {Horror: 1}}", "2000: a name is text; put it in quotes"),
        ("", "expected names"),
        ("- a", "expected names"),
        ("a: {turn: {Horror: 1}\nb: 1", "line 2 is not YAML"),
        ("a: \x07", "not YAML"),
        ("a: {turn: {Horror: 1}}\na: {turn: {Horror: 2}}", "line 2 is not YAML: 'a' comes"),
        ("a:\n  turn:\n    Horror: 1\n    Horror: 2", "line 4 is not YAML: 'Horror' comes a"),
        ("a:\n  about: 2020-13-45", "line 2 is not YAML: '2020-13-45' cannot be read: month"),
        ("a: " + "[" * 3_000, "not YAML: brackets or lines are nested"),
        ("a: !!python/object/apply:os.getcwd []", "line 1 is not YAML"),
    ],
)  # fmt: skip
def test_bad_scenarios_are_refused_with_the_way_out(text, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        scenarios.parse(text, "mine.yaml")
    assert "mine.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"turn": {"Horor": 1}}, "attribute 'Horor' has no knob; nearest: 'Horror'"),
        ({"suppress": ("Animaton",)}, "attribute 'Animaton' has no knob; nearest: 'Animation'"),
        ({"features": {12: 1}}, "feature 12: the SAE has features 0 to 11"),
        ({"features": {-1: 1}}, "feature -1: the SAE has features 0 to 11"),
        ({"suppress": (99,)}, "feature 99: the SAE has features 0 to 11"),
        ({"features": {11: 1}}, "feature 11 is dead"),
        ({"suppress": (11,)}, "feature 11 is dead"),
        ({"share": {"Horor": 0.5}}, "attribute 'Horor' has no knob; nearest: 'Horror'"),
    ],
)
def test_what_a_profile_does_not_have_is_refused(given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Scenario(**given).check(KNOBS, FEATURES)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("{suppress: [Horror, 11]}", "feature 11 is dead: it never fires, so nobody knows what it"),
        ("{suppress: [12]}", "feature 12: the SAE has features 0 to 11"),
        ("{suppress: [Horor]}", "attribute 'Horor' has no knob; nearest: 'Horror'"),
        ("{share: {Horor: 0.5}}", "attribute 'Horor' has no knob; nearest: 'Horror'"),
        ("{suppress: [Horror, 9]}", ""),
    ],
)
def test_a_preset_is_turned_or_left_out_by_name(given, why):
    presets = scenarios.parse(f"{{first: {{turn: {{Horror: 1}}}}, mine: {given}}}")
    fit, unfit = scenarios.fitting(presets, KNOBS, FEATURES)
    assert fit == {name: presets[name] for name in ("first", "mine")[: 1 if why else 2]}
    assert [line.startswith(f"mine: {why}") for line in unfit] == [True] * bool(why)


def test_what_is_written_is_read_back():
    hostile = Scenario(
        "yes: {no}", "七人の侍 # 1", {"Children's": -2.5, "on": 1}, {3: 0.5}, ("x", 4)
    )
    shares = Scenario("half", share={"Horror": 0.5, "on": 0}, by="features")
    for scenario in (hostile, shares):
        assert scenarios.parse(scenarios.write(scenario)) == {scenario.name: scenario}


def test_a_file_that_cannot_be_added_to_stays_as_it_is(tmp_path):
    file = tmp_path / "mine.yaml"
    scenarios.append(file, Scenario("first", turn={"Horror": 1.0}))
    before = file.read_bytes()
    with pytest.raises(ValueError, match="mine.yaml has a scenario 'first': write another name"):
        scenarios.append(file, Scenario("first", turn={"Horror": 2.0}))
    assert file.read_bytes() == before
    file.write_text("first: {")
    with pytest.raises(ValueError, match="mine.yaml: line 1 is not YAML"):
        scenarios.append(file, Scenario("second", turn={"Horror": 2.0}))
    assert file.read_text() == "first: {"


@pytest.mark.parametrize("text", ["", "# mine\n\n  # to come\n"])
def test_a_file_of_comments_has_no_scenarios_and_takes_the_first(tmp_path, text):
    file, first = tmp_path / "mine.yaml", Scenario("first", turn={"Horror": 1.0})
    file.write_text(text)
    assert scenarios.read(file) == {}
    scenarios.append(file, first)
    assert scenarios.read(file) == {"first": first} and file.read_text().startswith(text.strip())


def test_the_committed_scenarios_can_be_read():
    found = scenarios.read(project() / "notebooks" / "scenarios.yaml")
    assert {"family evening", "hidden gems"} <= {*found}
    assert all(scenario.about for scenario in found.values())
    assert found == {
        name: Scenario(name, **given | {"suppress": tuple(given.get("suppress", ()))})
        for name, given in yaml.safe_load(
            (project() / "notebooks" / "scenarios.yaml").read_text()
        ).items()
    }


@pytest.fixture
def steered():
    """A model, its dictionary, and users, with random weights."""
    torch.manual_seed(0)
    model = CausalTransformer(Config(40, d_model=16, max_length=12)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    rng = np.random.default_rng(1)
    histories = [rng.permutation(40)[:6] + 1 for _ in range(5)]

    def ranking_of(delta):
        def scorer(histories):
            with control.steered(model, "blocks.0", delta or torch.zeros_like):
                return model.next_item_scores(histories)

        return rank_items(scorer, histories, np.arange(1, 6))

    return {
        "dictionary": sae.create(sae.Config(16, 12, "topk", k=4)),
        "ranking_of": ranking_of,
        "users": [4, 8, 15, 16, 23],
        "names": ["a", "b"],
        "attribute_matrix": (rng.random((41, 2)) < 0.5).astype(float),
    }


def test_the_effect_is_counted_list_by_list(steered):
    scenario = Scenario("up", turn={"Horror": 6.0})
    effect = scenarios.apply(scenario, KNOBS, **steered)
    edits = [Edit(3, 4.8), Edit(5, 3.6)]
    delta = control.sae_delta(steered["dictionary"], edits)
    rows, matrix = effect.itertuples(index=False), steered["attribute_matrix"]
    before, after = steered["ranking_of"](None).lists, steered["ranking_of"](delta).lists
    assert (before != after).any()
    for i, user in enumerate(steered["users"]):
        for column, name in enumerate(["a", "b"]):
            shares = [np.mean([matrix[x, column] for x in of[i]]) for of in (before, after)]
            assert tuple(next(rows)) == (user, name, *shares)


@pytest.mark.parametrize(
    "unfit, why",
    [
        (Scenario("half", share={"Horror": 0.5}), "it asks for shares"),
        (Scenario("far", features={12: 1.0}), "feature 12: the SAE has features 0 to 11"),
        (Scenario("farther", turn={"Horror": 6.0}, suppress=(99,)), "feature 99: the SAE has"),
    ],
)
def test_a_scenario_that_does_not_fit_is_left_out_by_name(steered, unfit, why):
    with pytest.warns(UserWarning, match=f"{unfit.name!r} is left out: {why}"):
        effect = scenarios.apply(unfit, KNOBS, **steered)
    fits = scenarios.apply(Scenario("up", turn={"Horror": 6.0}), KNOBS, **steered)
    assert effect.empty and list(effect) == list(fits)
    assert (effect["after"] - effect["before"]).groupby(effect["attribute"]).mean().empty


def test_a_file_of_scenarios_may_be_missing_and_must_be_text(tmp_path):
    file = tmp_path / "mine.yaml"
    assert scenarios.read(file) == {}
    file.write_bytes("später: {turn: {Horror: 1}}".encode("latin-1"))
    with pytest.raises(ValueError, match=r"mine.yaml is not UTF-8: .*; save it anew"):
        scenarios.read(file)


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe", b'{"users": [', b'{"a": 1'])
def test_a_damaged_line_of_a_log_is_named_and_the_others_stay(steered, tmp_path, damage):
    file, scenario = tmp_path / "log.jsonl", Scenario("up", turn={"Horror": 6.0})
    effect = scenarios.apply(scenario, KNOBS, **steered)
    for _ in range(2):
        scenarios.log(file, scenario, KNOBS, effect)
    first, second = file.read_bytes().splitlines(True)
    file.write_bytes(damage + b"\n" + second)
    with pytest.warns(UserWarning, match=r"log.jsonl: line 1 is damaged and left out"):
        scenarios.log(file, scenario, KNOBS, effect)
    assert file.read_bytes() == second + first


def test_the_log_tells_who_what_and_what_came_of_it(steered, tmp_path):
    file = tmp_path / "log.jsonl"
    scenario = Scenario("up \u2028 \n", turn={"Horror": 6.0}, suppress=("Animation",))
    effect = scenarios.apply(scenario, KNOBS, **steered)
    scenarios.log(file, scenario, KNOBS, effect)
    scenarios.log(file, scenario, KNOBS, effect[effect["user"] == 8])
    everybody, one = scenarios.read_log(file)
    assert (everybody["users"], one["users"]) == ([4, 8, 15, 16, 23], [8])
    assert one["scenario"]["name"] == scenario.name and one["scenario"]["turn"] == {"Horror": 6.0}
    assert [Edit(**edit) for edit in one["edits"]] == scenario.edits(KNOBS)
    mean = effect.groupby("attribute")["after"].mean()
    assert everybody["after"] == pytest.approx(mean.to_dict())
    scenarios.log(tmp_path / "again.jsonl", scenario, KNOBS, effect)
    assert (tmp_path / "again.jsonl").read_bytes() == file.read_bytes().splitlines(True)[0]


def test_a_log_is_complete_or_as_it_was(steered, tmp_path, monkeypatch):
    """A kill before the new file has its name leaves the old one."""
    file, scenario = tmp_path / "log.jsonl", Scenario("七", turn={"Horror": 6.0})
    effect = scenarios.apply(scenario, KNOBS, **steered)
    scenarios.log(file, scenario, KNOBS, effect)
    before = file.read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        scenarios.log(file, scenario, KNOBS, effect)
    assert file.read_bytes() == before
    monkeypatch.undo()
    scenarios.log(file, scenario, KNOBS, effect)
    first, second = scenarios.read_log(file)
    assert first == second
