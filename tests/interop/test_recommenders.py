"""Models of RecTools and RecBole: read and ranked here as by their own libraries.

That they are steered as any other model is the contract of `test_contract.py`. The libraries need
older versions of NumPy and pandas than the project, so these tests run in an environment of their
own: `make interop`.
"""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from test_contract import D_MODEL, MAX_LENGTH, N_ITEMS, check_every_consumer, walks

from seqsae_utils import activations
from seqsae_utils.recommender import RecBoleModel, RecToolsFlatModel, RecToolsModel

WHY = "lives in an environment of its own: run `make interop`"
rectools_models = pytest.importorskip("rectools.models", reason=f"RecTools {WHY}")
recbole_model = pytest.importorskip("recbole.model.sequential_recommender", reason=f"RecBole {WHY}")


@pytest.fixture(scope="module")
def sequences() -> dict[int, np.ndarray]:
    return walks()


@pytest.fixture(scope="module")
def item_ids() -> np.ndarray:
    """What the libraries call items 1..25: numbers in another order, with gaps."""
    return 100 + 7 * np.random.default_rng(1).permutation(N_ITEMS)


@pytest.fixture(scope="module")
def interactions(sequences, item_ids) -> pd.DataFrame:
    """The users' sequences as a table: user_id, item_id, position."""
    rows = [
        (u, item_ids[i - 1], at) for u, items in sequences.items() for at, i in enumerate(items)
    ]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "position"])


@pytest.fixture(scope="module")
def in_its_folder(tmp_path_factory):
    """Both libraries write logs to where they are."""
    folder = tmp_path_factory.mktemp("libraries")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def fitted_by_rectools(kind, interactions, **settings):
    """A transformer of RecTools, trained by RecTools, and its data."""
    from rectools.dataset import Dataset

    days = pd.to_timedelta(interactions["position"], unit="D")
    table = interactions.assign(weight=1, datetime=pd.Timestamp("2020-01-01") + days)
    dataset = Dataset.construct(table.drop(columns="position"))
    torch.manual_seed(0)
    model = kind(
        n_blocks=2, n_heads=2, n_factors=D_MODEL, session_max_len=MAX_LENGTH, epochs=3,
        batch_size=16, recommend_torch_device="cpu", **settings,
    )  # fmt: skip
    model.fit(dataset)
    return model, dataset


@pytest.fixture(scope="module")
def rectools(interactions, item_ids, in_its_folder) -> SimpleNamespace:
    """RecTools' SASRec with its adapter."""
    model, dataset = fitted_by_rectools(rectools_models.SASRecModel, interactions)
    return SimpleNamespace(
        model=model, dataset=dataset, adapt=partial(RecToolsModel, model),
        adapter=RecToolsModel(model, item_ids),
        site="model.transformer_layers.transformer_blocks.0", last="model.transformer_layers",
    )  # fmt: skip


@pytest.fixture(scope="module")
def hstu(interactions, item_ids, in_its_folder) -> SimpleNamespace:
    """RecTools' HSTU without times, with its adapter."""
    kind = rectools_models.HSTUModel
    model, dataset = fitted_by_rectools(kind, interactions, relative_time_attention=False)
    return SimpleNamespace(
        model=model, dataset=dataset, adapt=partial(RecToolsModel, model),
        adapter=RecToolsModel(model, item_ids), last="model.transformer_layers",
    )  # fmt: skip


@pytest.fixture(scope="module")
def flat(interactions, item_ids) -> SimpleNamespace:
    """RecTools' FlatSASRecNet, trained on what its own function makes of the interactions."""
    from rectools.fast_transformers import FlatSASRecNet, build_sequences

    columns = (torch.tensor(interactions[name].to_numpy()) for name in interactions)
    x, y, known, _ = build_sequences(*columns, max_len=MAX_LENGTH)
    torch.manual_seed(0)
    model = FlatSASRecNet(N_ITEMS, D_MODEL, 2, 2, MAX_LENGTH)
    adam = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(20):
        adam.zero_grad()
        logits = model({"x": x, "y": y})[y > 0]
        torch.nn.functional.cross_entropy(logits, y[y > 0] - 1).backward()
        adam.step()
    adapt = partial(RecToolsFlatModel, model, known)
    return SimpleNamespace(
        model=model.eval(), x=x, known=known, adapt=adapt, adapter=adapt(item_ids),
        last="model.final_ln",
    )  # fmt: skip


