"""Whether neighbours in a history are alike; ratings of one time may have lost their order."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..resampling import drawn_means
from ..workspace import name_nearest

#: What `neighbours_share` can do with the histories before it looks.
ORDERS = ("as it is", "ties shuffled", "all shuffled")


def neighbours_share(dataset, order: str = "as it is") -> tuple[float, NDArray]:
    """Share of the pairs of neighbours in a history that have an attribute in common.

    All users of the `Dataset` count. ``ties shuffled`` puts a user's items of equal time in random
    order, ``all shuffled`` all of them (the mean of five orders, always the same); ValueError for
    other orders. The second value is the share in each draw of the users [n_draws].
    """
    if order not in ORDERS:
        raise ValueError(f"order {order!r} is unknown; {name_nearest(order, list(ORDERS))}")
    table = dataset.interactions
    user, item, time = (table[name].to_numpy() for name in ("user", "item", "timestamp"))
    carried = np.packbits(dataset.attribute_matrix.astype(bool), axis=1)  # [n_items + 1, bytes]
    inside = user[1:] == user[:-1]
    orders = [item]
    if order != "as it is":
        together = inside & (time[1:] == time[:-1]) if order == "ties shuffled" else inside
        group = np.r_[0, np.cumsum(~together)]  # what is shuffled; rows are sorted by user and time
        chances = (np.random.default_rng([0, draw]).random(len(item)) for draw in range(5))
        orders = (item[np.argsort(group + chance, kind="stable")] for chance in chances)
    attributes = (carried[items] for items in orders)
    alike = np.mean([(a[1:] & a[:-1]).any(axis=1) for a in attributes], axis=0)
    pairs = pd.DataFrame({"user": user[1:], "alike": alike, "all": 1})[inside]
    by_user = pairs.groupby("user").sum().to_numpy()
    share = float(by_user[:, 0].sum() / by_user[:, 1].sum())
    return share, np.divide(*drawn_means(by_user).T)
