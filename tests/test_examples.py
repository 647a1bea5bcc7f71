"""The smallest example of functions whose docstring has none: right by looking at it."""

import numpy as np

from seqsae_utils import control, metrics
from seqsae_utils.data import formats
from seqsae_utils.fingerprint import changes
from seqsae_utils.interpretability import chance, comparison, films, items
from seqsae_utils.normalisation import blocks
from seqsae_utils.recommender import baselines
from seqsae_utils.resampling import draws


def test_attributes_are_picked_in_the_order_asked_for():
    assert control.pick_attributes("b | a", ["a", "b"], np.zeros((3, 2))) == ["b", "a"]


def test_in_blocks_of_one_nothing_is_permuted():
    matrix = np.array([[0], [1], [0], [0]])
    found = control.permuted(matrix, np.array([0, 9, 2, 1]), block=1)
    assert found.tolist() == matrix.tolist()


def test_attributes_are_joined_once_each_and_without_placeholders():
    assert formats._joined(["rock", " pop", "rock", "unknown"]) == "rock|pop"


def test_what_changed_is_named():
    assert changes({"seed": "1", "k": "8"}, {"seed": "2", "k": "8"}) == "seed"
    assert changes({"seed": "1"}, {"seed": "1"}) == ""


def test_p_values_are_corrected_by_the_largest_of_each_permutation():
    null = np.array([[0.1, 0.1], [0.2, 0.3], [0.3, 0.2]])
    assert chance.corrected_p_values(np.array([0.9, 0.2]), null).tolist() == [0.25, 0.75]


def test_only_the_entry_furthest_from_its_mean_is_left():
    x = np.array([[3.0, 1.0], [-3.0, 5.0], [0.0, -6.0]])
    found = comparison.cut({"dev": x}, k=1)["dev"].astype(float).round(2)
    assert found.tolist() == [[1.22, 0.0], [-1.22, 0.0], [0.0, -1.32]]


def test_films_are_split_in_halves():
    assert films.film_splits(np.array([0, 9, 8, 2, 1]))[:2].sum(axis=1).tolist() == [2, 2]


def test_strata_hold_items_of_like_popularity():
    assert items.strata(np.array([9, 1, 7, 2]), size=2).tolist() == [1, 0, 1, 0]


def test_coverage_is_a_share_of_the_catalogue():
    assert metrics.coverage(np.array([[1, 2], [2, 3]]), n_items=6) == 0.5


def test_the_interval_of_a_mean_holds_it():
    low, high = metrics.bootstrap_mean(np.array([0.0, 1.0] * 50))
    assert low < 0.5 < high


def test_each_draw_has_as_many_users():
    assert draws(3, 2).sum(axis=1).tolist() == [3, 3]


def test_blocks_are_of_bounded_size():
    found = [block.shape for block in blocks(np.zeros((70_000, 64), np.float16))]
    assert found == [(65_536, 64), (4_464, 64)]


def test_the_setting_that_ranks_best_is_kept():
    sequences = [np.array([1, 2, 3]), np.array([1, 2, 4])]
    validation = [np.array([4])], np.array([2])

    def scores(k):
        return baselines.item_knn_scores(sequences, 4, k)

    assert baselines.best_of(scores, [1, 2], validation)[0] == 1
