"""Every figure draws from the smallest table that makes sense, without a warning."""

import inspect
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from seqsae_utils import figures
from seqsae_utils.figures import activations, concepts, control, data, interpretability, sae
from seqsae_utils.sae import VARIANTS
from seqsae_utils.workspace import Workspace, sha256

NAMES = ["Noir", "Children's", "Sci-Fi"]


@pytest.fixture(autouse=True)
def close_figures(monkeypatch):
    """Figures of one test never reach the next one, nor a screen."""
    monkeypatch.setattr(plt, "show", lambda: None)
    figures.style()
    yield
    plt.close("all")
    plt.rcdefaults()


def rows(columns: dict, **values) -> pd.DataFrame:
    """A row for each combination of the columns' values; `values` are filled in by a cycle."""
    table = pd.DataFrame(list(product(*columns.values())), columns=list(columns))
    return table.assign(**{name: np.resize(cycle, len(table)) for name, cycle in values.items()})


LONG_TAIL = pd.DataFrame({"rank": [1, 2, 3], "interactions": [8, 2, 0], "share": [0.8, 1.0, 1.0]})
LENGTHS = rows({"split": ["recommender", "dev", "test"], "length": [2, 30]}, users=[5, 1])
OVERLAP = rows({"attribute": NAMES, "other": NAMES}, items=[9, 2, 1], share=[1.0, 0.2, 0.1])
NORMS = pd.DataFrame({"norm": np.linspace(3, 9, 50)})
SPECTRUM = pd.DataFrame(
    {"component": [1, 2], "cumulative_variance": [0.8, 1.0], "isotropic": [0.5, 1.0]}
)
PROBE = pd.DataFrame(
    {"attribute": NAMES, "auc": [0.9, np.nan, 0.7], "auc_shuffled_low": 0.4,
     "auc_shuffled_high": 0.6}
)  # fmt: skip
SITES = rows(
    {"site": ["item_embedding", "blocks.0"], "target": ["current", "next"], "attribute": NAMES},
    auc=[0.9, np.nan, 0.7, 0.6, 0.5, 0.4], auc_shuffled=[0.5, np.nan, 0.6, 0.5, 0.5, 0.5],
)  # fmt: skip
FRONT = rows(
    {"name": ["topk", "relu", "random", "paper"], "i": range(3)}, l0=[4, 16, 90],
    explained_variance=[0.5, 0.8, 0.95], problems=["", "", "relu: not sparse"],
)  # fmt: skip
DENSITY = rows({"variant": ["kept", "paper"], "i": range(20)}, density=np.linspace(0, 0.6, 20))
REPLACEMENT = pd.DataFrame(
    {
        "replacement": ["original", "kept", "mean"],
        "ndcg@10": [0.2, 0.1, 0],
        "top10_overlap": [1, 0.8, 0],
    }
)
for column in ("ndcg@10", "top10_overlap"):
    REPLACEMENT[f"{column}_low"] = REPLACEMENT[column] - 0.05
    REPLACEMENT[f"{column}_high"] = REPLACEMENT[column] + 0.1
BY_GENRE = pd.DataFrame(
    {"attribute": NAMES, "sae": [0.5, 0.7, np.nan], "neurons": [0.3, 0.1, np.nan],
     "random_directions": [0.2, 0.15, np.nan], "p_value": [0.01, 0.2, np.nan]}
)  # fmt: skip
for column in ("sae", "neurons", "random_directions"):
    BY_GENRE[f"{column}_low"], BY_GENRE[f"{column}_high"] = BY_GENRE[column] - 0.1, 0.9
