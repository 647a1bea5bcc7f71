"""What a model knows about who a user is, read from the mean of the user's states."""

import warnings

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ..resampling import interval, known_mean
from .chance import drawn_auc, everybody_then_drawn
from .items import indicator
from .scores import Codes, as_dense

#: Test users that a group must have, and lack, to be scored.
MIN_USERS = 10


def of_users(codes: Codes, users: NDArray) -> NDArray:
    """Mean of each user's rows of codes [n_positions, d]: [n_users, d], by number of the user."""
    _, user = np.unique(users, return_inverse=True)
    one_hot = indicator(user, np.arange(len(user)), (user.max() + 1, len(user)))
    return as_dense(one_hot @ codes) / np.bincount(user)[:, None]


def tell_groups(
    representations: dict[str, dict[str, NDArray]], groups: dict[str, pd.DataFrame]
) -> tuple[pd.DataFrame, dict[str, NDArray]]:
    """How surely a linear probe tells a group of users that nobody told the recommender.

    `representations` hold, by name, one vector for each user [n_users, d] of ``dev`` and ``test``;
    `groups` the same users' groups (bool; columns attribute, value). A logistic regression on
    standardised vectors is fitted on the development users and scored on the test users. Returns a
    row for each group and representation (attribute, value, users, representation, auc, low, high:
    95 %, test users drawn again) and, by representation, the mean over groups in each draw.
    """
    rows, drawn = [], {}
    n_test = len(groups["test"])
    counts, everyone = everybody_then_drawn(n_test), np.arange(n_test)
    for name, of in representations.items():
        means = []
        for column in groups["test"]:
            has = {group: table[column].to_numpy() for group, table in groups.items()}
            n = has["test"].sum()
            if not MIN_USERS <= n <= n_test - MIN_USERS or has["dev"].min() == has["dev"].max():
                continue
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=500))
            with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
                probe.fit(of["dev"], has["dev"])
            scores = drawn_auc(probe.decision_function(of["test"]), has["test"], everyone, counts)
            low, high = interval(scores[1:])
            row = {"attribute": column[0], "value": column[1], "users": n, "representation": name}
            rows.append(row | {"auc": scores[0], "low": low, "high": high})
            means.append(scores[1:])
        if means:
            drawn[name] = known_mean(means, axis=0)
    names = ["attribute", "value", "users", "representation", "auc", "low", "high"]
    return pd.DataFrame(rows, columns=names), drawn


def telling_features(values: NDArray, has: NDArray, n: int) -> NDArray:
    """The n features whose means over users, with and without a group, differ most: [n].

    `values` are [n_users, n_features], `has` bool [n_users]; the difference counts in standard
    deviations of the feature over users.
    """
    spread = np.maximum(values.std(axis=0), 1e-12)
    apart = np.abs(values[has].mean(axis=0) - values[~has].mean(axis=0)) / spread
    return np.argsort(-apart, kind="stable")[:n]
