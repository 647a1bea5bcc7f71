"""What the steering desk knows and does, without a screen: one user, knobs, and two lists."""

import difflib
import re
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from torch import Tensor

from ... import data, recommender, sae
from ...control import Edit, Scenario, sae_delta, share, solve, steered
from ...interpretability import logit_lens
from ...workspace import StageError, Workspace

#: Length of a list, and features that are named for each of its items.
N_ITEMS, N_REASONS = 10, 3
#: Users that can be chosen, and the largest strength of a knob.
N_USERS, MAX_DOSE = 1_000, 8.0


@dataclass(frozen=True)
class State:
    """What undo goes back to: items of the history, whose it is (None: composed), the knobs."""

    history: tuple[int, ...]
    user: int | None = None
    scenario: Scenario = field(default_factory=lambda: Scenario("my scenario"))


@dataclass(frozen=True)
class View:
    """What the model makes of a history: the list, and what it is made from.

    items : [N_ITEMS] best first, 0 where none is left; rank : [n_items + 1] among unseen items,
    from 1; scores : [n_items + 1]; code : [d_sae] of the state that predicts, edits included
    """

    items: np.ndarray
    rank: np.ndarray
    scores: np.ndarray
    code: Tensor


class Desk:
    """The desk of a profile. What cannot be done raises `ValueError`, and nothing has changed.

    Raises
    ------
    StageError
        If a stage is missing or was altered; the message says what repairs it.
    """

    def __init__(self, profile: str):
        workspace = Workspace(profile)
        self.label = workspace.label
        self.dataset = data.load(workspace.load("data"))
        self.model = recommender.load(workspace.load("recommender"))
        self.site = workspace.manifest("activations")["parameters"]["site"]
        self.dictionary = sae.load(workspace.load("sae"))
        self.features = pd.read_parquet(workspace.load("interpretability") / "features.parquet")
        knobs = workspace.load("control") / "knobs.parquet"
        if not knobs.is_file():
            raise StageError(
                f"{knobs} is missing: run `make paper PROFILE={profile}`, or notebook 06_control"
            )
        self.knobs = pd.read_parquet(knobs)
        taken = recommender.new_users(self.dataset).popularity
        popular = np.append(False, taken[1:] >= np.quantile(taken[1:], 0.9))  # as in notebook 6
        #: What is counted in a list, [n_items + 1, n_counted], and its names.
        self.matrix = np.column_stack([self.dataset.attribute_matrix, popular])
        self.counted = [*self.dataset.attributes, "popular"]
        names = self.features["label"].fillna("").replace("", "unnamed")
        self.names = dict(zip(self.features["feature"], names, strict=True))
        self.alive = self.features.loc[self.features["density"] > 0, "feature"].tolist()
        self.sequences = dict(list(self.dataset.sequences("test").items())[:N_USERS])
        self._words = [_words(title) for title in self.dataset.titles]
        self.past: list[State] = []
        self._turned: str | int | None = None
        user = next(iter(self.sequences))
        self.state = State(tuple(self.sequences[user].tolist()), user)
        self.before = self.after = self._look(self.state.history, [])

    # What one may do

    def choose(self, user: int) -> None:
        """Sit a test user down; the knobs stay where they are."""
        if user not in self.sequences:
            known = ", ".join(map(str, [*self.sequences][:5]))
            raise ValueError(f"user {user!r} is no test user; there are {known}, ...")
        self._go(replace(self.state, history=tuple(self.sequences[user].tolist()), user=user))

    def compose(self, text: str) -> None:
        """A history from titles, one a line, oldest first; the knobs stay where they are."""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if not lines:
            raise ValueError("no titles: write one a line, the oldest first")
        items = dict.fromkeys(self.find(line) for line in lines)
        self._go(replace(self.state, history=tuple(items), user=None))

    def find(self, title: str) -> int:
        """The item of a title: spelt out, without its year, or by words that no other has.

        Raises
        ------
        ValueError
            If there is none, or there are several; the message names the nearest.
        """
        titles, wanted = self.dataset.titles, _words(title)
        if title in titles[1:]:
            return titles.index(title, 1)
        if not wanted:
            raise ValueError(f"{title!r} is no title")
        same = [i for i, words in enumerate(self._words) if wanted in (words, _undated(words))]
        found = same or [i for i, words in enumerate(self._words) if wanted <= words]
        if len(found) == 1:
            return found[0]
        if found:
            few = ", ".join(repr(titles[i]) for i in found[:4])
            raise ValueError(
                f"{title!r} may be {few}{', ...' * (len(found) > 4)}: spell one of them out"
            )
        near = difflib.get_close_matches(title, titles[1:], n=3, cutoff=0.0)
        raise ValueError(f"nothing here is called {title!r}; nearest: {', '.join(map(repr, near))}")

    def feature(self, text: str) -> int:
        """The feature of a text that starts with its number, or is a label; else `ValueError`."""
        number = re.match(r"\s*#?(-?\d+)\b(?!s)", text)
        if number:
            return int(number[1])
        labels = {self.names[feature]: feature for feature in reversed(self.alive)}
        if text.strip() not in labels:
            near = difflib.get_close_matches(text, [*labels], n=3, cutoff=0.0)
            raise ValueError(f"no feature {text!r}; nearest labels: {', '.join(map(repr, near))}")
        return labels[text.strip()]

    def turn(self, knob: str | int, dose: float) -> None:
        """Turn an attribute, or a feature by its number, to a strength; 0 takes it out."""
        kind = "turn" if isinstance(knob, str) else "features"
        turned = {**getattr(self.state.scenario, kind), knob: dose}
        if dose == 0:
            del turned[knob]
        self.play(replace(self.state.scenario, **{kind: turned}), knob)  # type: ignore[arg-type]

    def suppress(self, attribute: str, on: bool = True) -> None:
        """Silence an attribute, or let it be heard again."""
        kept = [what for what in self.state.scenario.suppress if what != attribute]
        self.play(replace(self.state.scenario, suppress=tuple(kept + [attribute] * on)))

    def play(self, scenario: Scenario, knob: str | int | None = None) -> None:
        """Put the knobs where a scenario has them, all of them; `knob` names one that moved."""
        scenario.check(self.knobs, self.features)
        self._go(replace(self.state, scenario=scenario), knob)

    def dial(self, attribute: str, target: float) -> float:
        """Turn an attribute until it has the share `target` of the list; returns the share."""
        scenario = self.state.scenario
        replace(scenario, turn={attribute: 0.0}).check(self.knobs, self.features)
        column = self.counted.index(attribute)

        def share_of(doses: np.ndarray) -> np.ndarray:
            turned = {**scenario.turn, attribute: float(doses[0])}
            edits = replace(scenario, turn=turned).edits(self.knobs)
            items = self._look(self.state.history, edits).items
            return self.matrix[items, column].mean(keepdims=True, dtype=float)

        (found,) = solve(share_of, target, 1, MAX_DOSE).itertuples()
        self.turn(attribute, round(found.dose, 3))
        return found.share

    def undo(self) -> None:
        """Back to what was before the last change; the moves of one knob are one change."""
        if not self.past:
            raise ValueError("nothing to undo")
        state = self.past[-1]
        self._go(state)
        del self.past[-2:]

    # What there is to see

    def lists(self) -> pd.DataFrame:
        """The two lists side by side: a row a place, what stands there, and where it stood.

        place, then item, title and attributes ``_before`` and ``_after``; rank_before, of the item
        that stands there after, rank_after, of the one that stood there before, and
        logit_change, of the item after. No rank, no logit: NaN.
        """
        rows = {"place": np.arange(1, N_ITEMS + 1)}
        described = self.dataset.items.set_index("item")
        for when, view in self._views.items():
            rows[f"item_{when}"] = view.items
            for name in ("title", "attributes"):
                rows[f"{name}_{when}"] = described[name].reindex(view.items, fill_value="").tolist()
        gone, come = self.before.items, self.after.items
        rows["rank_before"] = np.where(come > 0, self.before.rank[come], np.nan)
        rows["rank_after"] = np.where(gone > 0, self.after.rank[gone], np.nan)
        with np.errstate(invalid="ignore"):  # an empty place has no logit
            rows["logit_change"] = self.after.scores[come] - self.before.scores[come]
        return pd.DataFrame(rows)

    def reasons(self) -> pd.DataFrame:
        """The features that carry each item of the list after, those that carry most first.

        item, feature, label, carries: value * (decoder direction . head row), over the average
        item, and turned: what of it the edits brought. A direction is read as if it went straight
        to the head; blocks in between may do more with it, so these are not shares of the logit.
        """
        items = self.after.items[self.after.items > 0]
        push = logit_lens(self.dictionary.W_dec.detach(), self.model.head.detach())[:, items]
        carries, features = (self.after.code[:, None] * push).topk(N_REASONS, dim=0)
        turned = ((self.after.code - self.before.code)[:, None] * push).gather(0, features)
        table = pd.DataFrame(
            {
                "item": np.repeat(items, N_REASONS),
                "feature": features.T.ravel(),
                "carries": carries.T.ravel(),
                "turned": turned.T.ravel(),
            }
        )
        table.insert(2, "label", table["feature"].map(self.names))
        return table[table["carries"] > 0].reset_index(drop=True)

    def shares(self) -> pd.DataFrame:
        """Share of each attribute in the list before and after: attribute, before, after."""
        shares = {when: share(view.items, self.matrix) for when, view in self._views.items()}
        return pd.DataFrame({"attribute": self.counted, **shares})

    @property
    def _views(self) -> dict[str, View]:
        return {"before": self.before, "after": self.after}

    @property
    def attributes(self) -> list[str]:
        """The attributes that have a knob, in the order of the table."""
        return self.knobs["attribute"].unique().tolist()

    def behind(self, attribute: str) -> str:
        """The features that an attribute's knob turns, by weight and label of the atlas."""
        rows = self.knobs[self.knobs["attribute"] == attribute].itertuples()
        return ", ".join(f"{r.weight:+.2f} of {r.feature} ({self.names[r.feature]})" for r in rows)

    # How it is done

    def _go(self, state: State, knob: str | int | None = None) -> None:
        """To another state: what may fail comes first, so that a failure changes nothing."""
        after = self._look(state.history, state.scenario.edits(self.knobs))
        before = self.before
        if state.history != self.state.history:
            before = self._look(state.history, [])
        if knob is None or knob != self._turned:
            self.past.append(self.state)
        self._turned, self.state, self.before, self.after = knob, state, before, after

    @torch.no_grad()
    def _look(self, history: tuple[int, ...], edits: list[Edit]) -> View:
        items = np.array(history, dtype=np.int64)
        change, seen = sae_delta(self.dictionary, edits), []

        def delta(hidden: Tensor) -> Tensor:
            seen.append(hidden[0, -1].clone())
            return change(hidden)

        with steered(self.model, self.site, delta):
            scores = self.model.next_item_scores([items])
        code = self.dictionary.encode(seen[0])
        edited, std = code.clone(), self.dictionary.std
        for edit in edits:
            edited[edit.feature] += std * edit.change(code[edit.feature] / std)
        if scores.isnan().any():
            raise ValueError("the model has no answer any more: a knob stands too far out")
        unseen = recommender.unseen(scores, [items])
        rank = rankdata(-unseen[0], "min").astype(int)
        return View(recommender.best(unseen, N_ITEMS)[0].numpy(), rank, scores[0].numpy(), edited)


def _words(title: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", title.casefold()))


def _undated(words: frozenset[str]) -> frozenset[str]:
    return frozenset(word for word in words if not re.fullmatch(r"(19|20)\d\d", word))
