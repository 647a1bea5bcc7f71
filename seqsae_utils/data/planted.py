"""A made-up catalogue whose users follow planted concepts: a ground truth for all stages."""

from itertools import combinations

import numpy as np
import pandas as pd

from .formats import Raw

CONCEPTS = (
    "Ocean", "Desert", "Forest", "Winter", "Volcano", "Circus",
    "Jazz", "Chess", "Robots", "Ghosts", "Pirates", "Heist",
)  # fmt: skip
TITLES = (
    "The {a} and the {b}", "Return to {a}, with {b}", "A Night of {a} and {b}", "{a} Versus {b}",
    "The Last {a} before the {b}", "{a}, My {b}", "Who Stole the {a} from the {b}?",
    "Seven Days of {b} in the {a}", "How the {b} Lost Its {a}", "{a}! {b}! {a}!",
)  # fmt: skip
DAY = 86_400
SWITCH = 0.06  # probability that the mood switches before the next item
START = 1_577_836_800  # 2020-01-01, in Unix time


def synthetic(seed: int = 0, n_users: int = 700, n_items: int = 300) -> Raw:
    """Make a dataset in which a user's next item depends on a hidden mood.

    Every item has two concepts as its attributes. A user's mood is one concept (sometimes two),
    which lasts for a while and then switches. The next item is drawn from the unseen items that
    carry the mood, popular ones more often. ValueError for more than ten items a pair of concepts.

    >>> synthetic(n_users=20).items.loc[0, ["title", "attributes"]].tolist()
    ['The Ocean and the Desert (1987)', 'Ocean|Desert']
    """
    pairs = list(combinations(range(len(CONCEPTS)), 2))
    if n_items > (most := len(pairs) * len(TITLES)):
        raise ValueError(f"n_items={n_items}: there are titles for at most {most} items")
    rng = np.random.default_rng(seed)
    carries = np.zeros((n_items, len(CONCEPTS)), dtype=bool)
    items = []
    for index in range(n_items):
        first, second = pairs[index % len(pairs)]
        carries[index, [first, second]] = True
        a, b = CONCEPTS[first], CONCEPTS[second]
        title = TITLES[index // len(pairs)].format(a=a, b=b)
        year = 1950 + (37 + 11 * index) % 75
        items.append((index + 1, f"{title} ({year})", f"{a}|{b}"))

    appeal = rng.permutation(np.arange(1, n_items + 1) ** -0.6)
    rows = []
    for user in range(1, n_users + 1):
        time = int(START + 2 * user * DAY + rng.integers(DAY))
        for item in _history(rng, carries, appeal, int(rng.integers(20, 61))):
            rows.append((user, item + 1, np.nan, time))
            time += int(rng.integers(60, 3 * DAY))
    interactions = pd.DataFrame(rows, columns=["user_id", "item_id", "rating", "timestamp"])
    described = pd.DataFrame(items, columns=["item_id", "title", "attributes"])
    source = f"made up: users follow {len(CONCEPTS)} planted concepts, seed {seed}"
    return Raw(interactions, described, source, "Planted concepts")


def _history(rng, carries: np.ndarray, appeal: np.ndarray, length: int) -> list[int]:
    """One user's items [length], drawn mood by mood from `carries` [n_items, n_concepts]."""
    unseen, history = np.ones(len(appeal), dtype=bool), []
    while len(history) < length and unseen.any():
        if not history or rng.random() < SWITCH:
            mood = rng.choice(carries.shape[1], size=rng.choice([1, 2], p=[0.8, 0.2]))
        weight = appeal * (carries[:, mood].any(axis=1) & unseen)
        if not weight.any():
            weight = appeal * unseen
        item = rng.choice(len(appeal), p=weight / weight.sum())
        unseen[item] = False
        history.append(item)
    return history
