"""The workshop: exercises come from solutions, checks diagnose, and a student gets through."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from playwright.sync_api import expect

from seqsae_utils import data, recommender, sae
from seqsae_utils.run.clean import normalise
from seqsae_utils.run.demo import prepare
from seqsae_utils.workshop import ARTIFACTS, check, checking, making
from seqsae_utils.workshop.checking import exercises

PROJECT = Path(__file__).parents[1]
WORKSHOP = PROJECT / "workshop"
BOOKS = {path.stem: nbformat.read(path, as_version=4) for path in making.solutions(WORKSHOP)}
TEACHER = (WORKSHOP / "INSTRUCTOR.md").read_text(encoding="utf-8")
KNOWN = exercises(PROJECT)
MISTAKES = [(name, i) for name, found in KNOWN.items() for i in range(len(found.mistakes))]


def cells(book, tag: str) -> list:
    return [cell for cell in book.cells if tag in making.tags(cell)]


def said(capsys, answer) -> str:
    capsys.readouterr()
    check(answer)
    return capsys.readouterr().out


# What is committed


@pytest.mark.parametrize("name", BOOKS)
def test_the_exercises_are_what_the_solutions_make(name):
    made = nbformat.writes(making.exercises(BOOKS[name])) + "\n"
    assert (WORKSHOP / "exercises" / f"{name}.ipynb").read_bytes() == made.encode()


def test_there_are_no_other_exercises():
    assert {path.stem for path in (WORKSHOP / "exercises").iterdir()} >= {*BOOKS}
    assert list(BOOKS) == ["W1_read_a_state", "W2_sparse_code", "W3_turn_a_knob"]


@pytest.mark.parametrize("name", BOOKS)
def test_a_student_gets_no_answer_no_mistake_and_no_output(name):
    shown = (WORKSHOP / "exercises" / f"{name}.ipynb").read_text(encoding="utf-8")
    book = nbformat.reads(shown, as_version=4)
    assert all(not c.outputs and not c.metadata for c in book.cells if c.cell_type == "code")
    for tag in ("observe", "wrong"):
        assert not {c.source for c in cells(BOOKS[name], tag)} & {c.source for c in book.cells}
    stubs = [c.source for c in book.cells if "# your code here" in c.source]
    assert len(stubs) == len(cells(BOOKS[name], "exercise")) >= 4
    for cell in cells(BOOKS[name], "solution"):
        last = cell.source.splitlines()[-1].strip()
        assert all(last not in stub for stub in stubs)
    assert shown.count("<details>") == len(cells(BOOKS[name], "hint")) == len(stubs)


@pytest.mark.parametrize("name", BOOKS)
def test_solutions_are_executed_in_order_and_clean(name):
    book, code = BOOKS[name], [c for c in BOOKS[name].cells if c.cell_type == "code"]
    assert [c.execution_count for c in code] == [*range(1, len(code) + 1)]
    outputs = [output for cell in code for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    for tag, mark in {"wrong": "✗", "solution": None}.items():
        for cell in cells(book, tag):
            assert [o.text[0] for o in cell.outputs] == [mark] * bool(mark), cell.source
    clean = normalise(nbformat.from_dict(json.loads(json.dumps(book))))
    for cell, as_made in zip(book.cells, clean.cells, strict=True):
        assert cell.get("outputs") == as_made.get("outputs")
    assert not re.search(r"(?<![\w.:/-])/(home|tmp|root|work)/", nbformat.writes(book))


def test_minutes_add_up_to_three_hours():
    parts = [int(m) for m in re.findall(r"(?m)^\| \d:\d\d \| (\d+) \|", TEACHER)]
    assert sum(parts) == 180
    for name, book in BOOKS.items():
        promised = int(re.search(r"After these (\d+) minutes", book.cells[0].source)[1])
        asked = [c.metadata for c in cells(book, "exercise")]
        assert all(c["difficulty"] in making.STARS and c["minutes"] > 0 for c in asked)
        needed = sum(c["minutes"] for c in asked if not c.get("extra"))
        assert promised in parts and 0.6 * promised < needed < promised, name
    assert sum(c.metadata.get("extra", False) for b in BOOKS.values() for c in b.cells) == 3


def test_the_artifacts_are_the_planted_catalogue_and_small():
    made = data.prepare(data.synthetic())
    found = data.load(ARTIFACTS / "data")
    for table in data.TABLES:
        pd.testing.assert_frame_equal(getattr(found, table), getattr(made, table))
    files = [path for path in ARTIFACTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 600_000
    model, dictionary = recommender.load(ARTIFACTS / "recommender"), sae.load(ARTIFACTS / "sae")
    assert model.config.n_items == found.n_items
    assert dictionary.config.d_in == model.config.d_model


# Checks that diagnose


def test_every_exercise_has_at_least_two_mistakes_each_with_its_own_reason():
    assert len(KNOWN) == 15 and all(len(found.mistakes) >= 2 for found in KNOWN.values())
    assert all(found.solution is not print for found in KNOWN.values())
    reasons = [mistake.__doc__ for found in KNOWN.values() for mistake in found.mistakes]
    assert len({*reasons}) == len(reasons) and all(len(reason) > 60 for reason in reasons)


@pytest.mark.parametrize("name", KNOWN)
def test_a_solution_passes(name, capsys):
    assert said(capsys, KNOWN[name].solution) == f"✓ {name}: passed\n"


@pytest.mark.parametrize(("name", "i"), MISTAKES)
def test_a_mistake_gets_its_own_message(name, i, capsys):
    first, *reason = said(capsys, KNOWN[name].mistakes[i]).splitlines()
    assert first.startswith(f"✗ {name}: ")
    assert " ".join(reason) == " ".join(KNOWN[name].mistakes[i].__doc__.split())


@pytest.mark.parametrize("name", BOOKS)
def test_no_stub_passes(name, capsys):
    book = making.exercises(BOOKS[name])
    for cell in book.cells:
        if "# your code here" in cell.source and cell.cell_type == "code":
            names: dict = {}
            exec(cell.source, names)
            (answer,) = (found for key, found in names.items() if key in KNOWN)
            assert "it returns nothing yet; write your code" in said(capsys, answer)


def test_a_mistake_is_known_when_it_is_written_otherwise(capsys):
    def keep_top(values, k):
        kept = values.clone()
        for row in kept:
            row[row < row.sort(descending=True).values[k - 1]] = 0
        return kept

    assert "Put a `relu()` on what you keep" in said(capsys, keep_top)

    def edit(hidden, dictionary, feature, strength):
        code = dictionary.encode(hidden)
        code[..., feature] = code[..., feature] + strength * dictionary.std
        return code @ dictionary.W_dec + dictionary.b_dec

    shown = said(capsys, edit)
    assert re.match(
        r"✗ edit: at strength 0, the largest change of a logit is [1-9.]+, expected 0", shown
    )
    assert "Add decode(f') - decode(f) to h instead" in shown


def test_one_mistake_after_the_other(capsys):
    """With two mistakes, the first difference is explained; the second once it is mended."""

    def sae_loss(x, W_enc, b_enc, W_dec, b_dec, k):
        return (x - sae.keep_top((x - b_dec) @ W_enc + b_enc, k) @ W_dec).square().mean()

    assert "averaged over the 6 dimensions" in said(capsys, sae_loss)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda values, k: values[5], "line 1 raises IndexError: index 5 is out of bounds"),
        (lambda values, k: "top", "what it returns is of another kind"),
        (lambda values, k: values[:, :3], "has the shape [1, 3], expected [1, 4]"),
        (lambda values, k: values + 1, "is 4, expected 3."),
    ],
)
def test_what_nobody_foresaw_is_shown_as_it_is(answer, message, capsys):
    answer.__name__ = "keep_top"
    (shown,) = said(capsys, answer).splitlines()  # and no reason that is none
    assert shown.startswith("✗ keep_top: ") and message in shown


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (said, "✗ no exercise asks for 'said'; nearest: 'share'"),
        (
            torch.zeros(1, 4),
            "✗ check needs a function written with `def`, as in check(keep_top), not ",
        ),
        (None, "check(keep_top), not None."),
        (lambda values, k: values, "check(keep_top), not <function <lambda>"),
        (torch.nn.ReLU(), "check(keep_top), not ReLU()."),
    ],
)
def test_what_is_no_answer_is_explained(answer, message, capsys):
    assert message in said(capsys, answer)


def test_an_answer_leaves_nothing_behind_for_the_next_one(capsys):
    def states_at(model, site, items):  # its hook fails, stays, and the model is left in training
        model.train().get_submodule(site).register_forward_hook(lambda module, output: output)
        return model(items)

    for _ in range(2):
        assert "line 3 raises TypeError: " in said(capsys, states_at)
        for name in ("states_at", "change_by_position", "edit"):
            assert said(capsys, KNOWN[name].solution) == f"✓ {name}: passed\n"


def test_a_loop_without_an_end_is_ended(capsys, monkeypatch):
    """Also where SIGINT is ignored, as in a process that runs tests side by side."""
    monkeypatch.setattr(checking, "SECONDS", 0.2)

    def keep_top(values, k):
        while True:
            k = max(k, 1)

    assert "it has not ended after 0 seconds; look for a loop" in said(capsys, keep_top)
    monkeypatch.undo()

    def dial(share_of, target, most):
        low, high = -most, most
        while share_of((low + high) / 2) != target:
            pick = share_of((low + high) / 2) < target
            low, high = ((low + high) / 2, high) if pick else (low, (low + high) / 2)
        return (low + high) / 2

    assert "where shares jump, none hits the target: end the loop" in said(capsys, dial)

    def share(scores, histories, has):  # the button that stops a cell
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(share)


def test_checking_leaves_random_numbers_as_they_are(capsys):
    exercises.cache_clear()
    torch.manual_seed(7)
    np.random.seed(7)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    for name in ("sae_loss", "share", "control_labels"):
        check(KNOWN[name].solution)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


# For the teacher


def test_the_slides_ask_nothing_of_a_network_and_fit(chromium, tmp_path):
    page_file = tmp_path / "slides.html"
    page_file.write_text(making.slides(WORKSHOP), encoding="utf-8")
    page, asked = chromium.new_page(viewport={"width": 1100, "height": 750}), []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: asked.append(str(error)))
    page.goto(page_file.as_uri())
    page.wait_for_function("window.Reveal && Reveal.isReady()")
    assert [url for url in asked if not url.startswith(("data:", page_file.as_uri()))] == []
    heights = page.evaluate(
        "[...document.querySelectorAll('.slides > section')].map((slide, i) => {"
        "Reveal.slide(i); return [slide.innerText.slice(0, 40), slide.scrollHeight]})"
    )
    assert len(heights) > 30 and [slide for slide in heights if slide[1] > 760] == []
    assert page.locator("img").evaluate_all("all => all.every(i => i.naturalWidth > 100)")
    page.close()


def test_the_fallback_is_one_file_each(tmp_path):
    shutil.copytree(WORKSHOP, tmp_path / "workshop", ignore=shutil.ignore_patterns("html"))
    shutil.copytree(PROJECT / "figures/ml-100k", tmp_path / "figures/ml-100k")
    making.make(tmp_path / "workshop")
    for name in BOOKS:
        page = (tmp_path / "workshop/html" / f"{name}.html").read_text(encoding="utf-8")
        assert page.count("✗") > 8 and not re.search(r'(src|href)="https?://[^"]*\.(js|css)', page)
        made = (tmp_path / "workshop/exercises" / f"{name}.ipynb").read_bytes()
        assert made == (WORKSHOP / "exercises" / f"{name}.ipynb").read_bytes()


@pytest.mark.parametrize("damage", [None, "file", "pin"])
def test_the_check_of_a_laptop(damage, tmp_path):
    for name in ("workshop", "notebooks/params"):
        shutil.copytree(PROJECT / name, tmp_path / name, ignore=shutil.ignore_patterns("html"))
    pins = (PROJECT / "requirements.txt").read_text()
    pins = re.sub(r"torch==\S+", "torch==0.1", pins) if damage == "pin" else pins
    (tmp_path / "requirements.txt").write_text(pins)
    if damage == "file":
        (tmp_path / "workshop/artifacts/smoke/sae/cfg.json").unlink()
    env = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "workshop/check.py"]
    found = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, encoding="utf-8")
    assert found.returncode == (damage is not None), found.stdout + found.stderr
    message = {
        None: "this laptop is ready: make lab",
        "file": "cfg.json is missing: git checkout workshop",
        "pin": "pinned is 0.1: make env",
    }[damage]
    assert message in found.stdout


def test_places_without_an_installation_use_one_script():
    script = (PROJECT / ".binder/postBuild").read_text()
    assert os.access(PROJECT / ".binder/postBuild", os.X_OK)
    assert script.splitlines()[-1] == "python workshop/check.py"
    container = json.loads((PROJECT / ".devcontainer/devcontainer.json").read_text())
    assert container["postCreateCommand"] == "bash .binder/postBuild"


# As a student

FIRST = {
    tag: cells(BOOKS["W1_read_a_state"], tag)[0].source.partition("\n\n\ncheck(")[0]
    for tag in ("wrong", "solution")
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab in a copy that has the exercises and the demo's desk; the address of its files."""
    root = tmp_path_factory.mktemp("student")
    for name in ("workshop", "notebooks/params", "seqsae_utils"):
        shutil.copytree(PROJECT / name, root / name, ignore=shutil.ignore_patterns("html", "*.pyc"))
    shutil.copy(PROJECT / "notebooks" / "desk.ipynb", root / "notebooks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEQSAE_WORKSPACE", str(root))
        workspace = prepare()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "PYTHONPATH": str(root), "JUPYTER_PREFER_ENV_PATH": "1"}
    env |= {
        "SEQSAE_WORKSPACE": str(workspace),
        "SEQSAE_PROFILE": "smoke",
        "JUPYTER_CONFIG_DIR": str(root / "config"),
        "JUPYTERLAB_WORKSPACES_DIR": str(root / "w"),
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}",
               "--IdentityProvider.token=", "--ServerApp.allow_root=True"]  # fmt: skip
    log = root / "log"
    with open(log, "w") as output:
        server = subprocess.Popen(command, cwd=root, env=env, stdout=output, stderr=output)
    address = f"http://127.0.0.1:{port}/lab/tree/"
    try:
        for _ in range(300):
            if "is running at" in log.read_text() or server.poll() is not None:
                break
            time.sleep(0.2)
        assert server.poll() is None, log.read_text()
        yield address
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture
def opened(lab, chromium):
    """Opens a notebook in JupyterLab, at its first cell in command mode."""
    context = chromium.new_context(viewport={"width": 1200, "height": 1400})

    def open_(notebook: str):
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(f"{lab}{notebook}?reset")  # else with what the page before had open
        page.locator(".jp-Notebook .jp-Cell").first.wait_for()
        expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible(timeout=90_000)
        page.locator(".jp-Notebook .jp-Cell").first.click()
        page.keyboard.press("Escape")
        return page

    yield open_
    context.close()


