"""Scenarios: named presets that turn several knobs at once, as a person writes them.

A scenario is a name with lines of YAML; at least one of turn, features, suppress, share::

    family evening:
      about: more for children, nothing that frightens
      turn: {Children's: 3, Animation: 2}   # attribute: strength
      features: {102: 1.5}                  # number of a feature: strength
      suppress: [Horror, 76]                # attributes, or numbers of features
      share: {Sci-Fi: 0.5, Horror: 0}       # attribute: share of the list, which the desk solves
      by: both                              # how: features, scores or both

Knobs are a table (attribute, feature, weight): a strength adds strength * weight to each feature.
"""

import json
import re
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from numbers import Real
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from ..recommender import Ranking
from ..sae import SAE
from ..workspace import name_nearest, write_text
from .curves import share
from .edits import Delta, Edit, sae_delta

#: What a scenario may say: its type, that of what is in it, and how it is written.
FORMS = {
    "about": (str, str, "a line of text"),
    "turn": (dict, str, "attribute: strength"),
    "features": (dict, int, "number of a feature: strength"),
    "suppress": (list, (str, int), "a list of attributes or numbers of features"),
    "share": (dict, str, "attribute: share of the list, from 0 to 1"),
    "by": (str, str, "features, scores or both"),
}
#: How shares are reached: features as far as they are cheap and scores for the rest, or only one.
WAYS = "both", "features", "scores"
#: Larger strengths would leave no trace of the user; states are of the order of 1.
LARGEST = 100.0
#: Where suppression holds a feature, times its weight: Horror's share of ML-1M's lists falls from
#: 6.4 % to 0.9 % (at 0, to 4.3 %).
SUPPRESSED = -2.0


@dataclass(frozen=True)
class Scenario:
    """Where the knobs stand, in standard deviations of hidden states; ValueError over `LARGEST`.

    `share` is what the dial is asked for: it is solved for each user, `by` one of `WAYS`.
    """

    name: str = "untitled"
    about: str = ""
    turn: dict[str, float] = field(default_factory=dict)
    features: dict[int, float] = field(default_factory=dict)
    suppress: tuple[str | int, ...] = ()
    share: dict[str, float] = field(default_factory=dict)
    by: str = "both"

    def __post_init__(self):
        if self.by not in WAYS:
            raise ValueError(f"by {self.by!r}: choose from {', '.join(WAYS)}")
        for what, value in self.share.items():
            if not (_is_number(value) and 0 <= value <= 1):
                between = "a share lies between 0 and 1 (40 % is 0.4)"
                raise ValueError(f"{what!r}: {between}, not {value!r}")
        for knob, value in (*self.turn.items(), *self.features.items()):
            if not _is_number(value):
                raise ValueError(f"{knob!r}: a strength is a number, not {value!r}")
            if not abs(value) <= LARGEST:  # also rejects NaN
                raise ValueError(
                    f"{knob!r}: a knob cannot stand at {value}; "
                    f"strengths go from -{LARGEST:g} to {LARGEST:g}"
                )

    def __bool__(self):
        """Whether it turns anything."""
        return any((self.turn, self.features, self.suppress, self.share))

    def check(self, knobs: pd.DataFrame, features: pd.DataFrame) -> None:
        """`ValueError` for what cannot be turned here; `features` has feature and density."""
        attributes = knobs["attribute"].unique().tolist()
        density = features.set_index("feature")["density"]
        for what in (*self.turn, *self.features, *self.suppress, *self.share):
            if isinstance(what, str):
                if what not in attributes:
                    nearest = name_nearest(what, attributes)
                    raise ValueError(f"attribute {what!r} has no knob; {nearest}")
            elif what not in density:
                raise ValueError(f"feature {what}: the SAE has features 0 to {density.index.max()}")
            elif density[what] == 0:
                raise ValueError(
                    f"feature {what} is dead: it never fires, so nobody knows what it does"
                )

    def edits(self, knobs: pd.DataFrame) -> list[Edit]:
        """An edit for each feature that is suppressed, and for each that is turned.

        Of a suppressed attribute, the features of positive weight are set below 0, to `SUPPRESSED`
        times the weight: silence alone does little, because other features say the same.
        """
        added = dict(self.features)
        held = {what: SUPPRESSED for what in self.suppress if not isinstance(what, str)}
        for row in knobs.itertuples(index=False):
            if row.attribute in self.turn:
                turned = self.turn[row.attribute] * row.weight
                added[row.feature] = added.get(row.feature, 0.0) + turned
            if row.attribute in self.suppress and row.weight > 0:  # the lowest of shared ones
                held[row.feature] = min(held.get(row.feature, 0.0), SUPPRESSED * row.weight)
        suppressed = [Edit(int(feature), float(value), "set") for feature, value in held.items()]
        return suppressed + [Edit(int(feature), float(value)) for feature, value in added.items()]


def _is_number(value) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


class UniqueKeys(yaml.SafeLoader):
    """YAML lets the last of two equal keys win; this one refuses them, and says where a value is.

    ConstructorError at a key that comes a second time, or at a value that is none of its kind, such
    as a thirteenth month.
    """

    def construct_mapping(self, node, deep=False):
        """The mapping of a node."""
        seen = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                text = f"{key.value!r} comes a second time"
                raise yaml.constructor.ConstructorError(None, None, text, key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)

    def construct_object(self, node, deep=False):
        """The value of a node."""
        try:
            return super().construct_object(node, deep)
        except (AttributeError, LookupError, ValueError) as error:
            text = f"{str(node.value)[:20]!r} cannot be read: {error}"
            raise yaml.constructor.ConstructorError(None, None, text, node.start_mark) from None