HELD_OUT = pd.DataFrame(
    {f"{name}{end}": 0.5 + shift for name in ("held_out", "lead")
     for end, shift in {"": 0, "_low": -0.1, "_high": 0.1}.items()},
    index=list(interpretability.REPRESENTATIONS),
)  # fmt: skip
PROBES = rows(
    {"representation": ["neurons", "sae"], "features": ["1", "2", "dense"]}, auc=[0.6, 0.7, 0.8]
)
MEDIANS = pd.DataFrame(
    {"selectivity": [0.4, np.nan], "selectivity_null": 0.1, "co_consumption": [0.3, 0.4],
     "co_consumption_chance": [0.1, 0.5]}, index=["neurons", "sae"],
)  # fmt: skip
TOLD = rows(
    {"representation": ["sae", "random_directions"], "kind": ["all", "attribute"]},
    features=[30, 20], accuracy=0.7, low=0.6, high=0.8, shuffled=0.5,
)  # fmt: skip
HISTOGRAM = rows({"group": ["Noir", "not Noir"], "i": range(9)}, activation=np.linspace(0.1, 3, 9))
PROMOTED = pd.DataFrame(
    {"title": ["The Third Man (1949)", "A Title That Goes On and On and On and On (1950)"],
     "logit": [2.0, 1.0], "has_attribute": [True, False]}
)  # fmt: skip
CURVES = rows(
    {"method": list(control.METHODS), "attribute": NAMES, "strength": [-4.0, 0.0, 4.0]},
    share=[0.1, 0.2, 0.6], ndcg=[0.1, 0.2, 0.15], ndcg_change=[-0.1, 0.0, -0.05],
    coverage=[0.3, 0.5, 0.2],
)  # fmt: skip
for column in ("share", "ndcg_change"):
    CURVES[f"{column}_low"], CURVES[f"{column}_high"] = CURVES[column] - 0.1, CURVES[column] + 0.1
SIDE_EFFECTS = rows(
    {"attribute": NAMES[:2], "method": ["sae_several", "rerank"], "other": NAMES},
    change=[0.47, -0.013, 0.2, 0.47, -0.1, np.nan],
).assign(low=lambda table: table["change"] - 0.1, high=lambda table: table["change"] + 0.2)
AREAS = rows({"method": list(control.METHODS), "attribute": NAMES}, pareto_area=[0.2, 0.5, 0.9])
BY_METHOD = rows(
    {"method": list(control.METHODS)}, pareto_area=np.linspace(0.1, 0.9, 12),
    pareto_area_low=0.0, pareto_area_high=1.0, lead=np.linspace(-0.4, 0.4, 12),
    lead_low=-0.5, lead_high=0.5,
)  # fmt: skip
DIALLED = rows(
    {"how": ["dial", "one strength", "untouched"], "target": [0.1, 0.4]}, error=[0.02, 0.1],
    error_low=0.01, error_high=0.2, reached=[0.9, 0.5],
)  # fmt: skip
SERVED = rows(
    {"method": ["sae_feature", "rerank"], "strength": [0.5, 1.0, 2.0]},
    change=[0.02, 0.05, -0.01], low=-0.02, high=0.06,
)  # fmt: skip
ONE_LIST = rows(
    {"way": ["dial", "rerank"], "target": [0.0, 0.5], "rank": [1, 2]}, attribute="Noir",
    title=["The Third Man (1949)", "A Title That Goes On and On (1950)"], turned=[0, 0, 1.5, 1.5],
    has=[True, False], kept=[True, True, False, True],
)  # fmt: skip

