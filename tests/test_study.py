"""The study: what its log holds, and what the evaluation makes of it, by hand."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import papermill
import pytest

from seqsae_utils.apps import study

PROJECT = Path(__file__).parents[1]
AGAINST = [i for i, against in enumerate(study.QUESTIONS.values()) if against]


def test_seven_questions_of_which_some_speak_against_control():
    assert len(study.QUESTIONS) == 7 and 0 < len(AGAINST) < 4
    assert all("not" in text or "too much" in text for i, text in enumerate(study.QUESTIONS)
               if i in AGAINST)  # fmt: skip


def test_without_a_named_file_there_is_no_study(monkeypatch):
    monkeypatch.delenv("SEQSAE_STUDY", raising=False)
    assert study.file() is None


def test_answers_of_the_last_time_and_of_nobody_who_took_it_back(tmp_path):
    log = tmp_path / "new" / "log.jsonl"
    for who, given in [("a", [1] * 7), ("a", [5] * 7), ("b", [1] * 7), ("c", [2] * 7)]:
        study.append(log, who, "answers", answers=given)
    study.append(log, "b", "withdrawn")
    assert [*map(json.loads, log.read_text().splitlines())][0]["answers"] == [1] * 7
    found = study.answers(study.read(log))
    assert found.index.tolist() == ["a", "c"]
    for i, question in enumerate(study.QUESTIONS):
        assert found[question].tolist() == ([1, 4] if i in AGAINST else [5, 2])


def test_alpha_by_its_definition():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(40, 1)) + rng.normal(size=(40, 7)))
    covariance = table.cov().to_numpy()
    off = covariance.sum() - np.trace(covariance)
    assert study.alpha(table) == pytest.approx(7 / 6 * off / covariance.sum())
    assert abs(study.alpha(pd.DataFrame(rng.normal(size=(2000, 7))))) < 0.1


def test_what_participants_did():
    rows = [("a", 0, "consent", None), ("a", 30, "knobs", ""), ("a", 60, "undo", ""),
            ("a", 120, "dial", "out of reach"), ("b", 0, "consent", None)]  # fmt: skip
    events = pd.DataFrame(rows, columns=["participant", "time", "event", "refused"])
    answered = {
        "participant": "a",
        "time": 180,
        "event": "answers",
        "answers": [4, 2, 4, 4, 2, 4, 4],
    }
    found = study.participants(pd.concat([events, pd.DataFrame([answered])], ignore_index=True))
    assert found.loc["a"].tolist() == pytest.approx([4, 3, 3, 1 / 3, 1])
    assert found.loc["b", "actions"] == 0 and np.isnan(found.loc["b", "control"])


@pytest.mark.parametrize("line", ["no json", "[]", '{"time": 1}', ""])
def test_a_damaged_line_is_named(tmp_path, line):
    log = tmp_path / "log.jsonl"
    study.append(log, "a", "consent")
    log.write_text(log.read_text() + line + "\n")
    with pytest.raises(ValueError, match=r"log.jsonl, line 2 is no event"):
        study.read(log)
    log.write_text("")
    with pytest.raises(ValueError, match="is empty: nobody has agreed yet"):
        study.read(log)


@pytest.mark.parametrize("there", [True, False])
def test_the_notebook_evaluates_a_log_or_says_that_it_is_made_up(tmp_path, monkeypatch, there):
    log = tmp_path / "log.jsonl"
    monkeypatch.setenv("SEQSAE_STUDY", str(log))
    for i in range(4 * there):
        study.append(log, f"p{i}", "knobs", refused="")
        study.append(log, f"p{i}", "answers", answers=[1 + i] * 7)
    book = papermill.execute_notebook(
        PROJECT / "notebooks/study.ipynb", tmp_path / "out.ipynb", progress_bar=False
    )
    shown = json.dumps([cell.get("outputs", []) for cell in book.cells])
    assert ("MADE-UP participants" in shown) == (not there)
    assert ("4 participants, 8 events (log.jsonl)" in shown) == there
    assert "perceived control" in shown