@pytest.fixture(scope="module")
def recbole(interactions, item_ids, in_its_folder) -> SimpleNamespace:
    """RecBole's SASRec, trained by RecBole, with its adapter."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.trainer import Trainer

    names = {"user_id": "user_id:token", "item_id": "item_id:token", "position": "position:float"}
    (in_its_folder / "toy").mkdir()
    table = interactions.rename(columns=names)
    table.to_csv(in_its_folder / "toy" / "toy.inter", sep="\t", index=False)
    config = Config("SASRec", "toy", config_dict={
        "data_path": str(in_its_folder), "load_col": {"inter": list(interactions.columns)},
        "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "TIME_FIELD": "position",
        "MAX_ITEM_LIST_LENGTH": MAX_LENGTH, "hidden_size": D_MODEL, "inner_size": 32,
        "n_layers": 2, "n_heads": 2, "loss_type": "CE", "train_neg_sample_args": None,
        "epochs": 3, "train_batch_size": 64, "eval_batch_size": 4096, "use_gpu": False,
        "show_progress": False, "state": "ERROR", "seed": 0,
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
    })  # fmt: skip
    dataset = create_dataset(config)
    train, _, test = data_preparation(config, dataset)
    model = recbole_model.SASRec(config, train.dataset)
    Trainer(config, model).fit(train, verbose=False, saved=False, show_progress=False)
    (interaction, *_), *_ = test
    return SimpleNamespace(
        model=model, dataset=dataset, interaction=interaction,
        adapt=partial(RecBoleModel, model, dataset),
        adapter=RecBoleModel(model, dataset, item_ids), site="model.trm_encoder.layer.0",
        last="model.trm_encoder.layer.1",
    )  # fmt: skip


@pytest.fixture(params=["rectools", "hstu", "flat", "recbole"])
def library(request) -> SimpleNamespace:
    return request.getfixturevalue(request.param)


# --- the same states ---


def last_pieces(sequences: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    return {user: sequence[-MAX_LENGTH:] for user, sequence in sequences.items()}


@torch.no_grad()
def test_harvest_reads_what_rectools_computes(rectools, sequences, tmp_path):
    """RecTools' own input for `recommend`, through RecTools' own modules."""
    network = rectools.model.torch_model.eval()
    preparator = rectools.model.data_preparator
    users = np.array(list(sequences))
    dataset = preparator.transform_dataset_u2i(rectools.dataset, users)
    x = next(iter(preparator.get_dataloader_recommend(dataset, len(users))))["x"]
    mask = (x != 0)[..., None]
    assert mask[:, -1].all() and not mask[:, 0].all()  # left padding
    causal = ~torch.ones(MAX_LENGTH, MAX_LENGTH, dtype=torch.bool).tril()
    embedded = network.pos_encoding_layer(network.item_model.get_all_embeddings()[x])
    first = network.transformer_layers.transformer_blocks[0](embedded * mask, causal, None)
    final = network.encode_sessions({"x": x}, network.item_model.get_all_embeddings())
    for site, expected in {rectools.site: first, "model.transformer_layers": final}.items():
        activations.harvest(rectools.adapter, last_pieces(sequences), site, tmp_path / "x.npy", 7)
        states = np.load(tmp_path / "x.npy")
        np.testing.assert_allclose(states, expected[mask[..., 0]], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_site_that_rectools_changes_in_place_is_read_before(rectools, sequences, tmp_path):
    """The block adds its input to the output of its feed-forward network, in that very tensor."""
    block = rectools.model.torch_model.transformer_layers.transformer_blocks[0]
    inputs = []
    with activations.hooked(block, "ff_layer_norm", lambda x: inputs.append(x.clone())):
        items = rectools.adapter.pad(list(last_pieces(sequences).values()))
        rectools.adapter.eval()(items)
    expected = block.feed_forward(inputs[0])[items > 0]
    site = f"{rectools.site}.feed_forward"
    activations.harvest(rectools.adapter, last_pieces(sequences), site, tmp_path / "x.npy")
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), expected, rtol=1e-4, atol=1e-5)


def recbole_histories(recbole, item_ids) -> list[np.ndarray]:
    """The histories of RecBole's own test batch, in our numbers."""
    ours = {str(item): number for number, item in enumerate(item_ids, start=1)}
    tokens = recbole.dataset.field2id_token["item_id"]
    lengths = recbole.interaction["item_length"]
    rows = recbole.interaction["item_id_list"]
    return [
        np.array([ours[tokens[i]] for i in row[:n]]) for row, n in zip(rows, lengths, strict=True)
    ]


