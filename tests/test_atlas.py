"""The atlas: its numbers by pandas and by hand, and its pages in a real browser."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import expect
from scipy import sparse
from sklearn.metrics.pairwise import cosine_similarity

from seqsae_utils import run
from seqsae_utils.apps import atlas
from seqsae_utils.apps.desk import Desk
from seqsae_utils.data import load

HOSTILE = [
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "<!-- <script> \"Quotes\" & 'apostrophes' &amp; __CONTENT__",
    "七人の侍 (1954)",
    "Амаркорд \u2028 Léon",
    "Aword" + "withoutend" * 20,
]
DEAD, N_FEATURES, N_ITEMS, N_USERS = 5, 30, 40, 25


def made_up(n_features=N_FEATURES, n_items=N_ITEMS, n_users=N_USERS, length=30, seed=0) -> dict:
    """Arguments of `atlas.content`; the feature `DEAD` never fires, titles 1 to 6 are hostile."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, length, n_users)
    index = pd.DataFrame({"user": np.repeat(np.arange(n_users) + 100, lengths)})
    index["item"] = rng.integers(1, n_items + 1, len(index))
    index["position"] = index.groupby("user").cumcount()
    codes = rng.gamma(2, size=(len(index), n_features)).astype(np.float32)
    codes *= rng.random(codes.shape) < 0.2
    codes[:, DEAD] = 0
    codes[index["item"] == 4, 7] = 9  # so that a title is known to lead a list
    year = pd.array([1950 + i % 50 for i in range(n_items)], dtype="Int16")
    year[2], year[3] = pd.NA, 1954
    titles = [*HOSTILE, *(f"Film {i} ({year[i]})" for i in range(6, n_items))]
    names = ["Comedy", "Drama", "Film-Noir", "War"]
    features = pd.DataFrame({"feature": np.arange(n_features)})
    features["density"] = (codes > 0).mean(axis=0)
    features["written_for"] = "somebody else"
    features["label"] = [f"{names[i % 4]} number {i}" for i in range(n_features)]
    features["kind"] = [["attribute", "item"][i % 2] for i in range(n_features)]
    features.loc[3, ["label", "kind"]] = ""
    features.loc[DEAD, ["label", "kind"]] = None
    features["confidence"] = rng.random(n_features)
    features["evidence"] = [f"It fires on <b>{i}</b> & more." for i in range(n_features)]
    features["attribute"] = [names[i % 4] for i in range(n_features)]
    strong = atlas.names.MIN_CORRELATION + rng.random(n_features)
    features["correlation"] = np.where(codes.any(axis=0), strong, np.nan)
    features["promotes"], features["effect"] = "War", 9.01234
    return {
        "features": features,
        "directions": rng.normal(size=(n_features, 8)).astype(np.float32),
        "head": rng.normal(size=(n_items + 1, 8)).astype(np.float32),
        "codes": sparse.csr_array(codes),
        "index": index,
        "items": pd.DataFrame(
            {
                "item": np.arange(1, n_items + 1),
                "title": titles,
                "attributes": [["Comedy|Drama", "War", ""][i % 3] for i in range(n_items)],
                "year": year,
            }
        ),
    }


def write(file: Path, **world) -> None:
    atlas.write(file, {"label": 'Toy <&"', "user": None, **atlas.content(**world)})


def content(file: Path) -> dict:
    """What a page holds, found as a browser does: up to the first end of a script."""
    text = file.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="content">(.*?)</script>', text, re.DOTALL)[1])


@pytest.fixture(scope="module")
def world() -> dict:
    return made_up()