DRAWN = {
    "long_tail": lambda: data.long_tail(LONG_TAIL),
    "sequence_lengths": lambda: data.sequence_lengths(LENGTHS, 8),
    "attribute_overlap": lambda: data.attribute_overlap(OVERLAP),
    "hidden_states": lambda: activations.hidden_states(NORMS, SPECTRUM),
    "probe": lambda: activations.probe(PROBE),
    "sites": lambda: activations.sites(SITES),
    "pareto": lambda: sae.pareto(FRONT, 64),
    "density": lambda: sae.density(DENSITY),
    "replacement_cost": lambda: sae.replacement_cost(REPLACEMENT),
    "genres": lambda: interpretability.genres(BY_GENRE, HELD_OUT),
    "held_out": lambda: interpretability.held_out(HELD_OUT),
    "probes": lambda: interpretability.probes(PROBES),
    "monosemanticity": lambda: interpretability.monosemanticity(MEDIANS),
    "predictions": lambda: interpretability.predictions(TOLD),
    "feature_page": lambda: interpretability.feature_page(HISTOGRAM, PROMOTED, "Feature 3: Noir"),
    "dose_response": lambda: control.dose_response(CURVES[CURVES["method"] == "sae_feature"]),
    "gain_against_loss": lambda: control.gain_against_loss(CURVES),
    "side_effects": lambda: control.side_effects(SIDE_EFFECTS),
    "areas": lambda: control.areas(AREAS, BY_METHOD, "sae_feature"),
    "dial": lambda: control.dial(DIALLED),
    "one_list": lambda: control.one_list(ONE_LIST),
    "serving": lambda: control.serving(SERVED),
}


def test_every_figure_is_tried_here():
    chapters = [data, activations, sae, interpretability, control]
    functions = [f for module in chapters for f in inspect.getmembers(module, inspect.isfunction)]
    drawing = {name for name, f in functions if f.__annotations__.get("return") is plt.Figure}
    assert drawing == set(DRAWN)


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_draws_fits_the_page_and_names_its_axes(name):
    figure = DRAWN[name]()
    figure.canvas.draw()  # warnings of the layout come only now
    assert figures.COLUMN <= figure.get_figwidth() <= figures.PAGE
    labels = [axis.get_xlabel() for axis in figure.axes] + [
        axis.get_ylabel() for axis in figure.axes
    ]
    assert any([*labels, figure.get_supxlabel()]), "no axis says what it shows"


@pytest.mark.parametrize("name", DRAWN)
def test_the_same_figure_gives_the_same_files(name, tmp_path, monkeypatch):
    digests = []
    for run in ("first", "second"):
        monkeypatch.setenv("SEQSAE_WORKSPACE", str(tmp_path / run))
        folder = Workspace("toy").figures
        figures.save(DRAWN[name](), CURVES, name, Workspace("toy"))
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        names = [path.relative_to(folder).as_posix() for path in files]
        assert set(names) == {f"{name}.pdf", f"{name}.png", f"tables/{name}.csv"}
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        digests.append([sha256(path) for path in files])
    assert digests[0] == digests[1]


def test_the_saved_table_is_what_was_plotted(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQSAE_WORKSPACE", str(tmp_path))
    figures.save(DRAWN["dose_response"](), CURVES, "curves", Workspace("toy"))
    saved = pd.read_csv(Workspace("toy").figures / "tables" / "curves.csv")
    pd.testing.assert_frame_equal(saved, CURVES, rtol=1e-5, check_dtype=False)


# What is drawn is what the table says


def test_long_tail_shows_its_columns():
    (axis,) = data.long_tail(LONG_TAIL).axes
    np.testing.assert_allclose(axis.lines[0].get_ydata(), [80, 100, 100])


def test_sequence_lengths_counts_users_from_the_long_end():
    axes = data.sequence_lengths(LENGTHS, 8).axes[0]
    assert axes.lines[0].get_label() == "recommender (6)"
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [100, 100 / 6])
    assert axes.lines[-1].get_xdata() == [8, 8]
    assert axes.texts[0].get_text() == "model's window: 8 "


def test_attribute_overlap_reads_rows_as_attributes():
    left, right, *_ = data.attribute_overlap(OVERLAP).axes
    shown = right.collections[0].get_array().reshape(3, 3)
    share = OVERLAP.pivot(index="attribute", columns="other", values="share").loc[NAMES, NAMES]
    off = ~np.eye(3, dtype=bool)
    np.testing.assert_allclose(shown[off], 100 * share.to_numpy()[off])
    assert np.ma.getmaskarray(shown).diagonal().all()
    assert [bar.get_width() for bar in left.patches] == [9, 2, 1]
    often = data.attribute_overlap(OVERLAP.assign(share=[1.0, 0.301, 0.299] * 3)).axes[1].texts
    assert {text.get_text() for text in often} == {"", "30", "100"}  # and the diagonal has none


