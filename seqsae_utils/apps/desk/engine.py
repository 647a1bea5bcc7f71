"""The steering desk without a screen: one user, knobs, and the lists before and after."""

import difflib
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import chain
from urllib.parse import parse_qs, urlencode

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from torch import Tensor

from ... import data, recommender, sae
from ...control import (
    NEAR,
    Edit,
    Scenario,
    raises,
    sae_delta,
    scenarios,
    share,
    solve,
    steered_scorer,
)
from ...workspace import StageError, Workspace, name_nearest
from .. import names

#: Length of a list; features, and items of the history, that are named for each of its items.
N_ITEMS, N_REASONS, N_BECAUSE = 10, 3, 2
#: The last items of a history that are left out, one at a time.
N_LEFT_OUT = 20
#: Users that can be chosen, and the largest strength of a knob.
N_USERS, MAX_STRENGTH = 1_000, 8.0
#: Moves of one knob within so many seconds are one step of undo.
A_MOVE = 1.0
#: Strengths that the dial tries before it raises scores for the rest; the first that is cheap wins.
CHEAP = 4.0, 3.0, 2.0, 1.0, 0.5


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
    edits: list[Edit]
    raised: np.ndarray  # [n_shares] logits that the items of each attribute dialled gained
    #: By attribute that the dial was asked for: strength of its features, logits it was raised by.
    dialled: dict[str, tuple[float, float]] = field(default_factory=dict)


