"""The site: what its pages show, in the browser; `make site` builds it and runs this file."""

import importlib.util
import os
import re
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest

from seqsae_utils.apps.desk import Desk
from seqsae_utils.control import Scenario

PROJECT = Path(__file__).parents[1]
SHOWN = ["index", "knobs", "chapters", "notebooks/05_interpretability", "side_by_side", "claims",
         "atlas", "features", "workshop/INSTRUCTOR", "workshop/solutions/W3_turn_a_knob",
         "api/seqsae_utils/index", "api/seqsae_utils/control/edits/index"]  # fmt: skip


@pytest.fixture(scope="module")
def site() -> Path:
    """The folder of the site that was built; without one, these tests are skipped."""
    if not (folder := os.environ.get("SEQSAE_SITE")):
        pytest.skip("no site was built: `make site` builds it and runs these tests")
    return Path(folder).absolute()


@pytest.fixture(scope="module")
def address(site) -> str:
    """Where the site is served, as Pages would."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def page(address, chromium):
    """A page of the site; afterwards nobody else was asked, and nothing failed."""
    context = chromium.new_context(viewport={"width": 1440, "height": 900}, base_url=address)
    opened, wrong = context.new_page(), []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    own = address, "data:", "blob:"
    opened.on("request", lambda r: None if r.url.startswith(own) else wrong.append(r.url))
    known = lambda r: r.ok or r.status == 304  # noqa: E731 (304: as the browser has it)
    opened.on("response", lambda r: known(r) or wrong.append(f"{r.url}: {r.status}"))
    yield opened
    context.close()
    assert wrong == []


class Page(HTMLParser):
    """The links of a page, and what in it can be linked to."""

    def __init__(self, file: Path):
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids.add(found.get("id") or "")
        self.links += [found[name] for name in ("href", "src") if found.get(name)]


def broken(site: Path) -> list[str]:
    """Internal links of all pages that lead nowhere."""
    pages = {file: Page(file) for file in site.rglob("*.html")}
    wrong = []
    for file, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            anchor = unquote(parts.fragment)
            # The atlas draws its pages by itself.
            known = anchor.startswith("feature-") or target not in pages
            if not target.is_file() or anchor and not known and anchor not in pages[target].ids:
                wrong.append(f"{file.relative_to(site)}: {link}")
    return wrong


def test_pages_are_there(site):
    assert [name for name in SHOWN if not (site / f"{name}.html").is_file()] == []
    for file in (PROJECT / "notebooks").glob("**/0*.ipynb"):  # both datasets
        assert (site / file.relative_to(PROJECT).with_suffix(".html")).is_file(), file
    modules = [file for file in (PROJECT / "seqsae_utils").rglob("*.py") if file.stem[:2] != "__"]
    for file in modules:
        name = file.relative_to(PROJECT).with_suffix("").as_posix()
        assert (site / "api" / name / "index.html").is_file(), name


def test_internal_links_resolve(site, tmp_path):
    assert broken(site) == []
    (tmp_path / "a.html").write_text('<a href="b.html"></a><a href="#b"></a><a id="c" href="#c">')
    assert broken(tmp_path) == ["a.html: b.html", "a.html: #b"]  # it can fail


def test_claims_of_both_datasets_stand_side_by_side(site):
    text = (site / "claims.html").read_text(encoding="utf-8")
    for name in ("ml-100k", "ml-1m"):
        table = (PROJECT / "figures" / name / "claims.csv").read_text().splitlines()
        assert text.count("<strong>") >= len(table) - 1
    images = Page(site / "side_by_side.html").links
    of = {name: len(list((PROJECT / "figures" / name).glob("*.png"))) for name in
          ("ml-100k", "ml-1m")}  # fmt: skip
    assert len([link for link in images if link.endswith(".png")]) >= sum(of.values())


def test_search_finds_words(page):
    for words, expected in (("selectivity", "notebooks/05"), ("sae_delta", "api/seqsae_utils/")):
        page.goto(f"/search.html?q={words}")
        page.wait_for_selector("#search-results li a")
        links = page.locator("#search-results li a").evaluate_all("all => all.map(a => a.href)")
        assert any(expected in link for link in links), links


def titles(page, when: str) -> list[str]:
    return page.locator(f"#knobs td.{when} .name").all_inner_texts()


def set_knob(page, name: str, steps: int):
    knob = page.get_by_role("slider", name=name, exact=True)
    knob.focus()
    for _ in range(abs(steps)):
        page.keyboard.press("ArrowRight" if steps > 0 else "ArrowLeft")


def test_a_knob_turned_changes_the_list_and_at_zero_it_is_untouched(page):
    page.goto("/knobs.html")
    before = titles(page, "before")
    assert len(before) == 10 and titles(page, "after") == before
    names = page.locator("#knobs [role=group] label > span").all_inner_texts()
    set_knob(page, names[0], 3)
    turned = titles(page, "after")
    assert turned != before == titles(page, "before")
    assert re.match("[1-9]", page.get_by_role("status").inner_text())  # so many are new
    page.reload()  # the address has it
    assert titles(page, "after") == turned
    set_knob(page, names[0], -3)
    assert titles(page, "after") == before
    for name in names[:3]:
        set_knob(page, name, 2)
    first = page.get_by_role("slider", name=names[0], exact=True)
    assert first.get_attribute("aria-valuetext") == "0"
    page.get_by_role("button", name="All to zero").click()
    assert titles(page, "after") == before
    page.get_by_label("User").select_option(index=1)
    assert titles(page, "before") != before and titles(page, "after") == titles(page, "before")


@pytest.mark.parametrize("scheme, width", [("light", 1440), ("dark", 390)])
@pytest.mark.parametrize("name", SHOWN)
def test_axe_finds_nothing_serious(page, serious, name, scheme, width):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 844})
    page.goto(f"/{name}.html")
    page.wait_for_timeout(200)
    assert serious(page) == []


@pytest.mark.parametrize("name", SHOWN)
def test_a_phone_need_not_scroll_sideways(page, name):
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"/{name}.html")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


# Without a browser, and without a site: part of `make test`.


@pytest.fixture(scope="module")
def build():
    specification = importlib.util.spec_from_file_location("build", PROJECT / "site" / "build.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_lists_of_the_page_are_those_of_the_desk(build, smoke, monkeypatch):
    monkeypatch.setenv("SEQSAE_WORKSPACE", str(smoke.root))
    desk = Desk.of("smoke")
    one, two = desk.attributes[:2]
    settings = [{one: 0.0}, {one: 4.0}, {one: -2.0, two: 1.0}]
    found = build.knobs(desk, settings)
    assert set(found["lists"]) == {"", "0:4", "0:-2 1:1"}
    for setting, row in zip(settings, found["lists"].values(), strict=True):
        codes = [int(code, 36) for code in re.findall("..", row)]
        for place, user in enumerate(found["users"]):
            desk.choose(user)
            desk.play(Scenario(turn=setting))
            assert codes[10 * place : 10 * (place + 1)] == desk.lists()["item_after"].tolist()
            if setting == settings[0]:
                assert codes[10 * place : 10 * (place + 1)] == found["untouched"][place]


def test_every_setting_has_a_list_of_its_own(build):
    found = build.all_settings(["a", "b", "c"])
    n = len(build.STRENGTHS) - 1
    assert len(found) == len({str(setting) for setting in found}) == 1 + 3 * n + 3 * n * n


def test_a_link_to_what_the_site_lacks_is_plain_text(build, tmp_path):
    (tmp_path / "here.md").touch()
    text = "[a](here.md#b) [c](gone.md) [d](https://e.org) ![f](gone.png) [g](#h)"
    assert build.unlinked(text, tmp_path) == text.replace("[c](gone.md)", "c")
