"""Serve a batch: histories in, lists out, with what a scenario moved, why, and at what price.

``python -m seqsae_utils.recommend --profile ml-1m --histories users.csv --scenario "family
evening" --out lists.csv`` is the command. A file of histories has a row for each user: user_id;
history, ids of items, the oldest first (in CSV separated by ``|``, elsewhere a list); and target,
the item that came next, where it is known. CSV, JSON lines and parquet are read and written, a
block of users at a time.
"""

import argparse
import csv
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import torch
from torch import Tensor

from . import metrics, recommender
from .apps.desk.engine import N_ITEMS, Desk, losses
from .control import Scenario, sae_delta, scenarios, share, steered_scorer
from .control.scenarios import LARGEST
from .recommender import Scorer
from .workspace import name_nearest, project, replacing

USERS_AT_A_TIME = 256
FORMATS = (".csv", ".jsonl", ".parquet")


class User(NamedTuple):
    """One whom a list is made for: an id, the items of the history, the next item or 0."""

    user_id: str
    history: np.ndarray
    target: int = 0


def rows(file: Path) -> Iterator[tuple[int, dict]]:
    """Each row of a file of histories, with its line (its number in parquet)."""
    if file.suffix == ".parquet":
        try:
            table = pyarrow.parquet.ParquetFile(file)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{file.name} is no whole parquet file: {error}") from None
        _check_columns(file, table.schema_arrow.names)
        batches = table.iter_batches(USERS_AT_A_TIME)
        yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)
        return
    with open(file, "rb") as start:
        encoding = "utf-16" if start.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    with open(file, encoding=encoding, errors="surrogateescape", newline="") as text:
        if file.suffix == ".jsonl":
            for line, content in enumerate(text, start=1):
                if not content.strip():
                    continue
                try:
                    row = json.loads(content)
                except ValueError:
                    row = None
                yield line, row if isinstance(row, dict) else {}
        else:
            reader = csv.DictReader(text)
            _check_columns(file, reader.fieldnames or [])
            yield from ((reader.line_num, row) for row in reader)


def _check_columns(file: Path, names: Iterable[str]) -> None:
    if missing := [name for name in ("user_id", "history") if name not in names]:
        found = ", ".join(names) or "(none)"
        raise ValueError(f"{file.name} has the columns {found}; missing: {', '.join(missing)}")


def _id(value) -> str:
    """An id as text; a whole number stays one where others are missing, and NaN is none."""
    if isinstance(value, float) and not value % 1:
        return str(int(value))
    return "" if value is None or value != value else str(value).strip()


def users(
    table: Iterable[tuple[int, dict]], number: dict[str, int], say: Callable[[str], None]
) -> Iterator[User]:
    """Yield a `User` for each row that can be served, and say what is wrong with others.

    `number` is that of each item by its id. Of repeated items the first counts, and items that are
    not known are left out.
    """
    for line, row in table:
        given = row.get("history")
        parts = given.split("|") if isinstance(given, str) else given
        ids = [_id(one) for one in parts] if isinstance(parts, list) else [_id(parts)]
        known = [number[one] for one in ids if one in number]
        user, target = _id(row.get("user_id")), _id(row.get("target"))
        if None in row or not user:
            say(f"line {line} is left out: expected user_id, history and maybe target")
        elif re.search("[\ud800-\udfff]", user):
            say(f"line {line} is left out: its user_id is not UTF-8")
        elif not known:
            say(f"line {line} is left out: no item of its history is known ({given!r:.60})")
        elif target and target not in number:
            say(f"line {line} is left out: its target {target!r} is not known")
        else:
            if len(known) < len(ids):
                say(f"line {line}: {len(ids) - len(known)} items are not known")
            items = np.array(list(dict.fromkeys(known)))
            yield User(user, items, number.get(target, 0))


def raised(desk: Desk, scenario: Scenario) -> np.ndarray:
    """What a scenario adds to the scores of items [n_items + 1] when no feature is turned.

    ValueError for a scenario that names features.
    """
    features = [*scenario.features, *(what for what in scenario.suppress if isinstance(what, int))]
    if features:
        raise ValueError(f"features {features} have no scores to raise: take how='features'")
    strengths = scenario.turn | dict.fromkeys(scenario.suppress, -LARGEST)
    column = dict(zip(desk.counted, desk.matrix.T, strict=True))
    added = (strength * column[str(name)] for name, strength in strengths.items())
    return sum(added, np.zeros(len(desk.matrix)))


