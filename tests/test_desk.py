"""The steering desk: its tables by another way, what it refuses, and all of it in a browser."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote_plus, urlencode

import httpx
import numpy as np
import pandas as pd
import pytest
import torch
from playwright.sync_api import expect

from seqsae_utils import control, recommender, run
from seqsae_utils.apps import desk, study
from seqsae_utils.apps.atlas import build
from seqsae_utils.apps.desk import pages, widgets
from seqsae_utils.control import Scenario, scenarios
from seqsae_utils.run.demo import prepare
from seqsae_utils.workspace import Workspace

PROJECT = Path(__file__).parents[1]
HOSTILE = "</div><img src=x onerror='window.hacked = 1'>七人 & \"<b>\""


@pytest.fixture(scope="module")
def root(smoke, tmp_path_factory) -> Path:
    """A workspace with the artifacts of the profile smoke."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copytree(smoke.artifacts, folder / "artifacts" / "smoke")
    return folder


@pytest.fixture
def engine(root, monkeypatch) -> desk.Desk:
    monkeypatch.setenv("SEQSAE_WORKSPACE", str(root))
    return desk.Desk.of("smoke")


@pytest.fixture
def attribute(engine) -> str:
    """One that has a knob, and that the first user's list does not hold all of."""
    shares = engine.shares().set_index("attribute")["before"]
    return next(a for a in engine.attributes if shares[a] < 0.5)


def snapshot(engine) -> tuple:
    return engine.state, [*engine.past], engine.lists().to_csv(), engine.shares().to_csv()


# The engine


def test_both_lists_are_those_of_the_evaluation(engine, attribute):
    engine.turn(attribute, 3.0)
    other = next(a for a in engine.attributes if a != attribute)
    engine.play(replace(engine.state.scenario, suppress=(other,)))
    edits = engine.state.scenario.edits(engine.knobs)
    assert {edit.mode for edit in edits} == {"add", "set"}
    delta = control.sae_delta(engine.dictionary, edits)
    history = engine.sequences[engine.state.user]
    assert np.array_equal(history, engine.dataset.sequences("test")[engine.state.user])
    table = engine.lists()
    for when, edit in {"before": None, "after": delta}.items():
        with control.steered(engine.model, engine.site, edit or torch.zeros_like):
            scores = engine.model.next_item_scores([history])
        ranking = recommender.rank_items(lambda _, scores=scores: scores, [history], np.zeros(1))
        assert table[f"item_{when}"].tolist() == ranking.lists[0].tolist()
        titles = [engine.dataset.titles[item] for item in ranking.lists[0]]
        assert table[f"title_{when}"].tolist() == titles
    assert table["item_before"].tolist() != table["item_after"].tolist()


def test_moves_are_counted_among_the_unseen(engine, attribute):
    engine.turn(attribute, 3.0)
    table, seen = engine.lists(), {0, *engine.state.history}
    for item, rank in table[["item_after", "rank_before"]].astype(int).to_numpy():
        scores = engine.before.scores
        better = [i for i, score in enumerate(scores) if score > scores[item] and i not in seen]
        assert rank == len(better) + 1
    for item, rank in table[["item_before", "rank_after"]].astype(int).to_numpy():
        scores = engine.after.scores
        better = [i for i, score in enumerate(scores) if score > scores[item] and i not in seen]
        assert rank == len(better) + 1
    change = engine.after.scores - np.where(np.isinf(engine.before.scores), 0, engine.before.scores)
    np.testing.assert_allclose(table["logit_change"], change[table["item_after"]])


def test_what_sets_an_item_apart_is_value_times_direction_times_head(engine, attribute):
    engine.turn(attribute, 3.0)
    seen = []
    edits = engine.state.scenario.edits(engine.knobs)
    history = [np.array(engine.state.history)]
    with control.steered(engine.model, engine.site, lambda h: seen.append(h) or 0 * h):
        engine.model.next_item_scores(history)
    with torch.no_grad():
        code = engine.dictionary.encode(seen[0])[0, -1]
        plain = code.clone()
        for edit in edits:
            code[edit.feature] += engine.dictionary.std * edit.value
        listed = engine.after.items
        head = engine.model.head - engine.model.head[listed].mean(dim=0)
        found = engine.reasons()
        for item, of_item in found.groupby("item"):
            carried = {f: float(v * engine.dictionary.W_dec[f] @ head[item])
                       for f, v in enumerate(code)}  # fmt: skip
            best = sorted(carried, key=carried.get, reverse=True)[: 2 * len(of_item)]
            assert [f for f in best if f in {*of_item["feature"]}] == of_item["feature"].tolist()
            assert of_item["feature"].iloc[0] == best[0]
            assert of_item["carries"].tolist() == pytest.approx(
                [carried[f] for f in of_item["feature"]], rel=1e-3, abs=1e-5
            )
            for row in of_item.itertuples():
                part = (code - plain)[row.feature] * engine.dictionary.W_dec[row.feature]
                assert row.turned == pytest.approx(float(part @ head[item]), rel=1e-3, abs=1e-5)
    assert set(found["item"]) == set(engine.after.items)
    assert (found["turned"] != 0).any()


def test_the_push_of_the_edits_tells_which_logits_move(engine, attribute):
    """The direct reading is an approximation; it must be a good one."""
    engine.turn(attribute, 2.0)
    directions = (engine.after.code - engine.before.code) @ engine.dictionary.W_dec
    push = (directions @ engine.model.head.T).detach()
    change = engine.after.scores[1:] - engine.before.scores[1:]
    assert np.corrcoef(push[1:], change)[0, 1] > 0.8


