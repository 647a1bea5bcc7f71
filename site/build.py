"""Gather what the site shows, as ``site/_build/source``, for Sphinx: ``make site`` calls it.

Folders lie there as in the project, so that links between files hold. Notebooks are copied as they
were executed. Atlas and knobs are those of the made-up catalogue of `make demo`.
"""

import json
import os
import re
import shutil
from itertools import combinations, product
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd

from seqsae_utils import claims, control, recommender
from seqsae_utils.apps import atlas
from seqsae_utils.apps.desk import Desk, pages
from seqsae_utils.control import Scenario
from seqsae_utils.run.demo import prepare
from seqsae_utils.workspace import STAGES, Workspace, project

HERE = Path(__file__).parent
BUILD = HERE / "_build"
SOURCE = BUILD / "source"
#: Users of the page of knobs, strengths of a knob, and knobs that may be turned at a time.
N_USERS, STRENGTHS, AT_A_TIME = 4, (-4, -2, -1, 0, 1, 2, 4), 2


def main() -> None:
    """Write ``site/_build/source``."""
    shutil.rmtree(BUILD, ignore_errors=True)
    copy_sources()
    datasets = {name: claims.PUBLISHED[name] for name in claims.MAIN}
    tables = {
        label: pd.read_csv(project() / "figures" / name / "claims.csv").set_index("claim")
        for name, label in datasets.items()
    }
    write("headlines.md", side_by_side_claims(tables, None))
    write("claims.md", claims_page(datasets, tables))
    write("side_by_side.md", figures_page(datasets))
    write("chapters.md", chapters_page())
    os.environ["SEQSAE_WORKSPACE"] = str(BUILD / "workspace")
    prepare()
    write("../extra/features.html", features(atlas.build(Workspace("smoke"))))
    desk = Desk.of("smoke")
    write("atlas.md", atlas_page(desk))
    write("knobs.md", knobs_page(desk))
    unlink_what_is_elsewhere()


def write(name: str, text: str) -> None:
    """Write a file of the source."""
    file = SOURCE / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def copy_sources() -> None:
    """Copy what is shown as it is."""
    for pattern in (
        "README.md",
        "CHANGELOG.md",
        "notebooks/0*.ipynb",
        "notebooks/*/0*.ipynb",
        "notebooks/study.ipynb",
        "workshop/*.md",
        "workshop/*/W*.ipynb",
        "figures/RESULTS.md",
        "figures/*.png",
        "figures/*/*.png",
        "figures/*/claims.csv",
        "figures/*/trainings.csv",
    ):
        for file in project().glob(pattern):
            target = SOURCE / file.relative_to(project())
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    shutil.copy(HERE / "index.md", SOURCE)
    guide = SOURCE / "workshop" / "INSTRUCTOR.md"
    notebooks = sorted((SOURCE / "workshop").glob("*/*.ipynb"))
    names = [file.relative_to(guide.parent).with_suffix("").as_posix() for file in notebooks]
    guide.write_text(guide.read_text() + toctree(["opening", *names]))


def toctree(names: list[str]) -> str:
    """A list of pages, for the side bar."""
    return "\n\n```{toctree}\n:hidden:\n\n" + "\n".join(names) + "\n```\n"


def chapters_page() -> str:
    """The list of notebooks, of all datasets."""
    lines = ["# The chapters", "", "Executed notebooks, as the project holds them.", ""]
    folder, shown = SOURCE / "notebooks", []
    for name in STAGES.values():
        head = nbformat.read(folder / f"{name}.ipynb", as_version=4).cells[0].source
        title = head.splitlines()[0].lstrip("# ")
        asked = re.search(r"\*\*Question: (.*?)\*\*", head)
        question = f": {asked[1]}" if asked else ""
        copies = [file.relative_to(SOURCE) for file in sorted(folder.glob(f"*/{name}.ipynb"))]
        others = "".join(f" ([on {claims.PUBLISHED[c.parent.name]}]({c}))" for c in copies)
        lines.append(f"* [{title}](notebooks/{name}.ipynb){others}{question}")
        shown += [f"notebooks/{name}", *(str(copy.with_suffix("")) for copy in copies)]
    study = "notebooks/study"
    lines.append(f"* [User study]({study}.ipynb): how it is evaluated, on made-up participants")
    return "\n".join(lines) + toctree([*shown, study])


def heading(stage: str) -> str:
    """How a stage is called in a heading."""
    return "SAE" if stage == "sae" else stage.capitalize()


