"""What several test files share: the chain of notebooks, run once on planted data; a browser."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

collect_ignore = ["bench"]  # scripts, run by `make bench`
torch.set_num_threads(1)  # what notebooks run with: small matrices are slower on two
os.environ["OMP_NUM_THREADS"] = "1"  # of processes that tests start: others add in another order
os.environ.pop("SEQSAE_THREADS", None)  # it is for the notebooks, which nbval executes

PROJECT = Path(__file__).parents[1]
CHROMIUM = os.environ.get("SEQSAE_CHROMIUM") or next(
    filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip

AXE = "sha256:fdd263c998388f1a8e67cad02677e612d946248bd44d163be5e8650ea31f95f8"


@pytest.hookimpl(optionalhook=True)  # the environments of `make interop` lack pytest-xdist
def pytest_xdist_make_scheduler(config, log):
    """Each file on one worker, and all that use `smoke` on the same: its chain runs once."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            path = config.rootpath / file
            return "smoke" if re.search(r"(?m)^def .*\bsmoke\b", path.read_text()) else file

    return ByFile(config, log)


@pytest.fixture(scope="session")
def smoke(tmp_path_factory) -> SimpleNamespace:
    """Folders ``artifacts``, ``figures`` and ``runs``, and ``metrics``, of the profile smoke."""
    root = tmp_path_factory.mktemp("smoke")
    run = subprocess.run(
        [sys.executable, "-m", "seqsae_utils.run", "paper", "--profile", "smoke"],
        env={**os.environ, "SEQSAE_WORKSPACE": str(root), "TQDM_DISABLE": "1"},
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    folders = {name: root / name / "smoke" for name in ("artifacts", "figures", "runs")}
    metrics = json.loads((folders["figures"] / "metrics.json").read_text())
    return SimpleNamespace(**folders, root=root, metrics=metrics, shown=run.stdout)


@pytest.fixture(scope="session")
def chromium():
    """A real Chromium without a window."""
    if not CHROMIUM:
        pytest.skip("no Chromium here: install the package chromium, or set SEQSAE_CHROMIUM")
    from playwright.sync_api import sync_playwright  # the environments of `make interop` lack it

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def serious():
    """What axe-core, from a wheel of the package index, finds serious on a page."""
    from seqsae_utils.data.sources import Archive, download

    wheel = Archive(
        "axe-playwright-python==0.1.8",
        "axe_playwright_python-0.1.8-py3-none-any.whl",
        "axe_playwright_python",
        AXE,
    )
    folder, _ = download(wheel, PROJECT / "data" / "downloads")
    axe = (folder / "axe.min.js").read_text(encoding="utf-8")

    def found(page) -> list[str]:
        page.evaluate(axe)
        violations = page.evaluate("axe.run()")["violations"]
        return [f"{v['id']}: {v['nodes'][0]['html'][:160]} {v['nodes'][0]['failureSummary'][:160]}"
                for v in violations if v["impact"] in ("serious", "critical")]  # fmt: skip

    return found
