"""Scenarios: named presets that turn several knobs at once, as a person writes them.

A scenario is a few lines of YAML under its name, each of them optional but one::

    family evening:
      about: more for children, nothing that frightens
      turn: {Children's: 3, Animation: 2}   # attribute: dose
      features: {102: 1.5}                  # number of a feature: dose
      suppress: [Horror, 76]                # attributes, or numbers of features

The knobs of attributes are a table with a row for each attribute and feature (attribute, feature,
weight): to turn an attribute by a dose adds dose * weight to each of its features.
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from numbers import Real
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from ..recommender import Ranking
from ..sae import SAE
from ..workspace import fsync, name_nearest
from .curves import share
from .edits import Delta, Edit, sae_delta

#: What a scenario may say, and how it is written.
FORMS = {
    "about": (str, "a line of text"),
    "turn": (dict, "attribute: dose"),
    "features": (dict, "number of a feature: dose"),
    "suppress": (list, "a list of attributes or numbers of features"),
}
#: Larger doses would leave no trace of the user; states are of the order of 1.
LARGEST = 100.0
#: Where suppression holds a feature, times its weight: Horror's share of ML-1M's lists falls from
#: 6.4 % to 0.9 % (at 0, to 4.3 %).
SUPPRESSED = -2.0


@dataclass(frozen=True)
class Scenario:
    """Where the knobs stand; doses are in units of the normalised space.

    turn : attribute -> dose
    features : number of a feature -> dose
    suppress : attributes, and numbers of features, that are silenced
    """

    name: str = "untitled"
    about: str = ""
    turn: dict[str, float] = field(default_factory=dict)
    features: dict[int, float] = field(default_factory=dict)
    suppress: tuple[str | int, ...] = ()

    def __post_init__(self):
        for knob, dose in (*self.turn.items(), *self.features.items()):
            if isinstance(dose, bool) or not isinstance(dose, Real):
                raise ValueError(f"{knob!r}: a dose is a number, not {dose!r}")
            if not abs(dose) <= LARGEST:  # which NaN is not either
                raise ValueError(
                    f"{knob!r}: a knob cannot stand at {dose}; "
                    f"doses go from -{LARGEST:g} to {LARGEST:g}"
                )

    def check(self, knobs: pd.DataFrame, features: pd.DataFrame) -> None:
        """Refuse what cannot be turned here: `ValueError`, naming the nearest that can.

        `features` has a row for each feature of the dictionary: feature, density (0: dead).
        """
        attributes = knobs["attribute"].unique().tolist()
        named = [what for what in self.suppress if isinstance(what, str)]
        for attribute in (*self.turn, *named):
            if attribute not in attributes:
                nearest = name_nearest(attribute, attributes)
                raise ValueError(f"attribute {attribute!r} has no knob; {nearest}")
        density = features.set_index("feature")["density"]
        for feature in (*self.features, *(w for w in self.suppress if not isinstance(w, str))):
            if feature not in density.index:
                raise ValueError(
                    f"feature {feature}: the SAE has features 0 to {density.index.max()}"
                )
            if density[feature] == 0:
                raise ValueError(
                    f"feature {feature} is dead: it never fires, so nobody knows what it does"
                )

    def edits(self, knobs: pd.DataFrame) -> list[Edit]:
        """An edit for each feature that is suppressed, and for each that is turned.

        Suppressed are the features that speak for an attribute; one whose weight is negative
        speaks against it, and stays. Silence alone does little, because what a feature does not
        say others do: at 0, the feature of Horror leaves two thirds of its share of ML-1M's lists.
        So it is set below 0, to `SUPPRESSED`.
        """
        added: dict[int, float] = dict(self.features)
        held = {what: SUPPRESSED for what in self.suppress if not isinstance(what, str)}
        columns = ["attribute", "feature", "weight"]
        for attribute, feature, weight in knobs[columns].itertuples(index=False):
            if attribute in self.turn:
                added[feature] = added.get(feature, 0.0) + self.turn[attribute] * weight
            if attribute in self.suppress and weight > 0:  # shared features: the lowest value holds
                held[feature] = min(held.get(feature, 0.0), SUPPRESSED * weight)
        return [Edit(int(f), float(value), "set") for f, value in held.items()] + [
            Edit(int(f), float(dose)) for f, dose in added.items()
        ]


def read(file: Path) -> dict[str, Scenario]:
    """The scenarios of a YAML file, by name; see `parse`."""
    return parse(file.read_text(encoding="utf-8"), file.name)


def parse(text: str, source: str = "scenario") -> dict[str, Scenario]:
    """The scenarios of a YAML text, by name.

    Whether a profile has such knobs is another question: `Scenario.check`.

    Raises
    ------
    ValueError
        If it is not as the head of this module says; the message names the place, and the
        nearest right key.
    """
    try:
        _refuse_repeated_keys(yaml.compose(text, yaml.SafeLoader), source)
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1
        raise ValueError(f"{source}: line {line} is not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{source} is not YAML: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{source}: expected names, each with {', '.join(FORMS)} below it")
    return {name: _scenario(name, given, source) for name, given in content.items()}


def _scenario(name: str, given: dict, source: str) -> Scenario:
    where = f"{source}: {name!r}"
    if not isinstance(name, str):
        raise ValueError(f"{where}: a name is text; put it in quotes")
    if not isinstance(given, dict) or not {*given} - {"about"}:
        raise ValueError(f"{where} turns nothing; it takes {', '.join(FORMS)}")
    for key, value in given.items():
        if key not in FORMS:
            raise ValueError(f"{where}: no key {key!r}; {name_nearest(str(key), [*FORMS])}")
        kind, written = FORMS[key]
        if not isinstance(value, kind):
            raise ValueError(f"{where}: {key} is {value!r}, expected {written}")
    for key, kinds in {"turn": str, "features": int, "suppress": (str, int)}.items():
        for knob in given.get(key, ()):
            if isinstance(knob, bool) or not isinstance(knob, kinds):
                raise ValueError(f"{where}: {key} has {knob!r}, expected {FORMS[key][1]}")
    try:
        return Scenario(name, **given | {"suppress": tuple(given.get("suppress", ()))})
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _refuse_repeated_keys(node: yaml.Node | None, source: str, depth: int = 3) -> None:
    """YAML would let the last one win. Below the doses nothing is read, so nothing is looked at."""
    if not isinstance(node, yaml.MappingNode) or not depth:
        return
    seen = set()
    for key, value in node.value:
        if str(key.value) in seen:
            line = key.start_mark.line + 1
            raise ValueError(f"{source}: line {line} has {key.value!r} a second time")
        seen.add(str(key.value))
        _refuse_repeated_keys(value, source, depth - 1)


def write(scenario: Scenario) -> str:
    """The YAML of one scenario, which `parse` reads back.

    >>> print(write(Scenario("quiet", turn={"War": -2.0}, suppress=("Horror", 7))), end="")
    quiet:
      turn: {War: -2.0}
      suppress: [Horror, 7]
    """
    given = {key: value for key, value in asdict(scenario).items() if value and key != "name"}
    if scenario.suppress:
        given["suppress"] = list(scenario.suppress)
    return yaml.safe_dump(
        {scenario.name: given}, sort_keys=False, allow_unicode=True, default_flow_style=None
    )


def apply(
    scenario: Scenario,
    knobs: pd.DataFrame,
    dictionary: SAE,
    ranking_of: Callable[[Delta | None], Ranking],
    users: list[int],
    names: list[str],
    attribute_matrix: np.ndarray,
) -> pd.DataFrame:
    """What a scenario does to the lists of some users, or of one.

    Parameters
    ----------
    ranking_of
        Ranks the catalogue for these users under an edit, None being none.
    users
        Their numbers, in the order of the ranking.
    names
        Names of the columns of `attribute_matrix`, [n_items + 1, n_attributes].

    Returns
    -------
    pandas.DataFrame
        A row for each user and attribute: user, attribute, and its share of the list, before and
        after.
    """
    delta = sae_delta(dictionary, scenario.edits(knobs))
    shares = {
        when: share(ranking_of(edit).lists, attribute_matrix).ravel()
        for when, edit in {"before": None, "after": delta}.items()
    }
    rows = {"user": np.repeat(users, len(names)), "attribute": np.tile(names, len(users))}
    return pd.DataFrame(rows | shares)


def log(file: Path, scenario: Scenario, knobs: pd.DataFrame, effect: pd.DataFrame) -> None:
    """Append to a log what was applied to whom, and what came of it: one line of JSON.

    `effect` is what `apply` returned; the line has the mean of the shares over its users. The
    line is written at once, and starts anew where a kill left half of one: see `read_log`.
    """
    mean = effect.groupby("attribute", sort=False)[["before", "after"]].mean().round(6)
    line = {
        "users": effect["user"].unique().tolist(),
        "scenario": asdict(scenario),
        "edits": [asdict(edit) for edit in scenario.edits(knobs)],
        **mean.to_dict(),
    }
    text = json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"
    with open(file, "ab+", buffering=0) as lines:
        if lines.tell():
            lines.seek(-1, os.SEEK_END)
            text = text if lines.read(1) == b"\n" else "\n" + text
        lines.write(text.encode())
    fsync(file)


def read_log(file: Path) -> list[dict]:
    """The lines of a log, oldest first; half a line, which a kill may leave, is passed over."""
    found = []
    for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:  # the beginning of an object is never valid JSON
            continue
    return found
