"""Whatever offers `recommender.Recommender` is harvested, ranked, measured and steered alike."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from own_model import GRU, more_of
from torch import nn

from seqsae_utils import activations, control, data, interpretability, recommender, sae
from seqsae_utils.apps.desk import Desk
from seqsae_utils.control import scenarios

N_ITEMS, MAX_LENGTH, D_MODEL = 25, 6, 16
NAMES = ["even"]
#: [n_items + 1, 1]: which items have an even number.
EVEN = (np.arange(N_ITEMS + 1) % 2 == 0)[:, None] & (np.arange(N_ITEMS + 1) > 0)[:, None]


def walks() -> dict[int, np.ndarray]:
    """Walks round a cycle of items: shorter than the model's input, as long, and longer."""
    rng = np.random.default_rng(0)
    return {
        user: (rng.integers(N_ITEMS) + np.arange(rng.integers(3, 15))) % N_ITEMS + 1
        for user in range(60)
    }


def check_every_consumer(model: recommender.Recommender, site: str, folder: Path) -> None:
    """Run all that takes a recommender of items 1 to 25 on it.

    `site` is the last module whose states are steered: those of the last item alone tell the next.
    """
    assert isinstance(model, nn.Module) and isinstance(model, recommender.Recommender)
    sequences = walks()
    histories, targets = users = recommender.hold_out_last(sequences)
    check_scores(model, histories)

    index = activations.harvest(model, sequences, site, folder / "states.npy", batch_size=7)
    states = np.load(folder / "states.npy")
    assert np.isfinite(states).all() and states.std(axis=0).all()
    assert index["item"].tolist() == np.concatenate(list(sequences.values())).tolist()

    table = activations.compare_sites(model, sequences, sequences, EVEN.astype(float), [site])
    assert table["auc"].between(0.5, 1, inclusive="right").all()

    mean = torch.from_numpy(states.mean(axis=0))
    ends = {"original": lambda h: None, "zero": torch.zeros_like, "mean": mean.expand_as}
    cost = activations.cost_of_replacing(model, site, ends, histories, targets)
    assert cost["top10_overlap"][0] == 1 > cost["top10_overlap"][1]

    dictionary, _ = sae.fit(states, sae.Config(states.shape[1], 32, k=4), TRAINING, progress=False)
    decoder = dictionary.W_dec.detach().numpy()
    gained = interpretability.measured_effect(model, site, decoder, dictionary.std, histories)
    assert gained.shape == (32, N_ITEMS + 1) and np.isfinite(gained).all()
    assert not gained[:, 0].any() and gained[:, 1:].any(axis=1).all()

    near = control.expected_top(model.next_item_scores(histories))
    knobs = control.several_features(NAMES, decoder, gained, EVEN, near, n_features=8)
    along = control.directions(knobs, decoder, NAMES)
    methods = {"several": control.turn(model, site, dictionary.std, along)}
    swept = control.sweep(model, site, users, methods, NAMES, [2.0], NAMES)
    before, after = (control.share(lists, EVEN).mean() for lists in swept.lists)
    assert after > before
    assert np.array_equal(swept.lists[0], recommender.rank_items(model.next_item_scores, *users)[0])

    share_of = control.shares_along(model, site, dictionary.std, along[0], EVEN[:, 0], histories)
    dialled = control.solve(share_of, 0.8, len(histories))
    assert dialled["error"].mean() < (dialled["share_before"] - 0.8).abs().mean()

    def ranking_of(delta):
        return recommender.rank_items(control.steered_scorer(model, site, delta), *users)

    more = scenarios.Scenario("more", turn={"even": 2.0})
    effect = scenarios.apply(more, knobs, dictionary, ranking_of, [*sequences], NAMES, EVEN)
    np.testing.assert_allclose([*effect[["before", "after"]].mean()], [before, after], atol=0.01)
    check_edits(model, site, dictionary, histories)
    check_desk(model, site, dictionary, knobs, methods["several"], sequences)


TRAINING = sae.Training(steps=30, batch_size=128, warmup_steps=5)


def check_scores(model: recommender.Recommender, histories: list[np.ndarray]) -> None:
    """Those of each history alone, of the items that the model sees, and none for padding."""
    items = model.pad(histories)
    assert items.shape[0] == len(histories) and items.shape[1] <= model.max_length
    for row, history in zip(items, histories, strict=True):
        assert row[row > 0].tolist() == history[-model.max_length :].tolist()
    scores = model.next_item_scores(histories)
    assert scores.shape == (len(histories), N_ITEMS + 1) and scores.device.type == "cpu"
    assert (scores[:, 0] == -torch.inf).all() and scores[:, 1:].isfinite().all()
    for row, history in zip(scores[:20], histories[:20], strict=True):
        torch.testing.assert_close(model.next_item_scores([history])[0], row)
    cut = [history[-model.max_length :] for history in histories]
    torch.testing.assert_close(model.next_item_scores(cut), scores)


def check_edits(model, site: str, dictionary: sae.SAE, histories: list[np.ndarray]) -> None:
    """Nothing at strength 0; else the scores change, by the state of the last item alone."""
    plain = model.next_item_scores(histories)
    scores = {}
    for positions in ("all", "last"):
        for value in (0.0, 3.0):
            delta = control.sae_delta(dictionary, [control.Edit(3, value)])
            with control.steered(model, site, delta, positions):
                scores[positions, value] = model.next_item_scores(histories)
    assert torch.equal(scores["all", 0.0], plain) and torch.equal(scores["last", 0.0], plain)
    assert ((scores["all", 3.0] - plain)[:, 1:].abs().amax(dim=1) > 1e-4).all()
    torch.testing.assert_close(scores["last", 3.0], scores["all", 3.0])
    assert torch.equal(model.next_item_scores(histories), plain)  # and it is gone


