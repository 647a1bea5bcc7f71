"""The study: what its log holds, and what the evaluation makes of it, by hand."""

import copy
import json
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest

from seqsae_utils.apps import study
from seqsae_utils.run.clean import with_outputs

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
    nobody = study.participants(events)
    assert nobody["control"].isna().all() and nobody["actions"].tolist() == [3, 0]
    assert study.answers(events).empty


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


def test_made_up_participants_have_what_is_planted():
    found = study.made_up(n_participants=200)
    assert study.alpha(study.answers(found)) > 0.7
    people = study.participants(found)
    assert people.corr(method="spearman").loc["control", "refused"] < -0.4
    assert abs(people["control"].mean() - 3) < 0.3 and len(people) == 200


def evaluated(folder: Path):
    """The notebook, executed in a folder."""
    return papermill.execute_notebook(
        PROJECT / "notebooks/study.ipynb", folder / "out.ipynb", cwd=folder, progress_bar=False
    )


def test_the_notebook_evaluates_a_log(tmp_path, monkeypatch):
    log = tmp_path / "log.jsonl"
    monkeypatch.setenv("SEQSAE_STUDY", str(log))
    for i in range(4):
        study.append(log, f"p{i}", "knobs", refused="")
        study.append(log, f"p{i}", "answers", answers=[1 + i] * 7)
    shown = json.dumps([cell.get("outputs", []) for cell in evaluated(tmp_path).cells])
    assert "4 participants, 8 events (log.jsonl)" in shown and "perceived control" in shown
    assert "made up" not in shown and "MADE-UP" not in shown


def test_without_a_log_the_notebook_shows_what_is_committed_and_says_that_it_is_made_up(
    tmp_path, monkeypatch
):
    monkeypatch.delenv("SEQSAE_STUDY", raising=False)
    committed = nbformat.read(PROJECT / "notebooks/study.ipynb", as_version=4)
    again = with_outputs(copy.deepcopy(committed), evaluated(tmp_path))
    outputs = [cell.outputs for cell in committed.cells if cell.cell_type == "code"]
    assert outputs == [cell.outputs for cell in again.cells if cell.cell_type == "code"]
    assert all("made up" in json.dumps(shown) for shown in outputs)