def test_shares_by_counting_titles(engine, attribute):
    engine.turn(attribute, 3.0)
    table, shares = engine.lists(), engine.shares().set_index("attribute")
    for name in engine.dataset.attributes:
        for when in ("before", "after"):
            has = [name in attributes.split("|") for attributes in table[f"attributes_{when}"]]
            assert shares.loc[name, when] == pytest.approx(np.mean(has))
    assert shares.loc[attribute, "after"] > shares.loc[attribute, "before"]
    taken = engine.dataset.items.set_index("item")["popularity"]
    popular = taken.index[taken >= taken.quantile(0.9)]
    assert shares.loc["popular", "after"] == pytest.approx(table["item_after"].isin(popular).mean())


def test_a_reason_is_never_a_bare_number_nor_an_attribute_that_the_item_lacks(engine):
    for user in [*engine.sequences][:20]:
        engine.choose(user)
        for row in engine.reasons().itertuples():
            assert not re.fullmatch(r"#?\d+|unnamed|", row.name)
            has = engine.dataset.items.set_index("item").loc[row.item, "attributes"].split("|")
            assert {*row.name.split(" + ")} & {*engine.dataset.attributes} <= {*has}


def test_because_names_what_the_item_would_miss(engine):
    """By leaving the two named out, and two others, one user at a time."""
    named, others = [], []
    for user in [*engine.sequences][:15]:
        engine.choose(user)
        history = np.array(engine.state.history)
        for item, items in engine.because().items():
            assert len(items) <= 2 and {*items} <= {*history[-desk.engine.N_LEFT_OUT :]}
            rest = [i for i in history[-desk.engine.N_LEFT_OUT :] if i not in items][: len(items)]
            for without, falls in ((items, named), (rest, others)):
                kept = [history, history[~np.isin(history, without)]]
                full, less = (engine.model.next_item_scores([h])[0, 1:] for h in kept)
                falls.append(float(full[item - 1] - full.mean() - less[item - 1] + less.mean()))
    assert np.mean(named) > np.mean(others) + 0.1


@pytest.mark.parametrize("by", ["both", "scores"])
def test_the_dial_reaches_each_share_and_keeps_all_that_it_can(engine, by):
    reached = 0
    for user in [*engine.sequences][:15]:
        engine.choose(user)
        engine.play(Scenario())
        before = engine.shares().set_index("attribute")["before"]
        attribute = next(a for a in engine.attributes if 0 < before[a] < 0.5)
        state = engine.state
        engine.dial(attribute, 0.5, by)
        assert engine.shares().set_index("attribute").loc[attribute, "after"] == pytest.approx(0.5)
        kept = {*engine.before.items} & {*engine.after.items}
        assert len(kept) == 10 - round(10 * (0.5 - before[attribute]))
        ((strength, raised),) = engine.after.dialled.values()
        assert raised >= 0 and (strength == 0 if by == "scores" else strength >= 0)
        reached += strength > 0
        engine.undo()
        assert engine.state == state
    assert (reached > 0) == (by == "both")  # features do their part where that is cheap


def test_shares_add_up_until_they_are_taken_back_and_go_with_the_user(engine):
    first, second = engine.attributes[:2]
    engine.dial(first, 0.3)
    engine.dial(second, 0.0)
    for user in [*engine.sequences][:8]:
        engine.choose(user)
        after = engine.shares().set_index("attribute")["after"]
        assert engine.missed() == [] and (after[first], after[second]) == (0.3, 0.0)
    engine.dial(second, None)
    assert engine.state.scenario.share == {first: 0.3}


def test_off_empties_the_list(engine):
    for user in [*engine.sequences][:10]:
        engine.choose(user)
        before = engine.shares().set_index("attribute")["before"]
        for attribute in [a for a in engine.attributes if before[a] > 0]:
            engine.play(Scenario())
            engine.dial(attribute, 0.0)
            assert engine.shares().set_index("attribute").loc[attribute, "after"] == 0


def test_a_dial_that_misses_says_what_it_can_and_puts_the_old_knobs_back(engine, attribute):
    engine.turn("Ocean", 1.0)
    lacks = [
        i
        for i, has in enumerate(engine.matrix[:, engine.counted.index(attribute)])
        if i and not has
    ]
    engine.take(i for i in range(1, engine.dataset.n_items + 1) if i not in lacks[:20])
    before = snapshot(engine)
    with pytest.raises(ValueError, match=f"nearest list has {attribute} at 0%, not 50%, and keeps"):
        engine.dial(attribute, 0.5)
    assert snapshot(engine) == before


def test_features_alone_say_so_where_scores_would_reach_the_share(engine, attribute, monkeypatch):
    monkeypatch.setattr(desk.engine, "MAX_STRENGTH", 1e-6)
    target = engine.shares().set_index("attribute").loc[attribute, "before"] + 0.2
    with pytest.raises(ValueError, match="features alone do not get there; both do, and keep 8"):
        engine.dial(attribute, target, "features")


def test_undo_goes_back_through_all_that_was_done(engine, attribute):
    other = next(user for user in engine.sequences if user != engine.state.user)
    steps = [
        lambda: engine.turn(attribute, 2.0),
        lambda: engine.choose(other),
        lambda: engine.dial(attribute, 0.0),
        lambda: engine.compose("\n".join(engine.dataset.titles[3:6])),
        lambda: engine.play(Scenario("quiet", features={engine.alive[0]: -1.0})),
    ]
    seen = [snapshot(engine)]
    for step in steps:
        step()
        seen.append(snapshot(engine))
    assert len({text for *_, text in seen}) > 2 and len({str(s) for s, *_ in seen}) == 6
    for expected in seen[-2::-1]:
        engine.undo()
        assert (engine.state, *snapshot(engine)[2:]) == (expected[0], *expected[2:])
    for expected in seen[1:]:
        engine.redo()
        assert snapshot(engine) == expected
    with pytest.raises(ValueError, match="nothing to redo"):
        engine.redo()
    for _ in steps:
        engine.undo()
    engine.turn(attribute, 1.0)
    with pytest.raises(ValueError, match="nothing to redo"):
        engine.redo()
    engine.undo()
    with pytest.raises(ValueError, match="nothing to undo"):
        engine.undo()


