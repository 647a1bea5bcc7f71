"""Recommenders: transformers and simpler models that predict what a user takes next."""

from ..ranking import (
    Ranking,
    Scorer,
    Split,
    best,
    cross_entropy,
    hold_out_last,
    leave_last_out,
    ndcg_of_shuffled,
    new_users,
    popularity_of_each,
    popularity_scores,
    rank_items,
    summary,
    unseen,
)
from .adapters import RecBoleModel, Recommender, RecToolsFlatModel, RecToolsModel, numbered
from .baselines import ease_scores, item_knn_scores, simple_models, svd_vectors
from .models import (
    ARCHITECTURES,
    Architecture,
    CausalTransformer,
    Config,
    MaskedTransformer,
    Transformer,
    create,
    load,
    load_beside,
    pad,
    save,
)
from .training import Training, fit, fit_all, pieces, train
