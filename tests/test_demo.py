"""`make demo`: what is committed fits together, and has the form of what smoke makes."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from seqsae_utils import run
from seqsae_utils.apps.desk import Desk
from seqsae_utils.run.demo import SITE
from seqsae_utils.workspace import Workspace

COMMITTED = Path(__file__).parents[1] / "workshop" / "artifacts" / "smoke"
TABLES = ["interpretability/features", "control/knobs", "concepts/explained"]


def test_atlas_and_desk_open_from_what_is_committed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SEQSAE_WORKSPACE", str(tmp_path))
    opened = []
    monkeypatch.setattr(run, "desk", lambda profile, _: opened.append(Desk.of(profile)))
    assert run.main(["demo"]) == 0, capsys.readouterr().err
    root = tmp_path / "runs" / "demo"
    found = (root / "artifacts/smoke/atlas.html").read_text(encoding="utf-8")
    content = json.loads(re.search(r'id="content">(.*?)</script>', found, re.DOTALL)[1])
    (desk,) = opened
    assert content["user"] == desk.state.user and desk.label == "Planted concepts"
    assert desk.attributes and desk.knobs["feature"].max() < len(desk.features)
    before = desk.shares().set_index("attribute")["before"]
    desk.turn(name := before[desk.attributes].idxmin(), 4.0)  # the knobs are of this dictionary
    assert desk.shares().set_index("attribute").loc[name, "after"] > before[name]
    assert [*tmp_path.iterdir()] == [tmp_path / "runs"]


@pytest.mark.parametrize("arguments", [["--profile", "smoke"], ["-p", "k", "4"]])
def test_the_demo_has_no_profile_and_no_parameters(arguments, capsys):
    assert run.main(["demo", *arguments]) == 1
    assert "`demo` shows what is committed" in capsys.readouterr().err


@pytest.mark.parametrize("table", TABLES)
def test_the_tables_are_as_the_profile_makes_them(smoke, table):
    """Columns and rows: another processor trains other values, and those here are one training."""
    made, kept = (pd.read_parquet(f / f"{table}.parquet") for f in (smoke.artifacts, COMMITTED))
    assert made.dtypes.to_dict() == kept.dtypes.to_dict()
    assert len(made) == len(kept) or table == "concepts/explained"  # those that fire


def test_the_site_is_that_of_the_profile(smoke, monkeypatch):
    monkeypatch.setenv("SEQSAE_WORKSPACE", str(smoke.root))
    assert Workspace("smoke").manifest("activations")["parameters"]["site"] == SITE