def test_the_moves_of_one_knob_are_one_change_unless_the_hand_rested(
    engine, attribute, monkeypatch
):
    other, now = next(a for a in engine.attributes if a != attribute), iter(range(0, 999, 5))
    monkeypatch.setattr(desk.engine.time, "monotonic", lambda: next(now))
    engine.turn(attribute, -1.0)
    engine.turn(attribute, -2.0)
    engine.undo()
    assert engine.state.scenario.turn == {attribute: -1.0}
    engine.undo()
    monkeypatch.setattr(desk.engine.time, "monotonic", lambda: 0.0)
    for strength in (0.5, 1.0, 1.5):
        engine.turn(attribute, strength)
    engine.turn(other, 1.0)
    engine.undo()
    assert engine.state.scenario.turn == {attribute: 1.5}
    engine.undo()
    assert engine.state.scenario.turn == {}


def test_a_history_is_composed_from_titles_as_people_write_them(engine):
    titles = engine.dataset.titles
    first, second = titles[1], titles[30]
    undated = re.sub(r" \(\d{4}\)", "", second).lower()
    engine.compose(f"  {first}\n\n{undated}\n{first}\n")
    assert engine.state == replace(engine.state, history=(1, 30), user=None)
    assert not {1, 30} & {*engine.lists()["item_before"]}


