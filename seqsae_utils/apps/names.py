"""What atlas and desk call a feature: its label of notebook 5, a concept of 7, or an era."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binom

from .. import data, interpretability, sae
from ..interpretability.names import LEVEL, MIN_SHARE, N_TOP
from ..workspace import Workspace

#: Below these a feature tells nothing of an attribute's items: correlation with it, and how far it
#: raises them over the average item, in standard deviations over items.
MIN_CORRELATION, MIN_EFFECT = 0.1, 0.5


def load(
    workspace: Workspace, dataset: data.Dataset, dictionary: sae.SAE, head: NDArray | None
) -> pd.DataFrame:
    """The features of a profile, a row each: notebook 5's columns, `eras` named, and 7's concepts.

    `head` [n_items + 1, d_in], if the model has one. `StageError` for a stage that is not there.
    """
    features = pd.read_parquet(workspace.load("interpretability") / "features.parquet")
    explained = pd.read_parquet(workspace.load("concepts") / "explained.parquet")
    if head is not None:
        directions = dictionary.W_dec.detach().numpy()
        features = eras(features, directions, head, dataset.items["year"])
    return features.merge(explained, how="left", on="feature")


def eras(features: pd.DataFrame, directions: NDArray, head: NDArray, year: pd.Series):
    """Name features that have no label, fire on old items and raise them: "before 1960".

    Of the `N_TOP` items that its direction raises most, at least `MIN_SHARE` are from before the
    earliest decade for which that is not by chance (binomial, corrected for all that is asked), and
    `year`, the correlation of its activation with the year, is negative. `features` has feature,
    label and year, in the order of `directions` [d_sae, d_in]; `year` [n_items] may lack some.
    Returns the table with label, kind (``era``) and evidence of those filled in.
    """
    years = np.r_[np.nan, year.to_numpy(np.float64, na_value=np.nan)]
    known = np.flatnonzero(~np.isnan(years))
    if not len(known) or "year" not in features:
        return features
    ends = np.arange(years[known].min() // 10 * 10 + 10, years[known].max() + 1, 10)
    raised = interpretability.logit_lens(directions, head)[:, known]
    top = years[known[np.argsort(-raised, axis=1, kind="stable")[:, :N_TOP]]]
    expected = (years[known][:, None] < ends).mean(axis=0)
    hits = (top[:, :, None] < ends).sum(axis=1)
    p = binom.sf(hits - 1, top.shape[1], expected) * hits.size
    unnamed = (features["label"].fillna("") == "") & (features["year"] < 0)
    found = (p < LEVEL) & (hits >= MIN_SHARE * top.shape[1]) & unnamed.to_numpy()[:, None]
    features = features.astype({"label": object, "kind": object, "evidence": object})
    for i in np.flatnonzero(found.any(axis=1)):
        j = int(found[i].argmax())
        said = f"{hits[i, j]} of the {top.shape[1]} items that it raises most are from before "
        said += f"{ends[j]:.0f}, {top.shape[1] * expected[j]:.1f} expected; it fires on old items "
        said += f"(correlation with the year {features['year'].iloc[i]:.2f})"
        row = features.index[i], ["label", "kind", "evidence"]
        features.loc[row] = f"before {ends[j]:.0f}", "era", said
    return features