def test_a_dictionary_keeps_its_colour_and_shows_no_identifier():
    assert set(VARIANTS) < set(sae.LOOKS)
    shown = [text.get_text() for text in sae.pareto(FRONT, 64).legends[0].get_texts()]
    assert shown == ["TopK", "ReLU + L1", "random directions", "paper's settings"]
    looks = [sae.LOOKS[name][1] for name in REPLACEMENT["replacement"]]
    axes = sae.replacement_cost(REPLACEMENT).axes
    for axis, column in zip(axes, ("ndcg@10", "top10_overlap"), strict=True):
        assert [to_hex(bar.get_facecolor()).upper() for bar in axis.patches] == looks
        assert [bar.get_width() for bar in axis.patches] == REPLACEMENT[column].tolist()
        lines = np.array(axis.collections[0].get_segments())[:, :, 0]
        assert lines.tolist() == REPLACEMENT[[f"{column}_low", f"{column}_high"]].values.tolist()
    others = {*figures.COLORS.values()} - {figures.BLUE, figures.GREY, figures.BLACK}
    assert not others & {shade for _, shade, _ in sae.LOOKS.values()}


def test_dictionaries_with_problems_are_hollow():
    lines = [line for line in sae.pareto(FRONT, 64).axes[0].lines if len(line.get_xdata()) > 1]
    joined = {line.get_label(): line for line in lines}
    assert joined["TopK"].get_xdata().tolist() == [4, 16]  # over those that are joined, filled
    np.testing.assert_allclose(joined["TopK"].get_ydata(), [50, 20])  # what is not explained, in %
    assert all(line.get_markerfacecolor() == "white" for line in lines if line.get_ls() == "-")


def test_the_spectrum_stands_beside_that_of_isotropic_states():
    axis = activations.hidden_states(NORMS, SPECTRUM).axes[1]
    lines = {line.get_label(): list(line.get_ydata()) for line in axis.lines}
    assert lines["hidden states"] == [0.8, 1] and lines["isotropic states"] == [0.5, 1]


def test_the_null_of_a_probe_is_a_bar_from_the_least_to_the_largest():
    axis = activations.probe(PROBE).axes[0]
    bars = np.array(axis.collections[0].get_segments())
    assert bars[:, :, 0].tolist() == [[0.4, 0.6]] * 3
    true = [line for line in axis.lines if line.get_label() == "true labels"]
    np.testing.assert_array_equal(true[0].get_xdata(), [0.7, 0.9, np.nan])


def test_sites_show_the_means_and_how_far_they_are_from_the_first_site():
    table = SITES.assign(auc=SITES["auc"].where(SITES["site"] == "blocks.0", SITES["auc"] - 0.1))
    table.loc[[6, 9], "auc"] += [0.1, -0.1]  # Noir, at the second site
    left, right = activations.sites(table).axes
    assert [text.get_text() for text in left.get_yticklabels()] == ["item embedding", "blocks.0"]
    lines = {line.get_label(): line for line in left.lines}
    np.testing.assert_allclose(lines["current item"].get_xydata(), [[0.7, -0.17], [0.85, 0.83]])
    np.testing.assert_allclose(lines["next item"].get_xydata(), [[0.4, 0.17], [0.467, 1.17]], 1e-3)
    shuffled = lines["attributes permuted"].get_xydata()
    np.testing.assert_allclose(shuffled, [[0.5, 0.17], [0.5, 1.17]])
    means = [line.get_xydata()[0] for line in right.lines if line.get_marker() in "oD"]
    np.testing.assert_allclose(means, [[0.15, 0.83], [0.067, 1.17]], 6e-3)
    ticks = [line.get_xdata()[0] for line in right.lines if line.get_marker() == "|"]
    np.testing.assert_allclose(ticks, [0.2, 0.1, 0.1, 0, 0.1], atol=1e-9)
    (low, _), (high, _) = right.collections[0].get_segments()[0]
    np.testing.assert_allclose([low, high], [0.1, 0.2])  # two attributes, drawn again
    top, bottom = left.get_ylim()[::-1]
    assert top < bottom  # the first site stands at the top