def side_by_side_claims(tables: dict[str, pd.DataFrame], stage: str | None) -> str:
    """A table: a row for each claim of a stage or each headline, a column for each dataset."""
    first = next(iter(tables.values()))
    rows = first.index[first["headline"] if stage is None else first["stage"] == stage]
    lines = [f"| claim | {' | '.join(tables)} |", "| --- " * (1 + len(tables)) + "|"]
    for claim in rows:
        cells = [verdict(table.loc[claim]) if claim in table.index else "" for table in
                 tables.values()]  # fmt: skip
        lines.append(f"| {claim} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def verdict(row: pd.Series) -> str:
    """A claim's verdict, its number, and the best baseline with its number."""
    number, control_number = (claims.printed(row[key]) for key in ("number", "control_number"))
    return f"**{row['verdict']}**: {number} vs {control_number} ({row['control']})"


def claims_page(datasets: dict[str, str], tables: dict[str, pd.DataFrame]) -> str:
    """All claims, the datasets side by side."""
    files = " · ".join(
        f"{{download}}`{what} of {label} <figures/{name}/{what}.csv>`"
        for name, label in datasets.items()
        for what in ("claims", "trainings")
    )
    parts = ["# Claims", claims.INTRODUCTION,
             "Here: verdict, result, and behind \"vs\" the best baseline. [With intervals, and on "
             f"other users](figures/RESULTS.md). As data: {files}"]  # fmt: skip
    for stage in STAGES:
        parts += [f"## {heading(stage)}", side_by_side_claims(tables, stage)]
    return "\n\n".join(parts) + toctree(["figures/RESULTS"])


def captions() -> dict[str, str]:
    """The caption of each figure, where one of the next three cells has it."""
    found: dict[str, str] = {}
    for file in sorted((SOURCE / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(file, as_version=4).cells
        for number, cell in enumerate(cells):
            name = re.search(r'figures\.save\(.*"(\d\d_\w+)"', cell.source, re.DOTALL)
            below = [other.source for other in cells[number + 1 : number + 4]]
            said = [source for source in below if source.startswith("**Figure")]
            if cell.cell_type == "code" and name and said:
                found[name[1]] = said[0].partition("\n\n")[0]
    return found


def figures_page(datasets: dict[str, str]) -> str:
    """Each figure of the first dataset, beside the same of the others."""
    parts, said = ["# Two datasets, side by side"], captions()
    parts.append("One training of each. The captions were written for MovieLens-100K.")
    for stage, chapter in STAGES.items():
        names = sorted((SOURCE / "figures" / next(iter(datasets))).glob(f"{chapter[:2]}_*.png"))
        parts += [f"## {heading(stage)}"] * bool(names)
        for name in names:
            title = name.stem[3:].replace("_", " ").capitalize()
            parts += [f"### {title}", "::::{grid} 1 1 2 2\n:gutter: 2\n"]
            for dataset, label in datasets.items():
                image = f"figures/{dataset}/{name.name}"
                if (SOURCE / image).is_file():
                    about = f"{title}, {label}"
                    parts.append(
                        f":::{{grid-item}}\n**{label}**\n\n```{{image}} {image}\n:alt: {about}\n"
                        "```\n:::"
                    )
            parts += ["::::", said.get(name.stem, "")]
    return "\n\n".join(parts) + "\n"


def features(file: Path) -> str:
    """The page of the atlas, with a way back to the site."""
    back = '<main>\n<p class="small"><a href="atlas.html">← seqsae</a></p>'
    return file.read_text(encoding="utf-8").replace("<main>", back, 1)


def atlas_page(desk: Desk) -> str:
    """What the atlas is, and a table of its features that the site's search can find."""
    lines = [
        "# Feature atlas",
        "",
        f"The SAE of a made-up catalogue has {len(desk.features)} features. Its films and users "
        "are invented, so the truth is known: users follow planted concepts. "
        '<a href="features.html">Open the atlas</a> to search and sort; each feature has a page '
        "with the items that activate it, the items that it promotes, and a list with the feature "
        "at strength 0, 2 and 4. `make atlas` writes the same for any dataset.",
        "",
        "| feature | label, or items that it raises | evidence |",
        "| --- | --- | --- |",
    ]
    table = desk.features.set_index("feature")
    for feature in desk.alive:
        row = table.loc[feature]
        evidence = row["evidence"] if isinstance(row["evidence"], str) else ""
        name = text(desk.names[feature])
        link = f'<a href="features.html#feature-{feature}">{feature}</a>'
        lines.append(f"| {link} | {name} | {text(evidence)} |")
    return "\n".join(lines) + "\n"


def text(words: str) -> str:
    """Words that Markdown shows as they are, also in a table."""
    return re.sub(r"([\\`*_{}\[\]<>|])", r"\\\1", words)


def knobs_page(desk: Desk) -> str:
    """The page on which a reader turns knobs: its content, style and script are in it."""
    content = json.dumps(knobs(desk), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    template = (HERE / "knobs.html").read_text(encoding="utf-8")
    page = template.replace("__STYLE__", pages.STYLE)
    write("knobs.html", page.replace("__CONTENT__", content.replace("<", "\\u003c")))
    return "---\nhide-toc: true\n---\n# Turn the knobs\n\n```{raw} html\n:file: knobs.html\n```\n"


def knobs(desk: Desk, settings: list[dict[str, float]] | None = None) -> dict:
    """The lists of some users under each setting of at most `AT_A_TIME` knobs, for JSON.

    A list is ten items, two digits of base 36 each; those of all users stand in a row. A setting is
    called after its knobs, by place among `attributes`: ``3:-2 7:4``. `settings` has strengths by
    attribute; all by default.
    """
    users = varied(desk)
    histories = [desk.sequences[user] for user in users]
    if settings is None:
        settings = all_settings(desk.attributes)
    ranks, untouched = [], []
    for user in users:
        desk.choose(user)
        ranks.append(desk.before.rank.tolist())
        untouched.append(desk.before.items.tolist())
    lists = {}
    for setting in settings:
        delta = control.sae_delta(desk.dictionary, Scenario(turn=setting).edits(desk.knobs))
        scores = control.steered_scorer(desk.model, desk.site, delta)(histories)
        items = recommender.best(recommender.unseen(scores, histories), desk.before.items.size)
        name = " ".join(f"{desk.attributes.index(a)}:{s:g}" for a, s in setting.items() if s)
        lists[name] = "".join(np.base_repr(int(i), 36).zfill(2) for i in items.ravel())
    of = [np.flatnonzero(row).tolist() for row in desk.matrix]
    return {
        "attributes": desk.attributes,
        "counted": desk.counted,
        "strengths": STRENGTHS,
        "at_a_time": AT_A_TIME,
        "users": users,
        "histories": [history.tolist() for history in histories],
        "titles": desk.dataset.unique_titles,
        "of": of,
        "untouched": untouched,
        "ranks": ranks,
        "lists": lists,
    }


def varied(desk: Desk) -> list[int]:
    """The `N_USERS` test users whose untouched lists are least of one attribute."""
    histories = [*desk.sequences.values()]
    scores = recommender.unseen(desk.model.next_item_scores(histories), histories)
    lists = recommender.best(scores, desk.before.items.size).numpy()
    most = desk.matrix[lists].mean(axis=1).max(axis=1)
    return [[*desk.sequences][i] for i in np.argsort(most, kind="stable")[:N_USERS]]


def all_settings(attributes: list[str]) -> list[dict[str, float]]:
    """Every knob at 0, and every choice of at most `AT_A_TIME` knobs at every other strength."""
    turned = [strength for strength in STRENGTHS if strength]
    found: list[dict[str, float]] = [dict.fromkeys(attributes, 0.0)]
    for n in range(1, AT_A_TIME + 1):
        for some in combinations(attributes, n):
            found += [dict(zip(some, at, strict=True)) for at in product(turned, repeat=n)]
    return found


def unlink_what_is_elsewhere() -> None:
    """Make a link to a file that the site lacks plain text: the project has it, not the site."""
    for file in SOURCE.rglob("*.md"):
        file.write_text(unlinked(file.read_text(encoding="utf-8"), file.parent), encoding="utf-8")
    for file in SOURCE.rglob("*.ipynb"):
        book = nbformat.read(file, as_version=4)
        for cell in book.cells:
            if cell.cell_type == "markdown":
                cell.source = unlinked(cell.source, file.parent)
        file.write_text(nbformat.writes(book), encoding="utf-8")


def unlinked(markdown: str, folder: Path) -> str:
    """Markdown whose links to files that are not in the source are plain text."""

    def kept(link: re.Match) -> str:
        target = link[2].partition("#")[0]
        here = not target or re.match(r"[a-z]+:", target) or (folder / target).is_file()
        return link[0] if here else link[1]

    return re.sub(r"(?<!!)\[([^\]\n]+)\]\(([^)\s]+)\)", kept, markdown)


if __name__ == "__main__":
    main()