def test_a_title_that_lacks_its_year_must_be_the_only_one(engine):
    engine.dataset.titles[:] = [
        "",
        "Heat (1986)",
        "Heat (1995)",
        "Body Heat",
        "The Sea, in Spring",
        "?",
    ]
    engine.dataset.unique_titles[:] = engine.dataset.titles
    engine._words = [desk.engine._words(title) for title in engine.dataset.titles]
    found = {"heat 1995": 2, "body heat": 3, "spring": 4, "in spring the sea": 4, "?": 5}
    assert {text: engine.find(text) for text in found} == found
    message = "'heat' may be .*; nothing here is called 'Heaven'; nearest: .*'Body Heat'"
    with pytest.raises(ValueError, match=message):  # all of them, not the first
        engine.compose("heat\nspring\nHeaven")
    assert engine.dataset.titles[engine._near("boddy heet")[0]] == "Body Heat"
    for text, message in {
        "heat": "'heat' may be 'Heat (1986)', 'Heat (1995)': spell one of them out",
        "Heaven": "nothing here is called 'Heaven'; nearest: ",
        "!": "'!' is no title",
    }.items():
        with pytest.raises(ValueError, match=re.escape(message)):
            engine.find(text)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda d: d.choose(10**6), "user 1000000 is no test user"),
        (lambda d: d.compose(" \n "), "no titles: write one a line"),
        (lambda d: d.compose("A Night of Nothing Known"), "nothing here is called"),
        (lambda d: d.turn("Dessert", 1.0), "attribute 'Dessert' has no knob; nearest: 'Desert'"),
        (lambda d: d.turn("Desert", np.inf), "'Desert': a knob cannot stand at inf"),
        (lambda d: d.turn("Desert", np.nan), "'Desert': a knob cannot stand at nan"),
        (lambda d: d.turn("Desert", "much"), "a strength is a number, not 'much'"),
        (lambda d: d.turn(10**6, 1.0), "feature 1000000: the SAE has features 0 to"),
        (lambda d: d.turn(d.feature("-3"), 1.0), "feature -3: the SAE has features 0 to"),
        (lambda d: d.feature("Desserts"), "no feature 'Desserts'; nearest: 'Desert'"),
        (lambda d: d.dial("Dessert", 0.5), "attribute 'Dessert' has no knob; nearest"),
        (lambda d: d.dial("Desert", 1.5), "a share lies between 0 and 1 (40 % is 0.4), not 1.5"),
        (lambda d: d.dial("Desert", 0.5, "force"), "by 'force': choose from both, features"),
        (lambda d: d.take([]), "a history has items from 1 to"),
        (lambda d: d.visit("history=1,99999"), "a history has items from 1 to"),
        (lambda d: d.visit("user=x"), "is no test user; there are"),
        (lambda d: d.play(Scenario(turn={"Dessert": 1})), "attribute 'Dessert' has no knob"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_changes_nothing(engine, action, message):
    engine.turn("Ocean", 1.0)
    before = snapshot(engine)
    with pytest.raises(ValueError, match=re.escape(message)):
        action(engine)
    assert snapshot(engine) == before


def test_a_dead_feature_is_refused(engine):
    dead = engine.features["feature"][engine.features["density"] == 0]
    assert len(dead) and not {*dead} & {*engine.alive}
    with pytest.raises(ValueError, match="is dead: it never fires"):
        engine.turn(int(dead.iloc[0]), 1.0)


def test_who_has_seen_nearly_all_gets_a_short_list(engine):
    engine.compose("\n".join(engine.dataset.titles[5:]))
    items = engine.lists()["item_before"].tolist()
    assert {*items[:4]} == {1, 2, 3, 4} and items[4:] == [0] * 6
    assert {*engine.reasons()["item"]} == {1, 2, 3, 4}
    shares = engine.shares().set_index("attribute")["before"]
    held = engine.dataset.attribute_matrix[1:5].sum(axis=0) / 10  # as the evaluation counts
    assert shares[engine.dataset.attributes].tolist() == pytest.approx(held.tolist())
    page = pages.lists(engine.lists(), engine.reasons(), {}, set())
    assert page.count("<tr>") == 11 and "nan" not in page


# What is shown


def test_titles_labels_and_messages_are_text(engine, attribute):
    engine.turn(attribute, 3.0)
    table, reasons, shares = engine.lists(), engine.reasons(), engine.shares()
    table["title_before"] = table["title_after"] = table["attributes_after"] = HOSTILE
    reasons["name"], shares["attribute"] = HOSTILE, HOSTILE
    because = {item: [HOSTILE, HOSTILE] for item in table["item_after"]}
    shown = pages.lists(table, reasons, because, {HOSTILE}, "atlas.html")
    shown += pages.shares(shares, {HOSTILE}) + pages.note(HOSTILE)
    shown += pages.summary(table, shares.iloc[:1], {HOSTILE: (1.0, 1.0)})
    shown += pages.error(HOSTILE) + pages.title(HOSTILE)
    shown += pages.heading(HOSTILE, HOSTILE)
    assert "<img" not in shown and shown.count("&lt;img") > 40


def test_a_missing_stage_is_a_message_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQSAE_WORKSPACE", str(tmp_path))
    monkeypatch.setenv("SEQSAE_PROFILE", "smoke")
    assert "run `make paper PROFILE=smoke`, or notebook 01_data" in desk.open().value


def test_knobs_of_an_older_run_are_asked_for(root, tmp_path, monkeypatch):
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    (tmp_path / "artifacts/smoke/control/knobs.parquet").unlink()
    monkeypatch.setenv("SEQSAE_WORKSPACE", str(tmp_path))
    message = desk.open("smoke").value
    assert "knobs.parquet is missing" in message and "make paper PROFILE=smoke" in message


def test_a_refused_scenario_stays_to_be_mended(engine):
    page = widgets.Page(engine)
    page.text.value = "a: {turns: {Desert: 1}}"
    page._attempt("scenario", page._apply)
    assert "nearest: &#x27;turn&#x27;" in page.says["scenario"].value
    assert page.text.value == "a: {turns: {Desert: 1}}" and not engine.past
    page.text.value = "a: {turn: {Desert: 1}}"
    page._attempt("scenario", page._apply)
    assert page.says["scenario"].value == "" and page.knobs["Desert"].value == 1
    assert scenarios.parse(page.text.value) == {"a": Scenario("a", turn={"Desert": 1})}


def test_a_saved_scenario_is_a_preset_at_once(engine, tmp_path, monkeypatch):
    file = tmp_path / "scenarios.yaml"
    file.write_text("# kept\nold: {turn: {Desert: 1}}\n")
    monkeypatch.setattr(widgets, "FILE", file)
    page = widgets.Page(engine)
    page.text.value = "mine: {share: {Desert: 0.4}, by: scores}"
    page._attempt("scenario", page._save)
    assert [button.description for button in page.presets.children] == ["old", "mine"]
    assert file.read_text().startswith("# kept\nold: {turn: {Desert: 1}}\nmine:")
    assert scenarios.read(file)["mine"] == Scenario("mine", share={"Desert": 0.4}, by="scores")
    before = file.read_bytes()
    for text, message in {
        "old: {turn: {Desert: 2}}": "scenarios.yaml has a scenario &#x27;old&#x27;",
        "new: {turn: {Dessert: 2}}": "attribute &#x27;Dessert&#x27; has no knob",
    }.items():
        page.text.value = text
        page._attempt("scenario", page._save)
        assert message in page.says["scenario"].value and file.read_bytes() == before


def test_an_address_holds_user_history_and_scenario(engine, attribute):
    engine.choose([*engine.sequences][3])
    dial = lambda: engine.dial(attribute, 0.5)  # noqa: E731
    for change in (lambda: None, dial, lambda: engine.take([5, 3])):
        change()
        state, address = engine.state, engine.address()
        engine.choose([*engine.sequences][0])
        engine.play(Scenario("my scenario"))
        engine.visit(address)
        assert engine.state == state


def test_pins_follow_the_history_and_stay_in_the_address(engine, attribute):
    page = widgets.Page(engine)
    engine.dial(attribute, 0.5)
    page.toggles["A"].value = True
    engine.play(Scenario())
    page.toggles["B"].value = True
    engine.choose([*engine.sequences][4])
    page.show()
    page.explain()  # where a browser is driven, too, reasons come later
    assert engine.shares()["before"].equals(engine.shares()["after"])  # pins turn nothing
    untouched = engine.lists()["title_before"].tolist()
    heads = re.findall(r'<th scope="col">(\w+)', page.compared.value)
    assert heads == ["untouched", "A", "B"]
    cells = re.findall(r"<td class=.*?>(.*?)</td>", page.compared.value)
    assert [html.unescape(cell) for cell in cells[::3]] == untouched
    assert [html.unescape(cell) for cell in cells[2::3]] == untouched
    engine.dial(attribute, 0.5)
    pinned = [html.unescape(cell) for cell in cells[1::3]]
    assert pinned == engine.lists()["title_after"].tolist() != untouched
    page.toggles["B"].value = False
    page.explain()
    assert "untouched" in page.compared.value and ">B<" not in page.compared.value
    again = widgets.Page(desk.Desk.of("smoke"))
    again.serve(urlencode({"A": scenarios.write(page.pins["A"])}), Workspace("smoke"))
    assert again.toggles["A"].value and again.pins == page.pins


def test_a_pin_of_an_address_that_does_not_fit_is_a_message(engine):
    page = widgets.Page(engine)
    page.serve(urlencode({"A": "x: {turn: {Dessert: 1}}"}), Workspace("smoke"))
    assert "attribute &#x27;Dessert&#x27; has no knob" in page.says["compare"].value
    assert not page.pins and not page.toggles["A"].value


def test_a_feature_is_found_by_concept_label_or_example_in_any_case(engine):
    some, other = engine.alive[3], engine.alive[5]
    features = engine.features.assign(concept="", label=engine.features["label"].fillna(""))
    features.loc[features["feature"] == some, "concept"] = "director: Kubrick"
    features.loc[features["feature"] == other, "label"] = "Noir of Old"
    parts = engine.label, engine.dataset, engine.model, engine.site, engine.dictionary
    found = desk.Desk(*parts, features, engine.knobs)
    assert found.feature("KUBRICK") == some and found.feature("noir of OLD") == other
    unnamed = next(f for f in found.alive if found.names[f].startswith("like "))
    assert found.names[found.feature(found.names[unnamed].upper())] == found.names[unnamed]
    option = next(o for o in widgets.Page(found).feature.options if "Kubrick" in o)
    assert found.feature(option) == found.feature(f" #{some} ") == some
    features.loc[features["feature"] == other, "label"] = f"{some} Angry Men"
    found = desk.Desk(*parts, features, engine.knobs)
    assert found.feature(f"{some} angry men") == other, "a title, not a number"


def test_a_refused_feature_stays_and_everything_else_goes_on(engine):
    page, attribute = widgets.Page(engine), engine.attributes[0]
    page.feature.value = "nonsense"
    assert "no feature &#x27;nonsense&#x27;" in page.says["features"].value
    before = page.lists.value
    page.knobs[attribute].value = 8.0
    assert engine.state.scenario.turn == {attribute: 8.0} and page.lists.value != before
    assert page.feature.value == "nonsense" and page.strength.value == 0
    page.feature.value = ""
    assert page.says["features"].value == ""


def test_nothing_is_logged_without_a_study_and_without_consent(engine, tmp_path, monkeypatch):
    monkeypatch.delenv("SEQSAE_STUDY", raising=False)
    assert not any("seqsae-study" in w._dom_classes for w in widgets.Page(engine).root.children)
    log = tmp_path / "log.jsonl"
    monkeypatch.setenv("SEQSAE_STUDY", str(log))
    page = widgets.Page(engine)
    (box,) = [w for w in page.root.children if "seqsae-study" in w._dom_classes]
    _, agree, questions, _ = box.children
    attribute = engine.attributes[0]
    page.knobs[attribute].value = 1.0
    assert not log.exists() and questions.layout.display == "none"
    agree.value = True
    page.knobs[attribute].value = 2.0
    page._attempt("steps", engine.undo)
    page._attempt("who", engine.compose, "Nothing Known")
    page.title.value = engine.dataset.unique_titles[1]
    *asked, send = questions.children
    asked[0].value = 4
    send.click()
    assert "2, 3, 4, 5, 6, 7 of 7: not answered yet" in page.says["study"].value
    for question in asked:
        question.value = 4
    send.click()
    agree.value = False
    page.knobs[attribute].value = 3.0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    expected = ["consent", "knobs", "undo", "compose", "add", "answers", "withdrawn"]
    assert [line["event"] for line in lines] == expected
    assert len({line["participant"] for line in lines}) == 1 and lines[5]["answers"] == [4] * 7
    assert [bool(line["refused"]) for line in lines[1:5]] == [False, False, True, False]
    assert lines[1]["items"] != [] and f"{attribute}: 2.0" in unquote_plus(lines[1]["state"])
    numbered = [f"{i}. {text}" for i, text in enumerate(study.QUESTIONS, 1)]
    assert [question.description for question in asked] == numbered


def test_chips_take_items_out_and_a_title_adds_one(engine):
    page = widgets.Page(engine)
    history = engine.state.history
    page.chips.children[1].click()
    assert engine.state.history == (*history[:-2], history[-1])
    page.title.value = engine.dataset.titles[history[-2]]
    assert engine.state.history == (*history[:-2], history[-1], history[-2])
    assert page.title.value == "" and engine.state.user is None


def test_the_package_needs_no_widgets():
    code = "import sys; from seqsae_utils.apps import desk; assert 'ipywidgets' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PROJECT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--profile", "smok"], "nearest: 'smoke'"), (["-p", "k", "4"], "has no parameters")],
)
def test_the_command_refuses_what_it_does_not_know(arguments, message, capsys):
    assert run.main(["desk", *arguments]) == 1
    assert message in capsys.readouterr().err


