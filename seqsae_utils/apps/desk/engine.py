"""The steering desk without a screen: one user, knobs, and the lists before and after."""

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
from ...workspace import StageError, Workspace, name_nearest

#: Length of a list, and features that are named for each of its items.
N_ITEMS, N_REASONS = 10, 3
#: Users that can be chosen, and the largest strength of a knob.
N_USERS, MAX_STRENGTH = 1_000, 8.0


@dataclass(frozen=True)
class State:
    """What undo restores: the history's items, whose it is (None: composed), the knobs."""

    history: tuple[int, ...]
    user: int | None = None
    scenario: Scenario = field(default_factory=lambda: Scenario("my scenario"))


@dataclass(frozen=True)
class View:
    """What the model makes of a history."""

    items: np.ndarray  # [N_ITEMS], best first, 0 where none is left
    rank: np.ndarray  # [n_items + 1] among unseen items, from 1
    scores: np.ndarray  # [n_items + 1]
    code: Tensor  # [d_sae] of the state that predicts, edits included


class Desk:
    """The desk of any recommender. A call that is refused raises `ValueError`, changing nothing.

    `site` is the module whose states `dictionary` decomposes; `features` has the columns feature,
    label and density, and `knobs` attribute, feature and weight, as notebooks 5 and 6 leave them.
    """

    def __init__(
        self,
        label: str,
        dataset: data.Dataset,
        model: recommender.Recommender,
        site: str,
        dictionary: sae.SAE,
        features: pd.DataFrame,
        knobs: pd.DataFrame,
    ):
        self.label, self.dataset, self.model, self.site = label, dataset, model, site
        self.dictionary, self.features, self.knobs = dictionary, features, knobs
        #: The attributes that have a knob, in the order of the table.
        self.attributes = self.knobs["attribute"].unique().tolist()
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

    @classmethod
    def of(cls, profile: str) -> "Desk":
        """The desk of a profile; `StageError`, with what repairs it, if a stage is missing."""
        workspace = Workspace(profile)
        dataset = data.load(workspace.load("data"))
        knobs = workspace.load("control") / "knobs.parquet"
        if not knobs.is_file():
            way_out = f"run `make paper PROFILE={profile}`, or notebook 06_control"
            raise StageError(f"{knobs} is missing: {way_out}")
        return cls(
            workspace.label,
            dataset,
            recommender.load(workspace.load("recommender")),
            workspace.manifest("activations")["parameters"]["site"],
            sae.load(workspace.load("sae")),
            pd.read_parquet(workspace.load("interpretability") / "features.parquet"),
            pd.read_parquet(knobs),
        )

    def choose(self, user: int) -> None:
        """Take the history of a test user (else `ValueError`); the knobs stay where they are."""
        if user not in self.sequences:
            known = ", ".join(map(str, [*self.sequences][:5]))
            raise ValueError(f"user {user!r} is no test user; there are {known}, ...")
        self._go(replace(self.state, history=tuple(self.sequences[user].tolist()), user=user))

    def compose(self, text: str) -> None:
        """Take titles, one a line, oldest first, as history (`ValueError` for none); knobs stay."""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if not lines:
            raise ValueError("no titles: write one a line, the oldest first")
        items = dict.fromkeys(self.find(line) for line in lines)
        self._go(replace(self.state, history=tuple(items), user=None))

    def find(self, title: str) -> int:
        """The item of a title, in full, undated or by words; `ValueError` if none or several."""
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
            few = ", ".join(repr(titles[i]) for i in found[:4]) + ", ..." * (len(found) > 4)
            raise ValueError(f"{title!r} may be {few}: spell one of them out")
        near = name_nearest(title, titles[1:], n=3)
        raise ValueError(f"nothing here is called {title!r}; {near}")

    def feature(self, text: str) -> int:
        """The feature of a text that starts with its number, or is a label; else `ValueError`."""
        if number := re.match(r"\s*#?(-?\d+)\b(?!s)", text):
            return int(number[1])
        labels = {self.names[feature]: feature for feature in reversed(self.alive)}
        if text.strip() not in labels:
            raise ValueError(f"no feature {text!r}; {name_nearest(text, [*labels], n=3)}")
        return labels[text.strip()]

    def turn(self, knob: str | int, strength: float) -> None:
        """Turn an attribute, or a feature by its number, to a strength; 0 takes it out."""
        kind = "turn" if isinstance(knob, str) else "features"
        turned = {**getattr(self.state.scenario, kind), knob: strength}
        if strength == 0:
            del turned[knob]
        self.play(replace(self.state.scenario, **{kind: turned}), knob)  # type: ignore[arg-type]

    def suppress(self, attribute: str, on: bool = True) -> None:
        """Suppress an attribute, or stop to suppress it."""
        kept = [what for what in self.state.scenario.suppress if what != attribute]
        self.play(replace(self.state.scenario, suppress=tuple(kept + [attribute] * on)))

    def play(self, scenario: Scenario, knob: str | int | None = None) -> None:
        """Set all knobs as in a scenario; `knob` names the one that moved, if it is one."""
        scenario.check(self.knobs, self.features)
        self._go(replace(self.state, scenario=scenario), knob)

    def dial(self, attribute: str, target: float) -> float:
        """Turn an attribute until it has the share `target` of the list; returns its share."""
        scenario = self.state.scenario
        replace(scenario, turn={attribute: 0.0}).check(self.knobs, self.features)

        def share_of(strengths: np.ndarray) -> np.ndarray:
            turned = {**scenario.turn, attribute: float(strengths[0])}
            edits = replace(scenario, turn=turned).edits(self.knobs)
            items = self._look(self.state.history, edits).items
            held = self.matrix[items, self.counted.index(attribute)]
            return held.mean(keepdims=True, dtype=float)

        (found,) = solve(share_of, target, 1, MAX_STRENGTH).itertuples()
        self.turn(attribute, round(found.strength, 3))
        return found.share

    def undo(self) -> None:
        """Undo the last change (moves of one knob are one); `ValueError` if there is none."""
        if not self.past:
            raise ValueError("nothing to undo")
        self._go(self.past[-1])
        del self.past[-2:]

    def lists(self) -> pd.DataFrame:
        """The two lists, a row for each place; numbers are NaN where there is no item.

        place; item, title, attributes, rank, each _before and _after; logit_change.
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
        """The features that contribute most to each item of the list after, the strongest first.

        item, feature, label, carries: value * (decoder direction . head row), over the average
        item, and turned: the part that edits brought. It reads a direction straight at the head;
        blocks in between may change it, so these are not shares of the logit. A model without a
        linear `head` has no such reasons, and the table no rows.
        """
        items = self.after.items[self.after.items > 0]
        if (head := getattr(self.model, "head", None)) is None:
            head = torch.zeros(self.dataset.n_items + 1, self.dictionary.config.d_in)
        push = logit_lens(self.dictionary.W_dec.detach(), head.detach())[:, items]
        carries, features = (self.after.code[:, None] * push).topk(N_REASONS, dim=0)
        turned = ((self.after.code - self.before.code)[:, None] * push).gather(0, features)
        found = {"feature": features, "carries": carries, "turned": turned}
        table = pd.DataFrame({name: values.T.ravel().numpy() for name, values in found.items()})
        table.insert(0, "item", np.repeat(items, N_REASONS))
        table.insert(2, "label", table["feature"].map(self.names))
        return table[table["carries"] > 0].reset_index(drop=True)

    def shares(self) -> pd.DataFrame:
        """Share of each attribute in the list before and after: attribute, before, after."""
        shares = {when: share(view.items, self.matrix) for when, view in self._views.items()}
        return pd.DataFrame({"attribute": self.counted, **shares})

    @property
    def _views(self) -> dict[str, View]:
        return {"before": self.before, "after": self.after}

    def behind(self, attribute: str) -> str:
        """The features that an attribute's knob turns, with weights and labels."""
        rows = self.knobs[self.knobs["attribute"] == attribute].itertuples()
        return ", ".join(f"{r.weight:+.2f} of {r.feature} ({self.names[r.feature]})" for r in rows)

    def _go(self, state: State, knob: str | int | None = None) -> None:
        """Go to another state: what may fail comes first, so that a failure changes nothing."""
        after = self._look(state.history, state.scenario.edits(self.knobs))
        same = state.history == self.state.history
        before = self.before if same else self._look(state.history, [])
        if knob is None or knob != self._turned:
            self.past.append(self.state)
        self._turned, self.state, self.before, self.after = knob, state, before, after

    @torch.no_grad()
    def _look(self, history: tuple[int, ...], edits: list[Edit]) -> View:
        items = np.array(history, dtype=np.int64)
        change, seen = sae_delta(self.dictionary, edits), []
        last = int(self.model.pad([items])[0].nonzero()[-1])

        def delta(hidden: Tensor) -> Tensor:
            seen.append(hidden[0, last].clone())
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