def test_genres_are_hollow_where_they_are_not_significant():
    films = HELD_OUT.assign(held_out=np.arange(len(HELD_OUT)) / 100)
    axis = interpretability.genres(BY_GENRE, films).axes[0]
    order = [label.get_text() for label in axis.get_yticklabels()]
    assert order == ["mean", "Children's", "Noir", "Sci-Fi"]
    lines = {line.get_label(): line for line in axis.lines}
    assert lines["SAE"].get_xydata().tolist() == [[films["held_out"]["sae"], -0.25], [0.5, 1.75]]
    means = lines["hidden dimensions"].get_xydata()[:3].tolist()
    assert means == [[films["held_out"]["neurons"], 0], [0.1, 1], [0.3, 2]]
    hollow = [line for line in axis.lines if line.get_markerfacecolor() == "white"]
    assert [line.get_xdata()[0] for line in hollow if len(line.get_xdata())] == [0.7]
    of_sae = axis.collections[0].get_segments()  # the mean's first, then those of the genres
    assert of_sae[0][:, 0].tolist() == films.loc["sae", ["held_out_low", "held_out_high"]].tolist()
    np.testing.assert_allclose([of[:, 0] for of in of_sae[1:3]], [[0.6, 0.9], [0.4, 0.9]])


def test_monosemanticity_is_what_exceeds_chance():
    left, right = interpretability.monosemanticity(MEDIANS).axes
    np.testing.assert_allclose(left.collections[1].get_offsets().filled(np.nan)[0], [0.3, 0])
    np.testing.assert_allclose(right.collections[1].get_offsets()[:, 0], [0.2, -0.1])


def test_curves_belong_to_their_attribute():
    curves = CURVES[CURVES["method"] == "sae_feature"].copy()
    curves["share"] += curves["attribute"].map(NAMES.index) / 10
    curves.loc[curves["attribute"] == "Sci-Fi", "coverage"] /= 2  # by another feature
    axes = np.reshape(control.dose_response(curves).axes, (3, len(NAMES)))
    for i, (column, name) in enumerate(zip(axes.T, NAMES, strict=True)):
        share, change, coverage = (axis.lines[0].get_ydata() for axis in column)
        np.testing.assert_allclose(share, np.array([0.1, 0.2, 0.6]) + i / 10)
        assert change.tolist() == [-0.1, 0, -0.05]
        np.testing.assert_allclose(coverage, np.array([0.3, 0.5, 0.2]) / (1 + (name == "Sci-Fi")))
        assert column[0].get_title("left") == name
    texts = [[text.get_text() for text in axis.texts] for axis in axes[0]]
    assert texts == [[], ["the feature\nof Noir"], []]


def test_gain_and_loss_start_at_the_untouched_model():
    panels = control.gain_against_loss(CURVES).axes
    assert [panel.get_title("left") or panel.get_title() for panel in panels] == NAMES
    for line in panels[0].lines[: len(control.LINES)]:
        np.testing.assert_allclose(line.get_xydata(), [[0, 100], [40, 75]])  # strengths from 0
    bands = [band.get_paths()[0].vertices[:, 1] for band in panels[0].collections]
    assert len(bands) == 2  # several SAE features, scores raised
    np.testing.assert_allclose([(b.min(), b.max()) for b in bands], [(25, 150)] * 2)
    assert len({(panel.get_xlim(), panel.get_ylim()) for panel in panels}) == 1
    low, high = panels[0].get_ylim()
    assert low == 0 and high > 150


