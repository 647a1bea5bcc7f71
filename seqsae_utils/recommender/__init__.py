"""Recommenders: transformers and simpler models that predict what a user takes next."""

from .adapters import RecBoleModel, Recommender, RecToolsModel, numbered
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
from .ranking import (
    Ranking,
    Scorer,
    Split,
    best,
    hold_out_last,
    leave_last_out,
    ndcg_of_shuffled,
    new_users,
    popularity_scores,
    rank_items,
    summary,
    unseen,
)
from .training import Training, fit, fit_all, pieces, train

__all__ = [
    "ARCHITECTURES", "Architecture", "CausalTransformer", "Config", "MaskedTransformer", "Ranking",
    "RecBoleModel", "RecToolsModel", "Recommender", "Scorer", "Split", "Training", "Transformer",
    "best", "create", "ease_scores", "fit", "fit_all", "hold_out_last", "item_knn_scores",
    "leave_last_out", "load", "load_beside", "ndcg_of_shuffled", "new_users", "numbered", "pad",
    "pieces", "popularity_scores", "rank_items", "save", "simple_models", "summary", "svd_vectors",
    "train", "unseen",
]  # fmt: skip