def load_yaml(text: str):
    """The content of a YAML text; `ValueError` with its line where it is none, see `UniqueKeys`."""
    try:
        return yaml.load(text, UniqueKeys)
    except yaml.MarkedYAMLError as error:
        line, what = f"line {error.problem_mark.line + 1} is ", error.problem
    except yaml.YAMLError as error:
        line, what = "", str(error).partition("\n")[0]
    except RecursionError:
        line, what = "", "brackets or lines are nested too deep"
    raise ValueError(f"{line}not YAML: {what}")


def read(file: Path) -> dict[str, Scenario]:
    """The scenarios of a YAML file, by name; none without one, or of comments; see `parse`."""
    try:
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
    except UnicodeDecodeError as error:
        raise ValueError(f"{file.name} is not UTF-8: {error}; save it anew") from None
    return parse(text, file.name) if re.search(r"(?m)^\s*[^#\s]", text) else {}


def parse(text: str, source: str = "scenario") -> dict[str, Scenario]:
    """The scenarios of a YAML text by name; a `ValueError` says where and names the right key."""
    try:
        content = load_yaml(text)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{source}: expected names, each with {', '.join(FORMS)} below it")
    found = {}
    for name, given in content.items():
        try:
            found[name] = _scenario(name, given)
        except ValueError as error:
            raise ValueError(f"{source}: {name!r}: {error}") from None
    return found


def fitting(
    presets: dict[str, Scenario], knobs: pd.DataFrame, features: pd.DataFrame
) -> tuple[dict[str, Scenario], list[str]]:
    """The scenarios that can be turned here, and a line for each other: its name and why not.

    Arguments as in `Scenario.check`.
    """
    fit, unfit = {}, []
    for name, scenario in presets.items():
        try:
            scenario.check(knobs, features)
            fit[name] = scenario
        except ValueError as error:
            unfit.append(f"{name}: {str(error).partition('; all')[0]}")
    return fit, unfit


def _scenario(name: str, given: dict) -> Scenario:
    if not isinstance(name, str):
        raise ValueError("a name is text; put it in quotes")
    if not isinstance(given, dict) or not {*given} - {"about", "by"}:
        raise ValueError(f"it turns nothing; it takes {', '.join(FORMS)}")
    for key, value in given.items():
        if key not in FORMS:
            raise ValueError(f"no key {key!r}; {name_nearest(str(key), [*FORMS])}")
        kind, inside, written = FORMS[key]
        if not isinstance(value, kind):
            raise ValueError(f"{key} is {value!r}, expected {written}")
        for knob in value:
            if isinstance(knob, bool) or not isinstance(knob, inside):
                raise ValueError(f"{key} has {knob!r}, expected {written}")
    return Scenario(name, **given | {"suppress": tuple(given.get("suppress", ()))})


def append(file: Path, scenario: Scenario) -> None:
    """Add a scenario to a file of scenarios, whole or not at all; ValueError if its name is taken.

    What the file says stays as it is, comments too.
    """
    if scenario.name in read(file):
        raise ValueError(f"{file.name} has a scenario {scenario.name!r}: write another name")
    before = file.read_text(encoding="utf-8") if file.is_file() else ""
    write_text(file, f"{before.rstrip()}\n{write(scenario)}".lstrip())


def write(scenario: Scenario) -> str:
    """The YAML of one scenario, which `parse` reads back.

    >>> print(write(Scenario("quiet", turn={"War": -2.0}, suppress=("Horror", 7))), end="")
    quiet:
      turn: {War: -2.0}
      suppress: [Horror, 7]
    """
    given = asdict(scenario) | {"suppress": list(scenario.suppress)}
    if not scenario.share:
        del given["by"]
    name, own = given.pop("name"), {key: value for key, value in given.items() if value}
    return yaml.safe_dump({name: own}, sort_keys=False, allow_unicode=True, default_flow_style=None)


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

    `ranking_of` ranks the catalogue under an edit (None: untouched) for `users`, whose numbers are
    in its order; `names` are the columns of `attribute_matrix` [n_items + 1, n_attributes]. Returns
    a row for each user and attribute: user, attribute, its share of the list before and after. A
    scenario that does not fit is left out, with a warning: no row, for features that the dictionary
    lacks, and for shares, which the desk solves for one user at a time.
    """
    try:
        if scenario.share:
            raise ValueError("it asks for shares, which `apps.desk.Desk.play` solves")
        edits = None, sae_delta(dictionary, scenario.edits(knobs))
    except ValueError as error:
        warnings.warn(f"scenario {scenario.name!r} is left out: {error}", stacklevel=2)
        return pd.DataFrame(columns=["user", "attribute", "before", "after"]).astype(
            {"before": float, "after": float}
        )
    before, after = (share(ranking_of(edit).lists, attribute_matrix).ravel() for edit in edits)
    rows = {"user": np.repeat(users, len(names)), "attribute": np.tile(names, len(users))}
    return pd.DataFrame(rows | {"before": before, "after": after})


def log(file: Path, scenario: Scenario, knobs: pd.DataFrame, effect: pd.DataFrame) -> None:
    """Add one line of JSON to a log: what was applied to whom, and its mean effect (`apply`)."""
    mean = effect.groupby("attribute", sort=False)[["before", "after"]].mean().round(6)
    line = {"users": effect["user"].unique().tolist(), "scenario": asdict(scenario)}
    line |= {"edits": [asdict(edit) for edit in scenario.edits(knobs)], **mean.to_dict()}
    lines = [*(read_log(file) if file.is_file() else ()), line]
    write_text(file, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))


def read_log(file: Path) -> list[dict]:
    """The lines of a log, oldest first; damaged ones are left out, with a warning."""
    found = []
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        try:
            found.append(json.loads(line))
        except ValueError:
            text = f"{file}: line {number} is damaged and left out"
            warnings.warn(text, stacklevel=2)
    return found