@torch.no_grad()
def test_harvest_reads_what_recbole_computes(recbole, item_ids, tmp_path):
    """RecBole's own test batch, through RecBole's own modules."""
    network, items = recbole.model.eval(), recbole.interaction["item_id_list"]
    lengths = recbole.interaction["item_length"]
    assert items.shape[1] == MAX_LENGTH and (items[:, 0] > 0).all() and not items.all()
    embedded = network.item_embedding(items)
    positioned = network.LayerNorm(embedded + network.position_embedding(torch.arange(MAX_LENGTH)))
    layers = network.trm_encoder(positioned, network.get_attention_mask(items))
    users = dict(enumerate(recbole_histories(recbole, item_ids)))
    for site, expected in {
        "model.item_embedding": embedded,
        recbole.site: layers[0],
        "model.trm_encoder.layer.1": layers[1],
    }.items():
        index = activations.harvest(recbole.adapter, users, site, tmp_path / "x.npy", 7)
        states = np.load(tmp_path / "x.npy")
        np.testing.assert_allclose(states, expected[items > 0], rtol=1e-4, atol=1e-5)
    last = states[index.groupby("user").tail(1).index]
    np.testing.assert_allclose(last, network(items, lengths), rtol=1e-4, atol=1e-5)


def test_a_site_that_returns_a_list_is_refused(recbole, sequences, tmp_path):
    with pytest.raises(ValueError, match="site 'model.trm_encoder' returns a list"):
        activations.harvest(
            recbole.adapter, last_pieces(sequences), "model.trm_encoder", tmp_path / "x.npy"
        )


# --- the same ranking ---


@pytest.mark.parametrize("name", ["rectools", "hstu"])
def test_scores_rank_as_rectools_recommends(name, sequences, item_ids, request):
    rectools = request.getfixturevalue(name)
    scores = rectools.adapter.next_item_scores(list(sequences.values()))
    recommended = rectools.model.recommend(
        list(sequences), rectools.dataset, k=N_ITEMS, filter_viewed=False
    )
    assert len(recommended) == N_ITEMS * len(sequences)
    number = pd.Series(range(1, N_ITEMS + 1), index=item_ids)
    for row, (_, table) in zip(scores, recommended.groupby("user_id"), strict=True):
        items = number[table["item_id"]].to_numpy()
        assert row.argsort(descending=True)[:N_ITEMS].tolist() == items.tolist()
        np.testing.assert_allclose(row[items], table["score"], rtol=1e-4, atol=1e-5)


def test_scores_are_those_of_the_flat_network(flat, item_ids):
    """On the input that RecTools' own function makes of the interactions."""
    ours = pd.Series(range(1, N_ITEMS + 1), index=item_ids)[flat.known.numpy()].to_numpy()
    histories = [ours[row[row > 0].numpy() - 1] for row in flat.x]
    theirs = flat.model({"x": flat.x, "y": flat.x})[:, -1].detach()
    scores = flat.adapter.next_item_scores(histories)
    assert scores.isfinite().sum() == N_ITEMS * len(histories)
    np.testing.assert_allclose(scores[:, ours], theirs, rtol=1e-4, atol=1e-5)


def test_a_model_that_reads_times_is_refused(interactions, item_ids, in_its_folder):
    model, _ = fitted_by_rectools(rectools_models.HSTUModel, interactions)
    with pytest.raises(ValueError, match="reads times.*relative_time_attention=False"):
        RecToolsModel(model, item_ids)


def test_scores_rank_as_recbole_predicts(recbole, item_ids):
    with torch.no_grad():
        theirs = recbole.model.eval().full_sort_predict(recbole.interaction)
    ids = recbole.dataset.token2id("item_id", [str(item) for item in item_ids])
    scores = recbole.adapter.next_item_scores(recbole_histories(recbole, item_ids))
    assert scores.shape == (len(theirs), N_ITEMS + 1)
    np.testing.assert_allclose(scores[:, 1:], theirs[:, ids], rtol=1e-4, atol=1e-5)


# --- the contract ---


def test_every_consumer_takes_it(library, tmp_path):
    check_every_consumer(library.adapter, library.last, tmp_path)


# --- items that the libraries do not know ---


def test_an_item_that_was_never_trained_on_is_no_candidate(library, item_ids, sequences):
    histories = list(sequences.values())
    scores = library.adapt([*item_ids, 5, 6]).next_item_scores(histories)
    assert (scores[:, N_ITEMS + 1 :] == -torch.inf).all() and scores.shape[1] == N_ITEMS + 3
    assert torch.equal(scores[:, : N_ITEMS + 1], library.adapter.next_item_scores(histories))


def test_an_item_that_was_never_trained_on_is_refused_in_a_history(library, item_ids):
    adapter = library.adapt([*item_ids, 5, 6])
    with pytest.raises(ValueError, match=r"items \[26, 27\]: the model was not trained on them"):
        adapter.pad([np.array([1, 27]), np.array([26, 2])])


def test_ids_of_another_kind_are_refused(library):
    names = [f"film {i}" for i in range(N_ITEMS)]
    with pytest.raises(ValueError, match="knows none of the 25 items.*'film 0'"):
        library.adapt(names)