class Desk:
    """The desk of any recommender. A call that is refused raises `ValueError`, changing nothing.

    `site` is the module whose states `dictionary` decomposes; `features` has the columns feature,
    label and density (concept, if known), and `knobs` attribute, feature and weight, as notebooks 5
    and 6 leave them.
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
        self.counted = [*self.dataset.attributes, data.POPULAR]
        labels = self.features["label"].fillna("")
        self.labels = dict(zip(self.features["feature"].tolist(), labels, strict=True))
        #: Of each feature, a label or two well-known items that it raises most.
        self.names = {f: label or self._like(f) for f, label in self.labels.items()}
        concepts = self.features.get("concept", labels).fillna("")
        #: Of each feature, what it is found by: its name, and the concept that it tells best.
        self.finding = {
            f: " · ".join(dict.fromkeys(filter(None, (self.names[f], concept))))
            for f, concept in zip(self.labels, concepts, strict=True)
        }
        self.alive = self.features.loc[self.features["density"] > 0, "feature"].tolist()
        self.alive.sort(key=lambda feature: not self.labels[feature])  # those with labels first
        self.sequences = dict(list(self.dataset.sequences("test").items())[:N_USERS])
        self._words = [_words(title) for title in self.dataset.unique_titles]
        self.past: list[State] = []
        self.future: list[State] = []
        self._turned: tuple[str | int | None, float] = None, 0.0
        user = next(iter(self.sequences))
        self.state = State(tuple(self.sequences[user].tolist()), user)
        self.before = self.after = self._look(self.state.history, Scenario())

    @classmethod
    def of(cls, profile: str) -> "Desk":
        """The desk of a profile; `StageError`, with what repairs it, if a stage is missing."""
        workspace = Workspace(profile)
        dataset = data.load(workspace.load("data"))
        knobs = workspace.load("control") / "knobs.parquet"
        if not knobs.is_file():
            way_out = f"run `make paper PROFILE={profile}`, or notebook 06_control"
            raise StageError(f"{knobs} is missing: {way_out}")
        model = recommender.load(workspace.load("recommender"))
        head = model.head.detach().numpy() if hasattr(model, "head") else None
        dictionary = sae.load(workspace.load("sae"))
        return cls(
            workspace.label,
            dataset,
            model,
            workspace.manifest("activations")["parameters"]["site"],
            dictionary,
            names.load(workspace, dataset, dictionary, head),
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
        items, unknown = [], []
        for line in lines:
            try:
                items.append(self.find(line))
            except ValueError as error:
                unknown.append(str(error))
        if unknown:
            raise ValueError("; ".join(unknown))
        self.take(items)

    def take(self, items: Iterable[int]) -> None:
        """Take items, oldest first, as history (`ValueError` for none or unknown); knobs stay."""
        history = tuple(dict.fromkeys(items))
        if not history or not {*history} <= {*range(1, self.dataset.n_items + 1)}:
            raise ValueError(f"a history has items from 1 to {self.dataset.n_items}, at least one")
        self._go(replace(self.state, history=history, user=None))

    def find(self, title: str) -> int:
        """The item of a title, in full, undated or by words; `ValueError` if none or several."""
        titles, wanted = self.dataset.unique_titles, _words(title)
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
        near = ", ".join(repr(titles[i]) for i in self._near(title))
        raise ValueError(f"nothing here is called {title!r}; nearest: {near}")

    def _near(self, title: str) -> list[int]:
        """The three items with the most similar words."""
        score = np.zeros(len(self._words))
        for word in _words(title):
            for near in difflib.get_close_matches(word, {*chain(*self._words)}, n=5):
                alike = difflib.SequenceMatcher(None, word, near).ratio()
                has = np.array([near in words for words in self._words])
                score += has * alike * len(word)
        length = np.array([len(words) for words in self._words])
        score[0] = -1.0  # padding is no title
        return np.lexsort((length, -score))[:3].tolist()

    def feature(self, text: str) -> int:
        """The feature of a text: its number, label, concept or an example; else `ValueError`."""
        if number := re.fullmatch(r"\s*#?(-?\d+)\s*(·.*)?", text):  # "7", or as a list shows it
            return int(number[1])
        said = {feature: self.finding[feature].casefold() for feature in self.alive}
        wanted = text.strip().casefold()
        same = [feature for feature in said if self.names[feature].casefold() == wanted]
        if wanted and (found := same or [f for f, name in said.items() if wanted in name]):
            return found[0]
        labels = list(dict.fromkeys(filter(None, self.labels.values())))
        raise ValueError(f"no feature {text!r}; {name_nearest(text, labels, n=3)}")

    def turn(self, knob: str | int, strength: float) -> None:
        """Turn an attribute, or a feature by its number, to a strength; 0 takes it out."""
        kind = "turn" if isinstance(knob, str) else "features"
        turned = {**getattr(self.state.scenario, kind), knob: strength}
        if strength == 0:
            del turned[knob]
        self.play(replace(self.state.scenario, **{kind: turned}), knob)  # type: ignore[arg-type]

    def play(self, scenario: Scenario, knob: str | int | None = None) -> None:
        """Set all knobs as in a scenario; `knob` names the one that moved, if it is one."""
        scenario.check(self.knobs, self.features)
        self._go(replace(self.state, scenario=scenario), knob)

    def dial(self, attribute: str, target: float | None, by: str = "both") -> None:
        """Ask for a share of the list, beside those asked for before; None takes one back.

        `by` is one of `control.scenarios.WAYS`, for all shares. `ValueError`, with what can be
        reached and at what price, if this list misses one of them.
        """
        asked = {name: of for name, of in self.state.scenario.share.items() if name != attribute}
        asked |= {attribute: target} if target is not None else {}
        scenario = replace(self.state.scenario, share=asked, by=by)
        scenario.check(self.knobs, self.features)
        self._go(replace(self.state, scenario=scenario), keeps_its_word=target is not None)

    def missed(self) -> list[str]:
        """What this list misses of the shares that were asked for, e.g. after another user came."""
        return self._missed(self.after, self.state.scenario)

    def _missed(self, view: View, scenario: Scenario) -> list[str]:
        found = dict(zip(self.counted, share(view.items, self.matrix), strict=True))
        off = [name for name, of in scenario.share.items() if abs(found[name] - of) > NEAR]
        if not off:
            return []
        text = ", ".join(
            f"{name} at {found[name]:.0%}, not {scenario.share[name]:.0%}" for name in off
        )
        kept = len({*view.items} & {*self.before.items} - {0})
        said = [f"the nearest list has {text}, and keeps {kept} of the {N_ITEMS} items"]
        if scenario.by != "features":
            return said + ["raising scores finds no list with all of these shares"]
        other = replace(scenario, by="both")
        if not self._missed(view := self._look(self.state.history, other), other):
            kept = len({*view.items} & {*self.before.items} - {0})
            said.append(f"features alone do not get there; both do, and keep {kept}")
        return said

    def imagine(self, scenario: Scenario) -> list[str]:
        """The titles of the list that a scenario would give; nothing changes."""
        items = self._look(self.state.history, scenario).items
        return [self.dataset.unique_titles[item] for item in items if item]

    def address(self, **pins: Scenario) -> str:
        """The state, and pins by letter, as the query of an address, which `visit` reads."""
        who = {"user": self.state.user}
        if self.state.user is None:
            who = {"history": ",".join(map(str, self.state.history))}
        said = {"scenario": self.state.scenario, **pins}.items()
        return urlencode(who | {name: scenarios.write(one) for name, one in said if one})

    def visit(self, query: str) -> None:
        """Go where an address says; `ValueError` for what is not here, with the rest done."""
        asked = {name: values[-1] for name, values in parse_qs(query).items()}
        if "history" in asked:
            self.take(map(int, re.findall(r"\d+", asked["history"])))
        elif "user" in asked:
            self.choose({str(user): user for user in self.sequences}.get(asked["user"], -1))
        for scenario in scenarios.parse(asked.get("scenario", "{}"), "address").values():
            self.play(scenario)

    def undo(self) -> None:
        """Undo the last change (moves of one knob in a second are one); `ValueError` for none."""
        self._back(self.past, self.future, "nothing to undo")

    def redo(self) -> None:
        """Do again what was undone; `ValueError` if there is nothing."""
        self._back(self.future, self.past, "nothing to redo")

    def _back(self, steps: list[State], others: list[State], none: str) -> None:
        if not steps:
            raise ValueError(none)
        others.append(self.state)
        self._show(steps.pop())

    def lists(self) -> pd.DataFrame:
        """The two lists, a row for each place; numbers are NaN where there is no item.

        place; item, title, attributes, rank, each _before and _after; logit_change.
        """
        rows = {"place": np.arange(1, N_ITEMS + 1)}
        described = self.dataset.items.set_index("item")
        described["title"] = self.dataset.unique_titles[1:]
        for when, view in {"before": self.before, "after": self.after}.items():
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
        """`setting_apart` of the list after; turned: the part of carries that edits brought."""
        table = self.setting_apart(self.after.code, self.after.items[self.after.items > 0])
        after, before = (view.code.numpy()[table["feature"]] for view in (self.after, self.before))
        return table.assign(turned=table["carries"] * (1 - before / after))

    @torch.no_grad()
    def setting_apart(self, code: Tensor, items: np.ndarray) -> pd.DataFrame:
        """The features that set each item of a list apart, the strongest first.

        From the last position's code [d_sae]. Columns item, feature, name, carries: value *
        (decoder direction . head row), over the average of the list. It reads a direction straight
        at the head; blocks in between may change it, so these are not shares of the logit. The name
        is the label, unless it names an attribute that the item lacks; then examples. A model
        without a linear `head` has no such reasons, and the table no rows.
        """
        head = self._head[items]
        push = self.dictionary.W_dec.detach() @ (head - head.mean(dim=0)).T
        carries, features = (code[:, None] * push).topk(min(2 * N_REASONS, len(push)), dim=0)
        found = {"feature": features, "carries": carries}
        table = pd.DataFrame({name: values.T.ravel().numpy() for name, values in found.items()})
        table.insert(0, "item", np.repeat(items, len(features)))
        names = [self._named(item, feature) for item, feature, _ in table.itertuples(index=False)]
        table.insert(2, "name", names)
        table = table[table["carries"] > 0].drop_duplicates(["item", "name"])
        return table.groupby("item", sort=False).head(N_REASONS).reset_index(drop=True)

    def because(self) -> dict[int, list[int]]:
        """The items of the history that set each item of the list after apart, strongest first.

        Each of the last `N_LEFT_OUT` is left out once, with all edits as they are: these cost the
        item most, compared with the rest of the list.
        """
        history, items = np.array(self.state.history), self.after.items[self.after.items > 0]
        delta = sae_delta(self.dictionary, self.after.edits)
        scorer = steered_scorer(self.model, self.site, delta)
        if not len(lost := losses(scorer, history, items, N_LEFT_OUT)):
            return {}
        apart = lost - lost.mean(axis=1, keepdims=True)
        apart[lost <= 0] = 0.0
        apart = np.where((apart > 0).any(axis=0), apart, lost)
        order = history[-len(lost) :][np.argsort(-apart, axis=0)[:N_BECAUSE]]
        kept = -np.sort(-apart, axis=0)[:N_BECAUSE] > 0
        return {i: order[kept[:, j], j].tolist() for j, i in enumerate(items.tolist())}

    @property
    def _head(self) -> Tensor:
        none = torch.zeros(self.dataset.n_items + 1, self.dictionary.config.d_in)
        return getattr(self.model, "head", none).detach()

    def _like(self, feature: int) -> str:
        """Two well-known items that a feature raises most, straight from its direction."""
        known = np.flatnonzero(self.matrix[:, -1])
        heads = torch.nn.functional.normalize(self._head[known] - self._head[known].mean(dim=0))
        gained = (heads @ self.dictionary.W_dec[feature].detach()).numpy()
        if not gained.any():
            return "unnamed"
        best = known[np.argsort(-gained, kind="stable")[:2]]
        return f"like {' and '.join(self.dataset.titles[item] for item in best)}"

    def _named(self, item: int, feature: int) -> str:
        """A feature's name as a reason for an item: examples where the label does not fit it."""
        said = {*self.names[feature].split(" + ")} & {*self.dataset.attributes}
        held = dict(zip(self.dataset.attributes, self.matrix[item], strict=False))
        return self.names[feature] if all(held[name] for name in said) else self._like(feature)

    def shares(self) -> pd.DataFrame:
        """Share of each attribute in the list before and after: attribute, before, after."""
        before, after = (share(view.items, self.matrix) for view in (self.before, self.after))
        return pd.DataFrame({"attribute": self.counted, "before": before, "after": after})

    def behind(self, attribute: str) -> str:
        """The features that an attribute's knob turns, with weights and labels."""
        rows = self.knobs[self.knobs["attribute"] == attribute].itertuples()
        return ", ".join(f"{r.weight:+.2f} of {r.feature} ({self.names[r.feature]})" for r in rows)

    def _go(
        self, state: State, knob: str | int | None = None, keeps_its_word: bool = False
    ) -> None:
        """Go to another state: what may fail comes first, so that a failure changes nothing."""
        old, now, (last, when) = self.state, time.monotonic(), self._turned
        self._show(state, keeps_its_word)
        if knob is None or knob != last or now > when + A_MOVE:
            self.past.append(old)
        self._turned, self.future = (knob, now), []

    def _show(self, state: State, keeps_its_word: bool = False) -> None:
        after = self._look(state.history, state.scenario)
        same = state.history == self.state.history
        before = self.before if same else self._look(state.history, Scenario())
        if keeps_its_word and (missed := self._missed(after, state.scenario)):
            raise ValueError("; ".join([*missed, "the old knobs are back"]))
        self._turned, self.state, self.before, self.after = (None, 0.0), state, before, after

    def _look(self, history: tuple[int, ...], scenario: Scenario) -> View:
        """The list of a scenario, its shares solved: for both ways, features as far as is cheap.

        Cheap is a strength that keeps as many items as scores raised alone, which keep the most
        that any list with these shares can, and that needs no score lowered again.
        """
        names, plain = [*scenario.share], self._scored(history, scenario.edits(self.knobs))
        if not names:
            return plain
        matrix = self.matrix[:, [self.counted.index(name) for name in names]]
        wanted = np.array([*scenario.share.values()])

        def turned(strengths: np.ndarray, to: np.ndarray | None = wanted) -> View:
            turn = {
                n: scenario.turn.get(n, 0.0) + strength
                for n, strength in zip(names, strengths, strict=True)
            }
            edits = replace(scenario, turn=scenario.turn | turn).edits(self.knobs)
            view = self._scored(history, edits, matrix, to)
            by = zip(np.round(strengths, 3).tolist(), view.raised.tolist(), strict=True)
            return replace(view, dialled=dict(zip(names, by, strict=True)))

        strengths = np.zeros(len(names))
        if scenario.by == "features":
            for j in [*range(len(names))] * min(2, len(names)):  # one may move another: twice

                def share_of(strength: np.ndarray, j: int = j) -> np.ndarray:
                    strengths[j] = strength[0]
                    return share(turned(strengths, None).items, matrix)[j : j + 1]

                strengths[j] = solve(share_of, wanted[j], 1, MAX_STRENGTH)["strength"][0]
            return turned(strengths, None)
        raised, way = turned(strengths), np.sign(wanted - share(plain.items, matrix))
        for strength in CHEAP if scenario.by == "both" else ():
            view = turned(strength * way)
            kept, most = (len({*found.items} & {*plain.items}) for found in (view, raised))
            off, least = (np.abs(share(v.items, matrix) - wanted).sum() for v in (view, raised))
            if kept >= most and off <= least + 1e-9 and (view.raised * way >= 0).all():
                return view
        return raised

    @torch.no_grad()
    def scored(self, histories: list[np.ndarray], edits: list[Edit]) -> tuple[Tensor, Tensor]:
        """Scores under edits [n_histories, n_items + 1]; the edited codes that predict [.., d_sae].

        The codes are those of the last positions, at which the next item is predicted.
        """
        change, seen = sae_delta(self.dictionary, edits), []
        padded = self.model.pad(histories)
        last = padded.shape[1] - 1 - (padded > 0).int().flip(1).argmax(dim=1)

        def delta(hidden: Tensor) -> Tensor:
            seen.append(hidden[torch.arange(len(hidden)), last].clone())
            return change(hidden)

        scores = steered_scorer(self.model, self.site, delta)(histories)
        code, std = self.dictionary.encode(seen[0]), self.dictionary.std
        edited = code.clone()
        for edit in edits:
            edited[:, edit.feature] += std * edit.change(code[:, edit.feature] / std)
        return scores, edited

    def _scored(
        self,
        history: tuple[int, ...],
        edits: list[Edit],
        matrix: np.ndarray | None = None,
        shares: np.ndarray | None = None,
    ) -> View:
        items = np.array(history, dtype=np.int64)
        scores, codes = self.scored([items], edits)
        if scores.isnan().any():
            raise ValueError("the model has no answer any more: a knob stands too far out")
        unseen = recommender.unseen(scores, [items])
        raised = np.zeros(0 if matrix is None else matrix.shape[1])
        if matrix is not None and shares is not None:
            raised = raises(unseen[0].numpy(), matrix, shares)
            added = torch.from_numpy(matrix @ raised).to(scores)
            scores, unseen = scores + added, unseen + added
        rank = rankdata(-unseen[0], "min").astype(int)
        listed = recommender.best(unseen, N_ITEMS)[0].numpy()
        return View(listed, rank, scores[0].numpy(), codes[0], edits, raised)


@torch.no_grad()
def losses(
    scorer: recommender.Scorer, history: np.ndarray, items: np.ndarray, n: int
) -> np.ndarray:
    """Nats that items lose without each of the last `n` of a history [n, n_items], oldest first.

    A history of one item has nothing to leave out: no row.
    """
    some = range(max(0, len(history) - n), len(history)) if len(history) > 1 else ()
    histories = [history, *(np.delete(history, i) for i in some)]
    scores = scorer(histories).log_softmax(dim=1)[:, items]
    return (scores[0] - scores[1:]).numpy()


def _words(title: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", title.casefold()))


def _undated(words: frozenset[str]) -> frozenset[str]:
    return frozenset(word for word in words if not re.fullmatch(r"(19|20)\d\d", word))