# In the browser


@contextmanager
def serving(root: Path, folder: Path):
    """`make desk` for a workspace's profile smoke, with its atlas, and its `address`."""
    log = folder / "log"
    env = {**os.environ, "SEQSAE_WORKSPACE": str(root), "BROWSER": "true"}
    env["SEQSAE_STUDY"] = str(log.with_name("study.jsonl"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEQSAE_WORKSPACE", str(root))
        build(Workspace("smoke"))
    command = [sys.executable, "-m", "seqsae_utils.run", "desk", "--profile", "smoke"]
    with open(log, "w") as output:
        server = subprocess.Popen(command, cwd=PROJECT, env=env, stdout=output, stderr=output)
    try:
        for _ in range(900):
            found = re.search(r"http://\S+", log.read_text())
            if found or server.poll() is not None:
                break
            time.sleep(0.2)
        assert found, log.read_text()
        server.address = found[0]
        yield server
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture(scope="module")
def server(chromium, root, tmp_path_factory):
    """The desk of the profile smoke; it ends with the tests."""
    with serving(root, tmp_path_factory.mktemp("voila")) as server:
        yield server


@pytest.fixture(scope="module")
def address(server) -> str:
    return server.address


@pytest.fixture
def page(address, chromium):
    """The desk, opened; afterwards no other server may have answered, and nothing gone wrong."""
    context = chromium.new_context(viewport={"width": 1100, "height": 900})
    opened, wrong = context.new_page(), []
    opened.set_default_timeout(60_000)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    own = address.partition("?")[0], "data:", "blob:"
    opened.on("response", lambda r: None if r.url.startswith(own) else wrong.append(r.url))
    opened.goto(address, timeout=120_000)
    expect(opened.locator("table.lists tbody tr")).to_have_count(10, timeout=60_000)
    opened.set_default_timeout(10_000)
    yield opened
    context.close()
    assert wrong == []


def share_of(page, attribute: str, wait: str) -> int:
    """The share of an attribute, in per cent, once it is shown as `wait` (a pattern) says."""
    bar = page.locator(f"[data-attribute='{attribute}'] > span").last
    expect(bar).to_have_text(re.compile(wait))
    return int(re.findall(r"(\d+)%", bar.inner_text())[-1])


def titles(page) -> list[str]:
    return page.locator("td.after .name").all_inner_texts()


def test_a_knob_turned_by_the_keyboard_changes_the_list(page, engine, attribute):
    before = titles(page)
    assert before == engine.lists()["title_after"].tolist()
    knob = page.get_by_role("slider", name=attribute, exact=True)
    knob.focus()
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    engine.turn(attribute, 4.0)
    expected = engine.shares().set_index("attribute").loc[attribute]
    assert share_of(page, attribute, f"{expected['after']:.0%}$") == round(100 * expected["after"])
    assert expected["after"] > expected["before"]
    expect(page.locator("td.after .name")).to_have_text(engine.lists()["title_after"].tolist())
    assert titles(page) != before
    assert page.locator("td.before .name").all_inner_texts() == before
    expect(page.locator("td.after .turned").first).to_be_visible()  # reasons come a moment later
    assert scenarios.parse(page.get_by_label("Scenario").input_value()) == {
        "my scenario": engine.state.scenario
    }
    page.get_by_role("button", name="Undo").focus()
    page.keyboard.press("Enter")
    expect(page.locator("td.after .name")).to_have_text(before)
    expect(knob).to_have_attribute("aria-valuenow", "0.0")


def test_every_control_has_a_name_and_the_keyboard_reaches_it(page):
    expect(page.locator("[role=slider][aria-label]").first).to_be_attached()
    nameless = page.evaluate(
        "[...document.querySelectorAll('.seqsae-desk :is(button, select, input, textarea, "
        "[role=slider])')].filter(e => e.offsetParent && !(e.getAttribute('aria-label') || "
        "e.textContent.trim() && e.tagName == 'BUTTON' || e.labels?.[0]?.textContent.trim()))"
        ".map(e => e.outerHTML.slice(0, 200))"
    )
    assert nameless == []
    page.get_by_label("User").focus()
    order = []
    for _ in range(200):
        order.append(page.evaluate(
            "(e => e.tagName == 'A' ? '' : e.getAttribute('aria-label') || "
            "e.labels?.[0]?.textContent || e.textContent)"
            "(document.activeElement)"
        ).strip())  # fmt: skip
        if order[-1] == "strength":
            break
        page.keyboard.press("Tab")
    wanted = ["User", "Undo", "Make", "Do it", "Scenario", "Copy as a scenario", "Save", "Add",
              "Titles", "Use these titles", "hidden gems", "Ocean", "Feature"]  # fmt: skip
    stops = page.evaluate(
        "[...document.querySelectorAll('.seqsae-desk :is(button, select, input, textarea, a[href], "
        '[tabindex="0"])\')].filter(e => e.offsetParent && e.compareDocumentPosition('
        "document.querySelector('table.lists')) & Node.DOCUMENT_POSITION_FOLLOWING).length"
    )
    assert 5 < stops <= 15  # before the list
    wanted = [name for name in wanted if name != "hidden gems" or name in order]
    assert [order.index(name) for name in wanted] == sorted(order.index(name) for name in wanted)


@pytest.mark.parametrize(
    ("field", "text", "button", "message"),
    [
        ("Titles", "<b>Nothing</b> of the kind", "Use these titles", "nothing here is called '<b>"),
        ("Scenario", "a: {turns: {Desert: 1}}", "Apply", "no key 'turns'; nearest: 'turn'"),
        ("Scenario", "a: {turn: {Desert: .inf}}", "Apply", "a knob cannot stand at inf"),
        ("Scenario", "a: {turn: {Dessert: 1}}", "Apply", "attribute 'Dessert' has no knob"),
        ("Feature", "99999", None, "feature 99999: the SAE has features 0 to"),
    ],
)
def test_bad_input_is_a_message_and_no_traceback(page, field, text, button, message):
    before = titles(page)
    page.get_by_label(field, exact=True).fill(text)
    if button:
        page.get_by_role("button", name=button, exact=True).click()
    else:
        page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text(message)
    said, control = page.get_by_role("alert"), page.get_by_label(field, exact=True)
    expect(said).to_be_in_viewport()  # where the eye is: beside the control
    assert abs(said.bounding_box()["y"] - control.bounding_box()["y"]) < 220
    assert "Traceback" not in page.inner_text("body") and titles(page) == before
    page.get_by_role("button", name="All to zero").click()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_history_from_titles_in_the_browser(page, engine):
    chosen = "\n".join(engine.dataset.titles[10:13])
    page.get_by_label("Titles", exact=True).fill(chosen)
    page.get_by_role("button", name="Use these titles").click()
    engine.compose(chosen)
    expect(page.locator("td.after .name")).to_have_text(engine.lists()["title_after"].tolist())
    selected = "e => e.selectedOptions[0].textContent.replaceAll('\\u00a0', ' ')"
    assert page.get_by_label("User").evaluate(selected) == "composed from titles"


def test_dial_off_and_reload_in_the_browser(page, engine, attribute):
    page.get_by_label("Make", exact=True).select_option(label=attribute)
    page.get_by_role("button", name="Do it").click()
    engine.dial(attribute, 0.5)
    share_of(page, attribute, "50%$")
    expect(page.locator("td.after .name")).to_have_text(engine.lists()["title_after"].tolist())
    expect(page.get_by_role("status")).to_contain_text(f"{attribute} ")
    engine.play(Scenario())
    page.get_by_role("button", name="All to zero").click()
    off = page.get_by_role("button", name=f"no {attribute} in the list")
    off.click()
    expect(off).to_have_attribute("aria-pressed", "true")
    engine.dial(attribute, 0.0)
    expect(page.locator("td.after .name")).to_have_text(engine.lists()["title_after"].tolist())
    page.wait_for_url(re.compile("share"))
    assert "token" not in page.url
    page.reload(timeout=120_000)
    expect(page.locator("td.after .name")).to_have_text(
        engine.lists()["title_after"].tolist(), timeout=60_000
    )


@pytest.mark.parametrize("width", [1440, 390])
def test_a_refusal_at_the_dial_is_told_in_lines_below_it(page, engine, width):
    def refused(attribute) -> bool:
        try:
            engine.dial(attribute, 1.0, "features")
        except ValueError:
            return True
        engine.undo()
        return False

    attribute = next(filter(refused, engine.attributes))
    page.set_viewport_size({"width": width, "height": 900})
    before = titles(page)
    page.get_by_label("Make", exact=True).select_option(label=attribute)
    page.get_by_role("slider", name="per cent").press("End")
    page.get_by_label("by", exact=True).select_option(label="features")
    ask = page.get_by_role("button", name="Do it")
    ask.click()
    said = page.get_by_role("alert")
    expect(said).to_contain_text(attribute)
    expect(said).to_be_in_viewport()
    assert 0 < said.bounding_box()["y"] - ask.bounding_box()["y"] < 160
    assert said.bounding_box()["width"] > 0.6 * width and titles(page) == before


def test_the_desk_saves_itself_as_one_page(page, tmp_path, chromium):
    page.get_by_role("button", name="Pin A").click()
    expect(page.get_by_role("button", name="Pin A")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("table.compared tbody tr")).to_have_count(10)
    with page.expect_download() as handed:
        page.get_by_role("button", name="Save as a page").click()
    file = tmp_path / handed.value.suggested_filename
    handed.value.save_as(file)
    context = chromium.new_context(offline=True)
    saved, asked = context.new_page(), []
    saved.on("request", lambda request: asked.append(request.url))
    saved.goto(file.as_uri())
    assert saved.locator("td.after .name").all_inner_texts() == titles(page)
    assert saved.locator("table.compared tbody tr").count() == 10
    assert saved.locator("ol li").count() > 1 and saved.locator("pre").count() == 1
    assert asked == [file.as_uri()] and file.suffix == ".html"
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(page, serious, engine, attribute, scheme):
    page.emulate_media(color_scheme=scheme)
    page.get_by_role("button", name="Pin A").click()
    page.get_by_label("Make", exact=True).select_option(label=attribute)
    page.get_by_role("button", name="Do it").click()
    page.get_by_role("button", name="I agree").click()
    expect(page.locator("table.compared tbody tr")).to_have_count(10)
    page.get_by_label("Feature", exact=True).fill("99999")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_be_visible()
    assert serious(page) == []
    page.evaluate("document.body.append(document.createElement('button'))")
    assert any(found.startswith("button-name") for found in serious(page))  # it can fail


def test_axe_finds_nothing_serious_in_the_atlas(chromium, serious, root, monkeypatch):
    monkeypatch.setenv("SEQSAE_WORKSPACE", str(root))
    file = build(Workspace("smoke"))
    for scheme, where in (("light", ""), ("dark", "#feature-0"), ("light", "#feature-0")):
        opened = chromium.new_page(color_scheme=scheme)
        opened.goto(file.as_uri() + where)
        assert serious(opened) == [], (scheme, where)
        opened.close()


def test_a_narrow_page_need_not_scroll_sideways(page):
    page.set_viewport_size({"width": 420, "height": 900})
    page.wait_for_timeout(300)
    right = page.evaluate(
        "Math.max(...[...document.querySelectorAll('.seqsae-desk *')].map(e => "
        "e.getBoundingClientRect().right))"
    )
    assert right <= 421


def test_a_chip_opens_its_feature_and_from_there_the_desk_with_it(page):
    chip = page.locator("td.after a.chip").first
    feature = re.search(r"#feature-(\d+)$", chip.get_attribute("href"))[1]
    with page.context.expect_page() as opened:
        chip.click()
    atlas = opened.value
    expect(atlas.get_by_role("heading", level=1)).to_contain_text(feature)
    atlas.get_by_role("link", name="Turn it at the desk").click()
    expect(atlas.get_by_label("Feature", exact=True)).to_have_value(feature, timeout=120_000)
    assert atlas.url.startswith(page.url.partition("?")[0])


#: Chips that are not seen, and short ones that are cut.
CUT = """[...document.querySelectorAll('td.after .chip')].filter(chip => {
    const own = chip.getBoundingClientRect(), row = chip.parentElement.getBoundingClientRect();
    return !own.height || own.bottom > row.bottom + 1 || own.right > row.right + 1
        || chip.textContent.length < 16 && chip.scrollWidth > chip.clientWidth;
}).map(chip => chip.outerHTML)"""


@pytest.mark.parametrize("width", [1440, 800, 390])
def test_reasons_and_questions_are_whole_at_any_width(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    expect(page.locator("td.after .chip").first).to_be_visible()
    assert page.evaluate(CUT) == []
    page.get_by_role("button", name="I agree").click()
    asked = page.locator(".seqsae-study .widget-dropdown")
    expect(asked.last).to_be_visible()
    for question in asked.all():
        label, choice = (question.locator(part).bounding_box() for part in ("label", "select"))
        assert choice["height"] >= 24 and choice["y"] >= label["y"] + label["height"] - 1
        assert label["height"] < 24 * (1 + (width == 390))
    send = page.get_by_role("button", name="Send my answers")
    send.evaluate("e => e.scrollIntoView({block: 'end'})")  # as if it had just come into view
    send.click()
    expect(page.get_by_role("alert")).to_contain_text("1, 2, 3, 4, 5, 6, 7 of 7: not answered yet")
    expect(page.get_by_role("alert")).to_be_in_viewport()
    assert send.bounding_box()["width"] < 240


def test_the_list_is_within_reach(page):
    for width, height, most in ((1440, 900, 600), (390, 844, 844)):
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(300)
        assert page.locator("table.lists").bounding_box()["y"] < most
    page.mouse.wheel(0, 1500)
    page.wait_for_timeout(300)
    expect(page.get_by_role("button", name="Undo")).to_be_in_viewport()


def kernels(server) -> int:
    command = ["ps", "--ppid", str(server.pid), "-o", "args="]
    return subprocess.run(command, capture_output=True, text=True).stdout.count("ipykernel")


def test_a_page_that_closes_takes_its_kernel_along(page, server):
    before = kernels(server)
    page.close(run_before_unload=True)
    for _ in range(100):
        if kernels(server) < before:
            break
        time.sleep(0.2)
    assert kernels(server) == before - 1


def test_nothing_starts_and_nothing_is_told_without_the_token(server, address):
    home, token = address.split("?")
    before = kernels(server)
    port = re.search(r":(\d+)", home[5:])[1]
    with httpx.Client() as client:
        assert client.get(home).status_code == 302
        assert client.get(f"{home}?token=guess").status_code == 302
        path = "api/kernels/00000000-0000-0000-0000-000000000000"
        assert client.get(home + path).status_code == 403
        for name in ("evil.example", "192.168.0.9", "127.0.0.1.evil.example"):
            for where in ("", path, f"{path}/channels", "atlas.html"):
                headers = {"Host": f"{name}:{port}"}
                assert client.get(f"{home}{where}?{token}", headers=headers).status_code == 403
    assert kernels(server) == before


def test_a_page_of_another_port_starts_nothing_though_it_has_the_cookie(page, server, address):
    home, before = address.partition("?")[0], kernels(server)
    urls = [f"{home}?{what}" for what in ("image", "frame", "link", "prefetch", "prerender")]
    rules = {
        kind: [{"source": "list", "urls": [url], "eagerness": "immediate"}]
        for kind, url in zip(("prefetch", "prerender"), urls[3:], strict=True)
    }
    body = f"""<img src="{urls[0]}"><iframe src="{urls[1]}"></iframe>
        <link rel="prefetch" href="{urls[2]}">
        <script type="speculationrules">{json.dumps(rules)}</script>
        <script>fetch("{home}?fetch", {{credentials: "include", mode: "no-cors"}})</script>"""

    class Other(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(body.encode())

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        foreign, found = page.context.new_page(), []
        foreign.on("response", lambda r: found.append(r.status) if home in r.url else None)
        foreign.goto(f"http://127.0.0.1:{other.server_port}/")
        foreign.wait_for_timeout(3000)
        other.shutdown()
    assert len(found) >= 4 and {*found} == {403}
    assert kernels(server) == before


def test_the_page_stands_in_no_frame_and_talks_to_its_own_socket_only(page, address):
    response = page.request.get(address.partition("?")[0] + "login")
    policy = response.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    blocked = page.evaluate(
        "new Promise(done => { document.addEventListener('securitypolicyviolation', e => done("
        "e.violatedDirective)); new WebSocket('ws://127.0.0.1:1/'); })"
    )
    assert blocked == "connect-src"


def test_hostile_titles_attributes_and_labels_run_nothing(chromium, tmp_path, monkeypatch):
    """In desk, saved page and atlas, of the demo's artifacts with other words in them."""
    committed = tmp_path / "workshop" / "artifacts" / "smoke"
    shutil.copytree(PROJECT / "workshop" / "artifacts" / "smoke", committed)
    for table, column, old in (("data/items", "title", "^"), ("data/items", "attributes", "Ocean"),
                               ("control/knobs", "attribute", "Ocean"),
                               ("interpretability/features", "label", "^(?=.)")):  # fmt: skip
        rows = pd.read_parquet(file := committed / f"{table}.parquet")
        rows[column] = rows[column].str.replace(old, HOSTILE, regex=True)
        rows.to_parquet(file)
    monkeypatch.setenv("SEQSAE_WORKSPACE", str(tmp_path))
    monkeypatch.setattr(sys.modules["seqsae_utils.run.demo"], "project", lambda: tmp_path)
    context = chromium.new_context()
    with serving(prepare(), tmp_path) as server:
        page = context.new_page()
        page.goto(server.address, timeout=120_000)
        expect(page.locator("td.after .name").first).to_contain_text(HOSTILE, timeout=60_000)
        page.get_by_role("slider", name=HOSTILE, exact=True).press("ArrowRight")
        page.get_by_role("button", name="Do it").click()
        page.get_by_role("button", name="Pin A").click()
        expect(page.locator("table.compared tbody tr")).to_have_count(10)
        with page.expect_download() as handed:
            page.get_by_role("button", name="Save as a page").click()
        handed.value.save_as(tmp_path / "saved.html")
        saved, atlas = context.new_page(), context.new_page()
        saved.goto((tmp_path / "saved.html").as_uri())
        atlas.goto(f"{server.address.partition('?')[0]}atlas.html#feature-0")
        for opened in (page, saved, atlas):
            expect(opened.locator("body")).to_contain_text(HOSTILE)
            opened.wait_for_timeout(300)
            assert opened.evaluate("window.hacked") is None
            assert opened.locator("img[src=x]").count() == 0
    context.close()


def test_without_artifacts_the_command_says_the_way_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SEQSAE_WORKSPACE", str(tmp_path))
    assert run.main(["desk", "--profile", "smoke"]) == 1
    assert "run `make paper PROFILE=smoke`, or notebook 01_data" in capsys.readouterr().err


def test_only_this_machine_is_served(address):
    assert address.startswith("http://127.0.0.1:")
    port = int(re.search(r":(\d+)", address[5:])[1])
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
                 if line.split()[3] == "0A"]  # fmt: skip
    assert [a for a in listening if a.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]
