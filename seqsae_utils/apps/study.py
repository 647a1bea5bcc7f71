"""A user study at the desk: events and answers as JSON lines, and what they say of control.

Nothing is written unless ``$SEQSAE_STUDY`` names a file *and* the person at the desk agrees.
"""

import json
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd

#: Perceived control, after the constructs control and ease of revision of ResQue (Pu, Chen & Hu
#: 2011), put in the words of this desk; and whether agreement speaks against control.
QUESTIONS = {
    "I feel in control of telling the recommender what I want.": False,
    "I do not feel in control of changing what is recommended to me.": True,
    "It was easy to tell the recommender what I like and what I do not like.": False,
    "It was easy to make the recommender recommend other things to me.": False,
    "It took me too much effort to change the list.": True,
    "The list changed in the way that I meant it to change.": False,
    "I understood why the items were recommended to me.": False,
}
#: Answers, from 1 to 5.
SCALE = ("strongly disagree", "disagree", "neither", "agree", "strongly agree")


def file() -> Path | None:
    """The log that ``$SEQSAE_STUDY`` names; None: there is no study, which is the default."""
    named = os.environ.get("SEQSAE_STUDY", "")
    return Path(named) if named else None


def append(log: Path, participant: str, event: str, **content) -> None:
    """Add one line to a log: when, who (a random word), what, and its content."""
    line = {"time": round(time.time(), 3), "participant": participant, "event": event, **content}
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as lines:
        lines.write(json.dumps(line, allow_nan=False) + "\n")


def read(log: Path) -> pd.DataFrame:
    """The events of all who agreed and did not take it back; ValueError names a damaged line."""
    rows = []
    for number, line in enumerate(log.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not (isinstance(found, dict) and {"time", "participant", "event"} <= {*found}):
            raise ValueError(f"{log}, line {number} is no event of a study: {line[:80]!r}")
        rows.append(found)
    if not rows:
        raise ValueError(f"{log} is empty: nobody has agreed yet")
    events = pd.DataFrame(rows)
    gone = events.loc[events["event"] == "withdrawn", "participant"]
    return events[~events["participant"].isin(gone)].reset_index(drop=True)


def made_up(n_participants: int, seed: int = 0) -> pd.DataFrame:
    """Events of participants who are drawn at random, to try an evaluation on.

    Planted is how much in control each one feels: by it they answer, give or take one, and the less
    it is, the more often they are refused.
    """
    rng, rows = np.random.default_rng(seed), []
    for i in range(n_participants):
        who, start = {"participant": f"made up {i}"}, 1e6 * i
        rows.append(who | {"time": start, "event": "consent"})
        feels = rng.uniform(1, len(SCALE))
        times = start + rng.uniform(5, 60, rng.integers(5, 30)).cumsum()
        for at in times.tolist():
            event = str(rng.choice(["knobs", "dial", "undo", "who"]))
            refused = "no such share" * int(rng.random() < 0.1 * (len(SCALE) - feels))
            rows.append(who | {"time": at, "event": event, "refused": refused})
        agrees = np.where([*QUESTIONS.values()], len(SCALE) + 1 - feels, feels)
        given = np.rint(agrees + rng.uniform(-1, 1, len(agrees))).clip(1, len(SCALE))
        rows.append(who | {"time": at + 60, "event": "answers", "answers": [*map(int, given)]})
    return pd.DataFrame(rows)


def answers(events: pd.DataFrame) -> pd.DataFrame:
    """A row for each participant who answered (the last time counts), a column for each question.

    From 1 to 5; agreement with what speaks against control is turned round.
    """
    given = events.assign(answers=events.get("answers"))[events["event"] == "answers"]
    last = given.groupby("participant")["answers"].last()
    table = pd.DataFrame([*last], index=last.index, columns=[*QUESTIONS], dtype=float)
    for question, against in QUESTIONS.items():
        if against:
            table[question] = len(SCALE) + 1 - table[question]
    return table


def alpha(table: pd.DataFrame) -> float:
    """Cronbach's alpha of answers [n_participants, n_questions]: whether they measure one thing.

    >>> alpha(pd.DataFrame([[1, 1], [3, 3], [5, 5]]))
    1.0
    """
    n, total = table.shape[1], table.sum(axis=1).var()
    return float(n / (n - 1) * (1 - table.var().sum() / total)) if total else np.nan


def participants(events: pd.DataFrame) -> pd.DataFrame:
    """A row for each participant: perceived control (mean answer), and what they did.

    control (NaN: did not answer), minutes, actions, refused (the share of them), undone.
    """
    done = events[~events["event"].isin(["consent", "answers"])]
    by = events.groupby("participant", sort=False)
    refused = done.get("refused", pd.Series(index=done.index, dtype=object)).fillna("") != ""
    table = pd.DataFrame({"minutes": by["time"].agg(np.ptp) / 60})
    table["actions"] = done.groupby("participant").size().reindex(table.index, fill_value=0)
    table["refused"] = refused.groupby(done["participant"]).mean().reindex(table.index)
    table["undone"] = (done["event"] == "undo").groupby(done["participant"]).sum()
    table.insert(0, "control", answers(events).mean(axis=1))
    return table.fillna({"undone": 0})