@pytest.fixture(scope="module")
def file(world, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("atlas") / "atlas.html"
    write(path, **world)
    return path


@pytest.fixture(scope="module")
def found(file) -> dict:
    return content(file)


def test_the_table_is_that_of_the_features(world, found):
    table, features = found["table"], world["features"]
    assert table["label"][:DEAD] == features["label"].tolist()[:DEAD]
    np.testing.assert_allclose(table["confidence"], features["confidence"], rtol=0.005)
    assert table["label"][DEAD] is None and table["correlation"][DEAD] is None
    assert "written_for" not in table
    assert (found["n_positions"], found["n_users"]) == (len(world["index"]), N_USERS)


def test_titles_come_through_unchanged(world, found):
    titles = world["items"].set_index("title")
    assert set(HOSTILE) <= {title for title, _, _ in found["items"]}
    for title, year, attributes in found["items"]:
        expected = titles.loc[title]
        assert attributes == expected["attributes"].replace("|", ", ")
        assert year is None if pd.isna(expected["year"]) else year == expected["year"]


def test_top_items_are_those_of_pandas(world, found):
    dense, titles = world["codes"].toarray(), world["items"].set_index("item")["title"]
    for feature, page in enumerate(found["pages"]):
        table = pd.DataFrame({"item": world["index"]["item"], "activation": dense[:, feature]})
        mean = table.groupby("item")["activation"].agg(["mean", "size"])
        mean = mean[(mean["mean"] > 0) & (mean["size"] >= 3)].nlargest(10, "mean")
        shown = [(found["items"][i][0], value, size) for i, value, size in page["top"]]
        assert [row[0] for row in shown] == titles[mean.index].tolist()
        np.testing.assert_allclose([row[1] for row in shown], mean["mean"], rtol=0.005)
        assert [row[2] for row in shown] == mean["size"].tolist()


def test_rare_items_are_shown_only_where_no_other_fires():
    world = made_up(n_items=200, n_users=10)
    item, codes = world["index"]["item"], world["codes"].toarray()
    counts = item.value_counts()
    rare, frequent = counts[counts == 2].index[0], counts.index[0]
    codes[:, 0] = item == rare
    codes[:, 1] = 5 * (item == rare) + (item == frequent)
    found = atlas.content(**world | {"codes": sparse.csr_array(codes)})
    for feature, shown in {0: rare, 1: frequent}.items():
        ((place, mean, positions),) = found["pages"][feature]["top"]
        assert found["items"][place][0] == world["items"]["title"][shown - 1]
        assert (mean, positions) == (1.0, counts[shown])


def test_histograms_count_every_firing_by_its_strength(world, found):
    dense = world["codes"].toarray()
    for feature, page in enumerate(found["pages"]):
        fires = dense[:, feature][dense[:, feature] > 0]
        assert sum(page["histogram"]) == page["positions"] == len(fires)
        if len(fires):
            assert page["strongest"] == pytest.approx(fires.max(), rel=0.005)
            half = sum(page["histogram"][: atlas.N_BARS // 2])
            assert half == (fires < fires.max() / 2).sum()


def test_histories_are_the_users_strongest_moments(world, found):
    index, titles = world["index"].copy(), world["items"].set_index("item")["title"]
    for feature, page in enumerate(found["pages"]):
        index["activation"] = world["codes"][:, [feature]].toarray().ravel()
        strongest = index.groupby("user")["activation"].max().nlargest(3)
        assert len(page["histories"]) == (0 if feature == DEAD else 3)
        peaks = []
        for history in page["histories"]:
            of_user = index[index["user"] == history["user"]].reset_index()
            rows = of_user.loc[history["first"] - 1 :].head(len(history["items"]))
            shown = [found["items"][item][0] for item in history["items"]]
            assert shown == titles[rows["item"]].tolist()
            np.testing.assert_allclose(history["activations"], rows["activation"], rtol=0.005)
            assert history["of"] == len(of_user)
            peak = history["first"] - 1 + history["peak"]
            assert of_user["activation"][peak] == of_user["activation"].max()
            least, last = max(0, peak - atlas.BEFORE), min(len(of_user) - 1, peak + atlas.AFTER)
            assert (rows.index[0], rows.index[-1]) == (least, last)
            peaks.append(of_user["activation"][peak])
        if peaks:
            assert peaks == strongest.tolist()


def test_promoted_and_suppressed_items_by_hand(world, found):
    titles = world["items"].set_index("item")["title"]
    for feature, page in enumerate(found["pages"]):
        logits = pd.Series(world["head"] @ world["directions"][feature]).drop(0)
        logits = (logits - logits.mean()).sort_values()
        for name, expected in {"promoted": logits[::-1], "suppressed": logits}.items():
            assert [found["items"][i][0] for i, _ in page[name]] == [*titles[expected.index[:10]]]
            np.testing.assert_allclose([x for _, x in page[name]], expected[:10], rtol=0.006)


def test_nearest_features_by_scikit_learn(world, found):
    cosine = pd.DataFrame(cosine_similarity(world["directions"])).drop(columns=DEAD)
    for feature, page in enumerate(found["pages"]):
        nearest = cosine.loc[feature].drop(feature, errors="ignore").nlargest(atlas.N_NEAREST)
        assert [other for other, _ in page["nearest"]] == nearest.index.tolist()
        np.testing.assert_allclose([x for _, x in page["nearest"]], nearest, atol=0.006)


def test_the_same_input_gives_the_same_bytes(world, file, tmp_path):
    write(tmp_path / "again.html", **world)
    assert (tmp_path / "again.html").read_bytes() == file.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again.html"]


def test_tables_of_another_dictionary_are_refused_and_nothing_is_written(world, tmp_path):
    with pytest.raises(ValueError, match="29 rows in the table of features, 30 directions"):
        write(tmp_path / "atlas.html", **{**world, "features": world["features"][1:]})
    assert not any(tmp_path.iterdir())


def test_an_atlas_as_large_as_that_of_movielens_stays_below_ten_megabytes(tmp_path):
    world = made_up(n_features=512, n_items=1_400, n_users=95, length=200)
    write(tmp_path / "atlas.html", **world)
    assert 2e5 < (tmp_path / "atlas.html").stat().st_size < 10e6


def test_the_command_writes_the_atlas_of_a_profile(smoke, monkeypatch, capsys):
    monkeypatch.setenv("SEQSAE_WORKSPACE", str(smoke.root))
    assert run.main(["atlas", "--profile", "smoke"]) == 0
    path = smoke.artifacts / "atlas.html"
    megabytes = path.stat().st_size / 1e6
    assert capsys.readouterr().out == f"{os.path.relpath(path)}: {megabytes:.1f} MB\n"
    features = pd.read_parquet(smoke.artifacts / "interpretability" / "features.parquet")
    found = content(path)
    assert found["table"]["feature"] == features["feature"].tolist()
    share = [page["positions"] / found["n_positions"] for page in found["pages"]]
    assert share == pytest.approx(features["density"].tolist())
    told = np.array(found["table"]["next_correlation"], float)
    assert (
        np.isfinite(told[np.array(share) > 0]).any() and (np.abs(told[~np.isnan(told)]) < 1).all()
    )
    assert set(found["table"]["next"]) <= set(load(smoke.artifacts / "data").attributes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "data is missing: run `make paper PROFILE=ml-100k`"),
        (["--profile", "smok"], "nearest: 'smoke'"),
        (["-p", "k", "4"], "has no parameters"),
    ],
)
def test_the_command_says_what_is_missing(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SEQSAE_WORKSPACE", str(tmp_path))
    assert run.main(["atlas", *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not any(tmp_path.rglob("*.html"))


# In the browser


@pytest.fixture
def opened(chromium, file):
    """Opens an atlas; afterwards, nothing may have been asked of a network, or gone wrong."""
    contexts, wrong = [], []

    def open_page(address: str = "", path: Path = file, **options):
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(5_000)
        page.on("request", lambda request: wrong.append(request.url))
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(path.as_uri() + address)
        assert wrong.pop(0).startswith(path.as_uri())  # the file itself is the only request
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [text for text in wrong if not text.startswith("data:")] == []


def features_of(page) -> list[int]:
    rows = page.locator("#features tbody tr").all()
    return [int(row.get_attribute("data-feature")) for row in rows]


def in_order(world) -> pd.DataFrame:
    """Living features, named ones and those that fire most first, as the list opens."""
    alive = world["features"].drop(DEAD).round({"density": 3})
    alive["unnamed"] = alive["label"] == ""
    return alive.sort_values(["unnamed", "density"], ascending=[True, False], kind="stable")


def test_the_list_shows_all_alive_features(opened, world):
    page, alive = opened(), in_order(world)
    assert features_of(page) == alive["feature"].tolist()
    assert page.locator("h1:visible").inner_text() == 'Feature atlas of Toy <&"'
    assert "30 features of a sparse autoencoder, 1 of them dead" in page.inner_text("#summary")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("noir number", {2, 6, 10, 14, 18, 22, 26}),  # a label
        ("WAR #11", {11}),
        ("#17", {17}),
        ("nothing of the kind", set()),
    ],
)
def test_search_narrows_by_label(opened, query, expected):
    page = opened()
    page.fill("#search", query)
    assert set(features_of(page)) == expected
    assert page.inner_text("#count") == f"{len(expected)} feature{'s' * (len(expected) != 1)}"
    page.fill("#search", "")
    assert len(features_of(page)) == N_FEATURES - 1


def test_search_narrows_by_attribute(opened, world):
    page = opened()
    page.fill("#search", "drama")
    # 3 has no label, so its attribute, War, is all that can be found of it
    assert set(features_of(page)) == {i for i in range(1, N_FEATURES, 4) if i != DEAD}
    page.fill("#search", "war")
    assert 3 in features_of(page)


@pytest.mark.parametrize("query", ["七人", "leon амаркорд", "FILM 20 (1970)", "</script>"])
def test_search_narrows_by_title(opened, found, query):
    page = opened()
    page.fill("#search", query)
    titles = {"七人": HOSTILE[3], "leon амаркорд": HOSTILE[4], "</script>": HOSTILE[0]}
    title = titles.get(query, "Film 20 (1970)")
    has = {f for f, page_ in enumerate(found["pages"])
           if title in [found["items"][i][0] for i, *_ in page_["top"]]}  # fmt: skip
    assert 0 < len(has) < N_FEATURES - 1
    assert set(features_of(page)) == has
    assert page.locator("#features tbody mark").count() >= len(has)


def test_search_finds_concepts_and_puts_labels_first(opened, world, tmp_path):
    features = world["features"].assign(concept="")
    features.loc[[9, 13], "concept"] = ["director: Kubrick", "decade: Drama number 29"]
    features.loc[[21, 25], "label"] = ["Kubrick", ""]
    write(tmp_path / "atlas.html", **world | {"features": features})
    page = opened(path=tmp_path / "atlas.html")
    page.fill("#search", "kubrick")
    assert features_of(page) == [21, 9]
    page.fill("#search", "drama number 29")
    assert features_of(page) == [29, 13]  # not by how often they fire
    page.fill("#search", "")
    assert {*features_of(page)[-2:]} == {3, 25}  # unnamed ones


def test_what_a_feature_hardly_knows_is_no_name_for_it(world):
    features = world["features"].copy()
    logits = world["directions"][:2] @ world["head"][1:].T
    features.loc[[0, 1], "correlation"] = atlas.names.MIN_CORRELATION + np.array([-0.01, 0.01])
    half = atlas.names.MIN_EFFECT * logits.std(axis=1)
    features.loc[[0, 1], "effect"] = half * [0.98, 1.02]
    table = atlas.content(**world | {"features": features})["table"]
    for name, number in (("attribute", "correlation"), ("promotes", "effect")):
        assert table[name][0] is table[number][0] is None
        assert table[name][1] == features[name][1] and table[number][1] is not None


def test_an_era_is_named_where_a_feature_fires_on_and_raises_old_items():
    rng = np.random.default_rng(0)
    year = pd.Series(rng.integers(1930, 2000, 400)).astype("Int16")
    year[5] = pd.NA
    head = rng.normal(size=(401, 4))
    old = year.between(1940, 1949).fillna(False).to_numpy()
    head[1:, 0] = 5 * old + rng.normal(size=400)
    directions = np.eye(4)[[0, 0, 0, 0, 1]] * [[1], [-1], [1], [1], [1]]
    features = pd.DataFrame({"feature": range(5), "label": ["", "", "War", None, ""]})
    features = features.assign(kind="", evidence="", year=[-0.3, -0.3, -0.3, 0.3, -0.3])
    found = atlas.names.eras(features, directions, head, year)
    assert found["label"].fillna("").tolist() == ["before 1950", "", "War", "", ""]
    assert found["kind"].tolist() == ["era", "", "", "", ""]
    top = np.argsort(-np.where(year.isna(), -np.inf, head[1:, 0]))[:30]
    said = f"{old[top].sum()} of the 30 items that it raises most are from before 1950"
    assert found["evidence"][0].startswith(said)
    undated = year.where(year.isna())
    assert atlas.names.eras(features, directions, head, undated).equals(features)


def test_the_lists_of_a_feature_are_those_of_the_desk(smoke, monkeypatch, opened):
    monkeypatch.setenv("SEQSAE_WORKSPACE", str(smoke.root))
    assert run.main(["atlas", "--profile", "smoke"]) == 0
    found, engine = content(smoke.artifacts / "atlas.html"), Desk.of("smoke")
    assert found["user"] == engine.state.user
    feature = max(engine.alive[:20], key=lambda f: len({*map(tuple, found["pages"][f]["turned"])}))
    for strength, places in zip(atlas.STRENGTHS, found["pages"][feature]["turned"], strict=True):
        engine.turn(feature, strength)
        shown = [found["items"][place][0] for place in places]
        assert shown == engine.lists()["title_after"].tolist()
    assert found["pages"][feature]["turned"][0] != found["pages"][feature]["turned"][2]
    page = opened(f"#feature-{feature}", path=smoke.artifacts / "atlas.html")
    last = page.locator("table.turned td:last-child").all_inner_texts()
    assert [re.sub(r" \(\d{4}\)$", "", text) for text in last] == [
        re.sub(r" \(\d{4}\)$", "", text) for text in shown
    ]
    new = {*shown} - {found["items"][i][0] for i in found["pages"][feature]["turned"][0]}
    assert page.locator("table.turned td:last-child b").count() == len(new)


def test_the_filter_knows_kinds_and_the_dead(opened):
    page = opened()
    page.select_option("#filter", label="item (13)")
    assert set(features_of(page)) == {i for i in range(1, N_FEATURES, 2) if i not in (3, DEAD)}
    page.select_option("#filter", label="unnamed (1)")
    assert features_of(page) == [3]
    page.select_option("#filter", label="dead (1)")
    assert features_of(page) == [DEAD]
    page.click(f"a[href='#feature-{DEAD}']")
    expect(page.locator("#page")).to_contain_text("never fires on the test users")
    expect(page.locator("#page")).to_contain_text("Promoted")


@pytest.mark.parametrize("column", ["correlation", "label"])
@pytest.mark.parametrize("how", ["mouse", "keyboard"])
def test_a_column_sorts_and_reverses(opened, world, column, how):
    page = opened()
    head = page.locator(f"#features th[data-key={column}]")

    def press():
        if how == "mouse":
            head.locator("button").click()
        else:
            head.locator("button").focus()
            page.keyboard.press("Enter")

    assert head.get_attribute("aria-sort") is None
    press()
    descending = column == "correlation"  # numbers begin with the largest
    assert head.get_attribute("aria-sort") == ("descending" if descending else "ascending")
    alive = world["features"].drop(DEAD).replace({"label": {"": "zzz"}})  # unnamed ones last
    expected = alive.sort_values(column, ascending=not descending, kind="stable")
    assert alive[column].is_unique
    assert features_of(page) == expected["feature"].tolist()
    press()
    assert head.get_attribute("aria-sort") == ("ascending" if descending else "descending")
    named = [feature for feature in expected["feature"] if feature != 3 or column != "label"]
    assert features_of(page)[: len(named)] == named[::-1]
    assert page.locator("#features th[aria-sort]").count() == 1


def test_a_feature_opens_on_its_page_and_back_leads_back(opened, found):
    page = opened()
    page.fill("#search", "#7")
    page.locator("#features tbody tr").click(position={"x": 5, "y": 5})
    assert page.url.endswith("#feature-7")
    assert page.locator("h1:visible").inner_text().startswith("Feature 7: War number 7")
    assert page.inner_text(".evidence") == "It fires on <b>7</b> & more."
    text = page.inner_text("#page")
    for number, mean, positions in found["pages"][7]["top"]:
        title, year, _ = found["items"][number]
        row = page.locator("section", has_text="Top items").get_by_role("row").filter(
            has_text=re.sub(r" \(\d{4}\)", "", title)[:40]
        ).first  # fmt: skip
        expect(row).to_contain_text(str(positions))
        expect(row).to_contain_text(f"{mean:.2f}")
        expect(row).to_contain_text(str(year or ""))
    for part in ("Confidence", "Activations", "Promoted", "Suppressed", "Nearest features"):
        assert part in text
    assert page.locator("svg rect").count() == atlas.N_BARS
    assert page.locator("ol.history").count() == 3
    page.go_back()
    expect(page.locator("#page")).to_be_hidden()
    assert features_of(page) == [7]  # the search is as it was left


def test_the_keyboard_opens_a_feature(opened):
    page = opened()
    page.locator("#features tbody a").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#page h1")).to_be_visible()
    page.get_by_role("link", name="All features").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#features")).to_be_visible()


def test_links_lead_to_neighbours(opened, found, world):
    page = opened("#feature-7")
    nearest, _ = found["pages"][7]["nearest"][0]
    page.locator("ul.nearest a").first.click()
    expect(page.locator("#page h1")).to_contain_text(f"Feature {nearest}:")
    assert page.title() == f"Feature {nearest}: {world['features']['label'][nearest]} · " \
        'Feature atlas of Toy <&"'  # fmt: skip
    page.go_back()
    expect(page.locator("#page h1")).to_contain_text("Feature 7:")
    order = in_order(world)["feature"].tolist()
    after = order[order.index(7) + 1]
    page.get_by_role("link", name="Next").click()
    expect(page.locator("#page h1")).to_contain_text(f"Feature {after}:")


def test_an_address_that_names_no_feature_shows_the_list(opened):
    assert opened("#feature-99").locator("#features").is_visible()


def test_a_history_tells_its_activations(opened, found):
    page = opened("#feature-7")
    history = found["pages"][7]["histories"][0]
    items = page.locator("ol.history").first.locator("li")
    title = found["items"][history["items"][history["peak"]]][0]
    assert title == HOSTILE[3]
    peak = items.nth(history["peak"])
    assert peak.inner_text() == title and "peak" in peak.get_attribute("class")
    peak.focus()
    tip = "el => getComputedStyle(el, '::after').content"
    assert peak.evaluate(tip) == '"activation 9 · Comedy, Drama"'
    silent = items.nth(history["activations"].index(0))
    colour = "el => getComputedStyle(el).backgroundColor"
    assert silent.evaluate(colour) != peak.evaluate(colour)


def contrast(a: list[float], b: list[float]) -> float:
    """WCAG 2's ratio of two sRGB colours, components from 0 to 1."""
    linear = np.array([a, b])
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    dark, light = np.sort(linear @ [0.2126, 0.7152, 0.0722])
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_schemes(opened, scheme):
    page = opened("#feature-7", color_scheme=scheme)

    def colour(where: str, name: str) -> list[float]:
        value = page.eval_on_selector(where, f"el => getComputedStyle(el).{name}")
        scale = 1 if value.startswith("color(srgb") else 255
        return [float(x) / scale for x in re.findall(r"[\d.]+", value)[:3]]

    paper = colour("body", "backgroundColor")
    assert (np.mean(paper) < 0.5) == (scheme == "dark")
    for where in ("body", ".note", ".evidence", "ul.nearest a", ".tag"):
        assert contrast(colour(where, "color"), paper) > 4.5, where
    shade = colour("ol.history li.peak", "backgroundColor")
    assert contrast(colour("ol.history li.peak", "color"), shade) > 4.5
    assert contrast(shade, paper) > 1.5


@pytest.mark.parametrize("address", ["", "#feature-7", f"#feature-{DEAD}", "#feature-0"])
def test_a_phone_need_not_scroll_sideways(opened, address):
    page = opened(address, viewport={"width": 375, "height": 800}, has_touch=True)
    width = page.evaluate("document.documentElement.scrollWidth")
    inner = page.evaluate(
        "Math.max(...[...document.querySelectorAll('main *')].map(el => "
        "el.getBoundingClientRect().right))"
    )
    assert width <= 375 and inner <= 375
    if not address:
        assert page.locator("th[data-key=label]").is_visible()
        assert page.locator("th[data-key=promotes]").is_hidden()


def test_titles_are_text_and_nothing_else(opened, found):
    page, shown = opened(), ""
    for feature in range(N_FEATURES):
        page.evaluate(f"location.hash = 'feature-{feature}'")
        expect(page.locator("#page h1")).to_contain_text(f"Feature {feature}:")
        shown += page.evaluate("document.getElementById('page').textContent")
    assert [title for title in HOSTILE if title.removesuffix(" (1954)") not in shown] == []
    assert page.evaluate("window.hacked") is None
    assert page.locator("img, b, script script").count() == 0


def test_thousands_of_features_come_as_they_are_scrolled_to(opened, tmp_path):
    world = made_up(n_features=4_096, n_items=300)
    write(tmp_path / "large.html", **world)
    page = opened(path=tmp_path / "large.html")
    assert page.inner_text("#count") == "4,095 features"
    first = page.locator("#features tbody tr").count()
    assert first <= 200
    page.locator("#more").scroll_into_view_if_needed()
    expect(page.locator("#features tbody tr")).not_to_have_count(first)
    milliseconds = page.evaluate(
        "() => { const start = performance.now(); select(); return performance.now() - start; }"
    )
    assert milliseconds < 1_000


def test_columns_that_nobody_measured_are_left_out(opened, world, tmp_path):
    few = world["features"][["feature", "density", "label", "correlation", "promotes", "effect"]]
    write(tmp_path / "few.html", **{**world, "features": few})
    page = opened(path=tmp_path / "few.html")
    assert page.locator("th[data-key=confidence], th[data-key=kind]").count() == 0
    assert page.locator("th[data-key=correlation]").is_visible()
    page.locator("#features tbody a").first.click()
    expect(page.locator("#page h1")).to_be_visible()


def test_the_atlas_of_a_profile_opens(opened, smoke, monkeypatch):
    monkeypatch.setenv("SEQSAE_WORKSPACE", str(smoke.root))
    run.main(["atlas", "--profile", "smoke"])
    page = opened("#feature-0", path=smoke.artifacts / "atlas.html")
    expect(page.locator("#page h1")).to_contain_text("Feature 0:")