def check_desk(model, site: str, dictionary: sae.SAE, knobs, method, sequences) -> None:
    """One user: the knob does what the method does, and is undone."""
    features = pd.DataFrame({"feature": range(32), "label": "", "density": 0.1})
    desk = Desk("walks", catalogue(sequences), model, site, dictionary, features, knobs)
    user = next(iter(sequences))
    plain = recommender.unseen(model.next_item_scores([sequences[user]]), [sequences[user]])
    expected = recommender.best(plain)[0].numpy()
    assert np.array_equal(desk.before.items, expected)
    desk.turn("even", 6.0)
    turned = torch.from_numpy(desk.after.scores)
    torch.testing.assert_close(turned, method(0, 6.0)([sequences[user]])[0], atol=1e-4, rtol=1e-4)
    assert not np.array_equal(desk.after.items, expected)
    assert desk.reasons().empty == (not hasattr(model, "head"))
    desk.undo()
    assert np.array_equal(desk.after.items, expected)


def catalogue(sequences) -> data.Dataset:
    """What the desk shows of items: a title, and whether the number is even."""
    number = np.arange(1, N_ITEMS + 1)
    items = pd.DataFrame({"item": number, "item_id": number.astype(str)})
    items["title"] = [f"item {i}" for i in number]
    items["attributes"] = np.where(number % 2, "", "even")
    items["popularity"] = 1
    taught = len(sequences)  # the one recommender user: took every item
    users = pd.DataFrame({"user": [*sequences, taught], "split": "test"})
    users.loc[users["user"] == taught, "split"] = "recommender"
    rows = [(user, item) for user, own in {**sequences, taught: number}.items() for item in own]
    interactions = pd.DataFrame(rows, columns=["user", "item"])
    return data.Dataset(interactions, items, users, interactions, {})


def ours(architecture: str) -> recommender.Transformer:
    return recommender.create(
        recommender.Config(N_ITEMS, architecture, d_model=D_MODEL, max_length=MAX_LENGTH)
    )


MODELS = {
    **{name: (partial(ours, name), "blocks.1") for name in recommender.ARCHITECTURES},
    "gru": (partial(GRU, N_ITEMS), "gru"),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_consumer_takes_it(name, tmp_path):
    torch.manual_seed(0)
    create, site = MODELS[name]
    check_every_consumer(create(), site, tmp_path)


@pytest.mark.parametrize("lacking", ["pad", "max_length", "next_item_scores"])
def test_a_model_that_lacks_something_is_no_recommender(lacking):
    members = {"pad": None, "max_length": 6, "next_item_scores": None}
    del members[lacking]
    model = type("Half", (nn.Module,), members)()
    assert not isinstance(model, recommender.Recommender)


def test_an_item_that_the_model_does_not_know_gains_nothing():
    torch.manual_seed(0)
    model = GRU(N_ITEMS)
    known = model.next_item_scores

    def without_the_last(histories):
        scores = known(histories)
        scores[:, -1] = -torch.inf
        return scores

    arguments = "gru", np.eye(D_MODEL, dtype=np.float32), 1.0, list(walks().values())
    plain = interpretability.measured_effect(model, *arguments)
    model.next_item_scores = without_the_last
    gained = interpretability.measured_effect(model, *arguments)
    assert not gained[:, -1].any() and plain[:, -1].any()
    np.testing.assert_array_equal(gained[:, :-1], plain[:, :-1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_effect_is_measured_in_the_precision_of_the_model(dtype):
    torch.manual_seed(0)
    model = ours("gpt2")
    arguments = "final_norm", np.eye(D_MODEL, dtype=np.float32), 1.0, list(walks().values())
    expected = interpretability.measured_effect(model, *arguments)
    found = interpretability.measured_effect(model.to(dtype), *arguments)
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


def test_twelve_lines_from_a_model_of_ones_own_to_a_steered_list(tmp_path):
    """The users' ids and the items' may be of any kind: here they are names and titles."""
    rng = np.random.default_rng(0)
    titles = np.array([f"film {i}" for i in range(40)])
    histories = [rng.permutation(titles)[: rng.integers(3, 12)] for _ in range(50)]
    counted, _ = recommender.numbered(histories)
    sequences, ids = recommender.numbered({f"user {i}": row for i, row in enumerate(histories)})
    assert [*sequences] == [f"user {i}" for i in counted] and [*counted] == list(range(50))
    rows = zip(sequences.values(), counted.values(), histories, strict=True)
    assert all((a == b).all() and (ids[a] == row).all() for a, b, row in rows)
    torch.manual_seed(0)
    model, wanted = GRU(len(ids) - 1), titles[:10]
    lists = more_of(wanted, model, sequences, ids, tmp_path / "states.npy")
    index = pd.read_parquet(tmp_path / "states_index.parquet")
    assert list(index["user"].unique()) == [*sequences]
    seen = list(sequences.values())
    plain = ids[recommender.best(recommender.unseen(model.next_item_scores(seen), seen))]
    assert lists.shape == plain.shape == (50, 10)
    assert np.isin(lists, wanted).mean() > 1.5 * np.isin(plain, wanted).mean()
    assert not any(set(row) & set(history) for row, history in zip(lists, histories, strict=True))