def recommend(
    desk: Desk, served: Iterable[User], scenario: Scenario, how: str = "features", why: bool = True
) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Lists under a scenario, and what it does by either way, a block of users at a time.

    `how` is ``features`` (turned in the model) or ``scores`` (raised after it). Yields two tables.
    A row for each place of each list: user_id, place, item_id, title, attributes, place_before
    (among the unseen items, untouched) and, with `why`, because (the title of the history without
    which the item loses most), lost (that loss, in nats), features (labels of those that carry it
    most, see `Desk.reasons`). And a row for each user and way (untouched, features, scores where
    they can be raised): way, ndcg (NaN without a target), and the share of each attribute.
    ValueError for what the scenario cannot turn here, shares too, and for another `how`.
    """
    if scenario.share:
        raise ValueError(
            f"scenario {scenario.name!r} asks for shares, which the desk solves for one user at a "
            "time: say what to turn and what to suppress"
        )
    scenario.check(desk.knobs, desk.features)
    delta = sae_delta(desk.dictionary, scenario.edits(desk.knobs))
    scorers: dict[str, Scorer] = {"untouched": desk.model.next_item_scores}
    scorers["features"] = steered_scorer(desk.model, desk.site, delta)
    try:
        added = torch.from_numpy(raised(desk, scenario).astype(np.float32))
        scorers["scores"] = lambda histories: desk.model.next_item_scores(histories) + added
    except ValueError:
        if how == "scores":
            raise
    if how not in (known := ["features", "scores"]):
        raise ValueError(f"how={how!r} is unknown; {name_nearest(how, known)}")
    waiting = iter(served)
    while block := tuple(islice(waiting, USERS_AT_A_TIME)):
        histories = [user.history for user in block]
        scores = {way: scorer(histories) for way, scorer in scorers.items()}
        effects = [_effect(desk, block, way, found) for way, found in scores.items()]
        yield (
            _lists(desk, block, scores["untouched"], scores[how], scorers[how], scenario, how, why),
            pd.concat(effects, ignore_index=True),
        )


def _effect(desk: Desk, block: tuple[User, ...], way: str, scores: Tensor) -> pd.DataFrame:
    histories = [user.history for user in block]
    targets = torch.tensor([[user.target] for user in block])
    unseen, of_target = recommender.unseen(scores, histories), scores.gather(1, targets)
    lists = recommender.best(unseen, N_ITEMS).numpy()
    rank = (unseen.scatter(1, targets, of_target) >= of_target).sum(dim=1).numpy()
    ndcg = np.where(targets[:, 0] > 0, metrics.ndcg(rank), np.nan)
    shares = pd.DataFrame(share(lists, desk.matrix), columns=desk.counted)
    return pd.concat([pd.DataFrame({"way": way, "ndcg": ndcg}), shares], axis=1)


def _lists(desk, block, untouched, scores, scorer, scenario, how, why: bool) -> pd.DataFrame:
    histories = [user.history for user in block]
    lists = recommender.best(recommender.unseen(scores, histories), N_ITEMS)
    before = recommender.unseen(untouched, histories)
    place_before = 1 + (before[:, None, :] > before.gather(1, lists)[:, :, None]).sum(dim=2)
    described, titles = desk.dataset.items, np.array(desk.dataset.unique_titles)
    items = lists.numpy().ravel()
    table = pd.DataFrame({"user_id": np.repeat([user.user_id for user in block], N_ITEMS)})
    table["place"] = np.tile(np.arange(1, N_ITEMS + 1), len(block))
    table["item_id"] = np.append("", described["item_id"])[items]
    table["title"] = titles[items]
    table["attributes"] = np.append("", described["attributes"])[items]
    table["place_before"] = place_before.numpy().ravel()
    if why:
        brought, lost = _because(desk, histories, lists, scorer)
        table["because"], table["lost"] = titles[brought.ravel()], lost.ravel()
        edits = scenario.edits(desk.knobs) if how == "features" else []
        table["features"] = _carried_by(desk, histories, lists, edits)
    return table[items > 0]


def _because(desk, histories, lists, scorer) -> tuple[np.ndarray, np.ndarray]:
    """The item of the history without which each item of a list loses most, and its loss in nats.

    A history of one item is its own reason; nothing is known of the loss then.
    """
    brought = np.array([np.full(N_ITEMS, history[-1]) for history in histories])
    lost = np.full(lists.shape, np.nan)
    for u, (history, items) in enumerate(zip(histories, lists.numpy(), strict=True)):
        recent = history[-desk.model.max_length :]
        if len(nats := losses(scorer, recent, items, len(recent))):
            brought[u], lost[u] = recent[nats.argmax(axis=0)], nats.max(axis=0)
    return brought, lost


def _carried_by(desk, histories, lists, edits) -> list[str]:
    """Labels of the features that carry each item of each list, the strongest first."""
    said, (_, codes) = [], desk.scored(histories, edits)
    for code, items in zip(codes, lists, strict=True):
        table = desk.setting_apart(code, items[items > 0].numpy())
        table["text"] = table["name"] + " (" + table["feature"].astype(str) + ")"
        by_item = table.groupby("item")["text"].agg("; ".join)
        said += by_item.reindex(items.numpy()).fillna("").tolist()
    return said


def write(file: Path, tables: Iterable[pd.DataFrame]) -> None:
    """Write tables one after the other as CSV, JSON lines or parquet, complete or not at all."""
    writer = None
    with replacing(file) as temporary, open(temporary, "wb") as out:
        for table in tables:
            if file.suffix == ".parquet":
                content = pa.Table.from_pandas(table, preserve_index=False)
                writer = writer or pyarrow.parquet.ParquetWriter(out, content.schema)
                writer.write_table(content)
            elif file.suffix == ".jsonl":
                text = table.to_json(orient="records", lines=True, force_ascii=False)
                out.write(text.encode())
            else:
                table.to_csv(out, index=False, header=out.tell() == 0, float_format="%.4g")
        if writer:
            writer.close()


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns 0, or 1 for an error or where nobody could be served."""
    parser = argparse.ArgumentParser(prog="python -m seqsae_utils.recommend", description=__doc__)
    parser.add_argument("--profile", default="ml-100k", help="whose model and knobs")
    parser.add_argument("--histories", type=Path, required=True, help="one row a user")
    parser.add_argument("--scenario", required=True, help="a name in --scenarios")
    parser.add_argument("--scenarios", type=Path, help="default: notebooks/scenarios.yaml")
    parser.add_argument("--how", choices=["features", "scores"], default="features")
    parser.add_argument("--no-why", action="store_true", help="leave the reasons out: faster")
    parser.add_argument("--out", type=Path, required=True, help="lists.csv, .jsonl or .parquet")
    options = parser.parse_args(arguments)
    try:
        for file in (options.histories, options.out):
            if file.suffix not in FORMATS:
                raise ValueError(f"{file}: expected a name that ends in {', '.join(FORMATS)}")
        if options.histories.resolve() == options.out.resolve():
            raise ValueError(f"{options.out} holds the histories: give --out another name")
        presets = scenarios.read(options.scenarios or project() / "notebooks" / "scenarios.yaml")
        if options.scenario not in presets:
            nearest = name_nearest(options.scenario, [*presets])
            raise ValueError(f"no scenario {options.scenario!r}; {nearest}")
        desk, scenario = Desk.of(options.profile), presets[options.scenario]
        number = {one: i for i, one in enumerate(desk.dataset.items["item_id"], start=1)}
        totals: list[pd.DataFrame] = []
        served = users(
            rows(options.histories),
            number,
            lambda fault: print(f"{options.histories.name}: {fault}", file=sys.stderr),
        )

        def tables() -> Iterator[pd.DataFrame]:
            blocks = recommend(desk, served, scenario, options.how, not options.no_why)
            for lists, effects in blocks:
                totals[:] = [*totals, effects.groupby("way", sort=False).agg(["sum", "count"])]
                totals[:] = [sum(totals[1:], totals[0])]
                yield lists
            if not totals:
                raise ValueError(f"{options.histories}: nobody could be served")

        write(options.out, tables())
    except (RuntimeError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    (total,) = totals
    means = total.xs("sum", axis=1, level=1) / total.xs("count", axis=1, level=1)
    print(f"{options.out}: {int(total.iloc[0, 3])} lists, by {options.how}; means of all:")
    moved = means.T.loc[lambda t: (t.sub(t["untouched"], axis=0).abs() >= 0.01).any(axis=1)]
    print(
        pd.concat([means.T.loc[["ndcg"]], moved.drop("ndcg", errors="ignore")]).round(3).to_string()
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