def test_a_student_gets_through_the_first_exercise(opened):
    page = opened("workshop/exercises/W1_read_a_state.ipynb")
    book = making.exercises(BOOKS["W1_read_a_state"])
    index = next(i for i, c in enumerate(book.cells) if "# your code here" in c.source)
    for _ in range(index + 2):
        page.keyboard.press("Shift+Enter", delay=100)
    stub = page.locator(".jp-CodeCell", has_text="def states_at").first
    shown = page.locator(".jp-CodeCell", has_text="check(states_at)").last
    expect(shown).to_contain_text("it returns nothing yet", timeout=120_000)
    for answer, message in [
        (FIRST["wrong"], "Keep the handle that"),
        (FIRST["solution"], "✓ states_at: passed"),
    ]:
        stub.locator(".cm-content").click()
        page.keyboard.press("Control+a")
        page.keyboard.insert_text(answer)
        page.keyboard.press("Shift+Enter")
        page.keyboard.press("Shift+Enter")
        expect(shown).to_contain_text(message)


def test_a_knob_of_the_desk_changes_the_list(opened):
    page = opened("notebooks/desk.ipynb")
    for _ in range(2):
        page.keyboard.press("Shift+Enter", delay=100)
    titles = page.locator("table.lists td.after .name")
    expect(titles).to_have_count(10, timeout=60_000)
    before = titles.all_inner_texts()
    page.get_by_role("slider", name="Ocean", exact=True).focus()
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    expect(page.locator("[data-attribute='Ocean']")).to_contain_text("→")
    assert titles.all_inner_texts() != before
    assert page.locator("table.lists td.before .name").all_inner_texts() == before
