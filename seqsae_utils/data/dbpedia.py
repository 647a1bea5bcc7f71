"""Concepts of films from DBpedia, by title and year: ``make concepts PROFILE=ml-1m``."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import requests
from tqdm import tqdm

from ..workspace import project, write_text
from . import Dataset
from .concepts import bare
from .tables import DataError

URL = "https://dbpedia.org/sparql"
#: Kinds of concepts, and the property of a film that has them.
KINDS = {
    "category": "dct:subject",
    "actor": "dbo:starring",
    "director": "dbo:director",
    "writer": "dbo:writer",
    "producer": "dbo:producer",
    "composer": "dbo:musicComposer",
    "cinematographer": "dbo:cinematography",
    "editor": "dbo:editing",
    "studio": "dbo:distributor",
    "country": "dbo:country",
}
QUERY = """SELECT ?asked ?kind ?concept WHERE {{
  VALUES ?asked {{ {labels} }}
  ?film rdfs:label ?asked ; a dbo:Film .
  VALUES (?kind ?property) {{ {kinds} }}
  ?film ?property ?thing . ?thing rdfs:label ?concept .
  FILTER (lang(?concept) = "en")
}}"""
#: Films in one query, and seconds to wait for its answer.
BATCH, SECONDS = 15, 60


def build(name: str, dataset: Dataset) -> Path:
    """Write ``data/concepts/<name>.csv`` (item_id, kind, concept) and return its path.

    A film is an entry whose label is its title, also with "(film)" or "(1995 film)" behind it, and
    that is in the category of films of its year, or of a year beside it. Every answer is kept, so
    that a build that was interrupted goes on. Raises DataError where DBpedia cannot be reached or
    does not answer in its format, and where it knows none of the titles.
    """
    folder = project() / "data" / "concepts"
    items = dataset.items.dropna(subset="year")
    batches = [items.iloc[start : start + BATCH] for start in range(0, len(items), BATCH)]
    rows: list[tuple[str, str, str]] = []
    for batch in tqdm(batches, desc="DBpedia", leave=False):
        labels = {label: row for row in batch.itertuples() for label in _labels(row)}
        found: dict[str, list[tuple[str, str]]] = {}
        for label, kind, concept in _ask(list(labels), folder / "answers"):
            found.setdefault(label, []).append((kind, concept))
        for label, facts in found.items():
            year = labels[label].year
            if any(("category", f"{y} films") in facts for y in (year - 1, year, year + 1)):
                rows += [(labels[label].item_id, kind, concept) for kind, concept in facts]
    if not rows:
        raise DataError(f"{URL} knows none of {len(items)} titles with a year: are they films?")
    table = pd.DataFrame(rows, columns=["item_id", "kind", "concept"]).drop_duplicates()
    write_text(folder / f"{name}.csv", table.to_csv(index=False))
    return folder / f"{name}.csv"


def _labels(row) -> list[str]:
    """How DBpedia may call a film, the plain title first."""
    title = bare(row.title).replace("\\", "").replace('"', "")
    return [title, f"{title} (film)", f"{title} ({row.year} film)"]


def _ask(labels: list[str], answers: Path) -> Iterator[tuple[str, str, str]]:
    """Yield label, kind and concept of each fact, from the kept answer or else from the network."""
    query = QUERY.format(
        labels=" ".join(f'"{label}"@en' for label in labels),
        kinds=" ".join(f'("{kind}" {of})' for kind, of in KINDS.items()),
    )
    file = answers / f"{hashlib.sha256(query.encode()).hexdigest()[:16]}.json"
    if not file.is_file():
        options = {"query": query, "format": "application/sparql-results+json"}
        try:
            reply = requests.get(URL, options, timeout=SECONDS)
            reply.raise_for_status()
            rows = reply.json()["results"]["bindings"]
            facts = [[row[key]["value"] for key in ("asked", "kind", "concept")] for row in rows]
        except (requests.RequestException, KeyError, TypeError) as error:
            raise DataError(
                f"{URL} gave no answer: {str(error)[:200]}; what it has told so far is kept in "
                f"{answers}: run `make concepts` again with a network, or write concepts.csv "
                "(item_id,kind,concept) yourself"
            ) from error
        write_text(file, json.dumps(facts, ensure_ascii=False))
    yield from map(tuple, json.loads(file.read_text(encoding="utf-8")))
