"""Every parameter of every notebook: nonsense is refused before time is lost, here and by hand."""

import math

import nbformat
import pytest

from seqsae_utils import ranges, recommender, workspace
from seqsae_utils.run import parameters
from seqsae_utils.run.parameters import RunError, declared, notebook, resolve
from seqsae_utils.workspace import STAGES, Workspace

KINDS = {
    key: kind
    for name in STAGES.values()
    for key, (kind, _) in declared(notebook(name)).items()
    if kind != "bool"
}
NUMBERS = [key for key, kind in KINDS.items() if kind in ("int", "float")]
#: Texts that name what only the data know, or that are shown.
FREE = {"label", "attributes", "attribute"}
MAY_BE_ZERO = {
    "seed", "split_seed", "max_users", "max_group", "dropout", "l1_coefficient", "l0_coefficient",
    "target",
}  # fmt: skip


def test_every_parameter_has_a_range():
    assert KINDS.keys() - FREE == ranges.RANGES.keys()


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("value", [-1, math.nan, math.inf, -math.inf, 10**12, 10**400, "", "many"])
def test_no_number_may_be_nonsense(key, value):
    with pytest.raises(ValueError, match=f"^{key} is {value!r}, expected "):
        ranges.check({key: value})


@pytest.mark.parametrize("key", NUMBERS)
def test_zero_is_refused_where_it_means_nothing(key):
    if key in MAY_BE_ZERO:
        ranges.check({key: 0})
    else:
        with pytest.raises(ValueError, match=f"^{key} is 0, expected "):
            ranges.check({key: 0})


@pytest.mark.parametrize("key", sorted(KINDS.keys() - FREE - {*NUMBERS}))
def test_a_text_is_one_of_those_that_are_known(key):
    for value in ("\n", None, 3, "../../x y?"):
        if not (key == "dataset" and isinstance(value, str) and value.strip()):
            with pytest.raises(ValueError, match=f"^{key} is "):
                ranges.check({key: value})


def test_every_profile_lies_within_the_ranges():
    for file in (workspace.project() / "notebooks" / "params").glob("*.yaml"):
        resolve(file.stem, {})


@pytest.mark.parametrize(
    "given, message",
    [
        ({"k": "600"}, "k is 600, expected at most d_sae, 512"),
        ({"n_heads": "3"}, "d_model is 64, no multiple of n_heads"),
        ({"dropout": "1"}, r"parameter dropout is 1, expected \[0, 1\)"),
        ({"target": ".nan"}, r"parameter target is nan, expected \[0, 1\]"),
        ({"device": "gpu"}, "parameter device is 'gpu', expected auto|cpu"),
        ({"d_sae": "1000000000"}, "parameter d_sae is 1000000000, expected"),
        ({"d_sae": "1048576"}, "parameter d_sae is 1048576, expected"),
        ({"max_length": "1000000"}, "parameter max_length is 1000000, expected"),
        ({"d_model": "1048576"}, "parameter d_model is 1048576, expected"),
        ({"n_jobs": "1000"}, "parameter n_jobs is 1000, expected"),
        ({"site": "text"}, "parameter site is 'text', expected item_embedding"),
        ({"site": "blocks.2"}, "parameter site is 'blocks.2', expected a block below 2"),
        ({"last_site": "blocks.9.mlp"}, "last_site is 'blocks.9.mlp', expected a block below 2"),
    ],
)
def test_the_runner_refuses_it_before_anything_runs(given, message):
    with pytest.raises(RunError, match=message):
        resolve("ml-100k", given)


@pytest.mark.parametrize("name", STAGES.values())
def test_a_notebook_refuses_it_when_it_is_opened_by_hand(name):
    """The line stands before the first that uses a parameter."""
    cells = [c for c in nbformat.read(notebook(name), as_version=4).cells if c.cell_type == "code"]
    (at,) = [i for i, c in enumerate(cells) if "parameters" in c.metadata.get("tags", [])]
    assert cells[at + 1].source.startswith("workspace.check(globals())\n")


@pytest.mark.parametrize("name", ["../../x", "", ".", "..", "a/b", "/tmp/x", "a\n"])
def test_a_profile_is_no_path(name):
    with pytest.raises(ValueError, match="^profile is "):
        Workspace(name)


@pytest.mark.parametrize(
    "text, message",
    [
        (b"k: 4\nseed: 1\nk: 8\n", r"mine.yaml: line 3 is not YAML: 'k' comes a second time"),
        ("label: Größe\n".encode("latin-1"), "mine.yaml is not UTF-8"),
        (b"k:\t4\n\tseed: 1\n", "mine.yaml: line 1 is not YAML"),
        (b"k: 4\n1: 2\n", "mine.yaml: line 2: no notebook has a parameter 1"),
        (
            b"k: 4\nlabel: 2020-13-45\n",
            "mine.yaml: line 2 is not YAML: '2020-13-45' cannot be read",
        ),
        (b"k: " + b"1" * 5_000, "mine.yaml: line 1 is not YAML: '1{20}' cannot be read"),
        (b"k: !!bool maybe\n", "mine.yaml: line 1 is not YAML: 'maybe' cannot be read"),
        (b"label: " + b"[" * 3_000, "mine.yaml: not YAML: .* nested too deep"),
        (b"- k\n", "mine.yaml: expected lines `key: value`"),
    ],
)
def test_a_profile_that_cannot_be_read_is_named(tmp_path, monkeypatch, text, message):
    folder = tmp_path / "notebooks"
    (folder / "params").mkdir(parents=True)
    for name in STAGES.values():
        (folder / f"{name}.ipynb").symlink_to(notebook(name))
    (folder / "params" / "mine.yaml").write_bytes(text)
    monkeypatch.setattr(parameters, "project", lambda: tmp_path)
    with pytest.raises(RunError, match=message):
        resolve("mine", {})


def test_sites_of_every_model_are_in_their_range():
    for architecture in recommender.ARCHITECTURES:
        config = recommender.Config(5, architecture, d_model=4, n_layers=2, n_heads=2)
        for name, _ in recommender.create(config).named_modules():
            if name.startswith(("blocks.1.mlp", "blocks.1.attention")) or name == "blocks.1":
                ranges.check({"n_layers": 2, "site": name})
    for name in ("item_embedding", "dropout", "final_norm"):
        ranges.check({"site": name, "last_site": name})