def test_the_lead_is_right_of_the_line_where_the_chosen_method_is_ahead():
    """`lead` is the other method's over the chosen one, so its sign is turned."""
    left, right = control.areas(AREAS, BY_METHOD, "sae_feature").axes
    order = BY_METHOD.sort_values("pareto_area")
    names = [label.get_text() for label in left.get_yticklabels()]
    assert names == [control.METHODS[method] for method in order["method"]]
    points = [line.get_xdata()[0] for line in right.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(points, -order["lead"])
    hollow = [
        line.get_markerfacecolor() == "white" for line in left.lines if line.get_marker() == "o"
    ]
    assert {m for m, h in zip(order["method"], hollow, strict=True) if h} == {
        "random", "sae_several_permuted", "output_direction_permuted"
    }  # fmt: skip


def test_side_effects_are_in_points_beside_the_gain_of_the_title():
    panels = control.side_effects(SIDE_EFFECTS).axes
    titles = [panel.get_title("left") for panel in panels]
    assert titles == ["Noir +47 [37, 67]", "Children's -1 [-11, 19]"]
    for panel, steered in zip(panels, NAMES, strict=False):
        assert [label.get_text() for label in panels[0].get_yticklabels()] == NAMES
        lines = {line.get_color(): line.get_xdata() for line in panel.lines}
        for method, change in (("sae_several", [47, -1.3, 20]), ("rerank", [47, -10, np.nan])):
            beside = [
                x if name != steered else np.nan for x, name in zip(change, NAMES, strict=True)
            ]
            np.testing.assert_allclose(lines[figures.color(method)], beside)
    (low, _), (high, _) = panels[0].collections[0].get_segments()[1]
    np.testing.assert_allclose([low, high], [-11.3, 18.7])
    assert len({(panel.get_xlim(), panel.get_ylim()) for panel in panels}) == 1


def test_of_many_attributes_those_that_move_furthest_are_drawn():
    names = [f"a{i}" for i in range(control.MOST_ROWS + 5)]
    many = rows({"attribute": ["a0"], "method": ["sae_several", "rerank"], "other": names})
    many["change"] = -many["other"].map(names.index) / 100
    axis = control.side_effects(many.assign(low=many["change"], high=many["change"])).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == names[5:]


@pytest.mark.parametrize("name", ["Cash $5, Change $1", "$$", "$10-$20", "_private", "a & b <c>"])
def test_titles_and_attributes_are_text_and_nothing_else(name):
    """Own data has names that matplotlib could take for formulae or for hidden labels."""
    promoted = PROMOTED.assign(title=[name, "other"])
    interpretability.feature_page(HISTOGRAM, promoted, f"Feature 1: {name}").canvas.draw()
    activations.probe(PROBE.replace("Noir", name)).canvas.draw()
    control.dose_response(CURVES.replace("Noir", name)).canvas.draw()
    figure = data.attribute_overlap(OVERLAP.replace("Noir", name))
    figure.canvas.draw()
    assert figure.axes[0].get_yticklabels()[0].get_text() == name


@pytest.mark.parametrize("draw", [data.long_tail, sae.density])
def test_ticks_are_plain_numbers(draw):
    figure = draw({data.long_tail: LONG_TAIL, sae.density: DENSITY}[draw])
    figure.canvas.draw()
    axis = figure.axes[0].xaxis
    texts = [label.get_text() for label in axis.get_ticklabels()]
    assert texts and not any("$" in text for text in texts)


def test_what_never_fires_leaves_a_figure_that_says_so():
    figure = interpretability.feature_page(HISTOGRAM[:0], PROMOTED, "Feature 3")
    figure.canvas.draw()
    assert figure.axes[0].texts[0].get_text() == "it fires for no test user"
    sae.density(DENSITY.assign(density=0.0)).canvas.draw()


def test_items_of_one_title_have_a_bar_each():
    figure = interpretability.feature_page(HISTOGRAM, PROMOTED.assign(title="Emma"), "Feature 3")
    assert len({bar.get_y() for bar in figure.axes[1].patches}) == len(PROMOTED)


@pytest.mark.parametrize("text", ["霸王别姬", "$$ פלא 霸"])
def test_characters_that_no_typeface_has_are_said_once(tmp_path, monkeypatch, text):
    monkeypatch.setenv("SEQSAE_WORKSPACE", str(tmp_path))
    monkeypatch.setattr(figures, "OTHER_SCRIPTS", ())
    figures.style()
    figure, axes = plt.subplots()
    axes.set_title(text)
    with pytest.warns(UserWarning) as said:
        figures.save(figure, NORMS, "05_mine", Workspace("mine"))
    (warning,) = said
    assert "05_mine: no typeface here has" in str(warning.message)
    assert (tmp_path / "figures" / "mine" / "05_mine.png").is_file()


def test_a_typeface_of_another_script_is_taken_where_there_is_one(monkeypatch):
    monkeypatch.setattr(figures, "OTHER_SCRIPTS", ("No such typeface", "DejaVu Serif"))
    figures.style()
    assert plt.rcParams["font.family"] == ["sans-serif", "DejaVu Serif"]
    figure, axes = plt.subplots()
    axes.set_title("plain")
    figure.canvas.draw()


@pytest.mark.parametrize("n", [0, 1])
def test_cards_of_few_features_and_of_prices(tmp_path, monkeypatch, n):
    """Small data may leave no feature for a card."""
    monkeypatch.setenv("SEQSAE_WORKSPACE", str(tmp_path))
    names = "feature concept auc density found retrained fires promotes".split()
    row = [3, "$$", 0.9, 0.1, 1, 4, ["$1 (1999)"], ["a $ b $"]]
    table = pd.DataFrame([row] * n, columns=names)
    figure = concepts.cards(table)
    texts = [t.get_text() for t in figure.findobj(plt.Text) if t.get_text()]
    assert not any("\\" in text for text in texts)
    assert any("no feature" in text for text in texts) == (not n)
    figures.save(figure, table, "07_cards", Workspace("mine"))


def test_kinds_of_label_that_few_features_have_are_not_drawn():
    """Another training has others, or none: the figure must not change its size for them."""
    rare = TOLD.head(1).assign(kind="decade", features=interpretability.FEW - 1)
    figures_of = [interpretability.predictions(table) for table in (TOLD, pd.concat([TOLD, rare]))]
    without, with_it = (figure.get_size_inches().tolist() for figure in figures_of)
    assert without == with_it
    enough = pd.concat([TOLD, rare.assign(features=interpretability.FEW)])
    assert interpretability.predictions(enough).get_size_inches()[1] > without[1]


def test_groups_of_a_kind_are_named_and_sorted_by_auc():
    names = ["lawyer", "K-12 student", "F"]
    table = rows({"value": names, "representation": ["neurons", "sae_last", "genres taken"]})
    table["attribute"] = table["value"].map(lambda name: "gender" if name == "F" else "occupation")
    table["auc"] = table["value"].map(dict(zip(names, (0.5, 0.9, 0.7), strict=True)))
    table = table.assign(low=table["auc"] - 0.1, high=table["auc"] + 0.1, users=20)
    axis = concepts.groups(table.drop(index=3)).axes[0]  # of one group a representation is unknown
    order = [label.get_text() for label in axis.get_yticklabels()]
    assert order == ["occupation: K-12 student", "occupation: lawyer", "gender: F"]
    last = {line.get_label(): line for line in axis.lines}["SAE, last layer"]
    assert last.get_xdata().tolist() == [0.9, 0.5, 0.7]
    np.testing.assert_allclose(last.get_ydata(), [0, 1, 2], atol=1e-9)
    assert last.get_markerfacecolor() == "white"
    bars = np.array(axis.collections[1].get_segments())[:, :, 0]
    np.testing.assert_allclose(bars, [[0.8, 1.0], [0.4, 0.6], [0.6, 0.8]])
    height = concepts.groups(table.iloc[:3]).get_figheight()
    assert concepts.groups(table).get_figheight() > height  # rows stay legible, however many
