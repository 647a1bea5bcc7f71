"""The runner, on a project of three notebooks of one cell each and a package of three modules."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import seqsae_utils
from seqsae_utils import claims, run, workspace
from seqsae_utils.run import changes, parameters, results, trainings
from seqsae_utils.run.clean import beside, normalise, with_outputs

NAMES = ["01_data", "02_recommender", "03_activations"]
#: What notebooks need of the real `Workspace`, without waiting for torch in every kernel.
FAKE_WORKSPACE = '''
import hashlib, json, os
from pathlib import Path

def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()

def hand_on(profile, stage, text, reads=()):
    """Write a stage, a figure, a number and its draws, and note that the notebook ran."""
    root = Path(os.environ["SEQSAE_WORKSPACE"])
    artifacts, figures = root / "artifacts" / profile, root / "figures" / profile
    folder = artifacts / stage
    folder.mkdir(parents=True, exist_ok=True)
    figures.mkdir(parents=True, exist_ok=True)
    (folder / "content.txt").write_text(text)
    (figures / f"{stage}.csv").write_text(text)
    (artifacts / "draws").mkdir(exist_ok=True)
    (artifacts / "draws" / f"{stage}.parquet").write_text(text)
    manifest = dict(stage=stage, profile=profile, label="Toy", parameters={}, seed=0)
    manifest["version"] = "VERSION"
    manifest["reads"] = {name: sha256(artifacts / name / "manifest.json") for name in reads}
    manifest["files"] = {"content.txt": sha256(folder / "content.txt")}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    path = artifacts / "metrics.json"
    try:
        metrics = dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        metrics = {}
    path.write_text(json.dumps({**metrics, stage: {"length": len(text)}}))
    with open(root / "ran.txt", "a") as file:
        print(stage, file=file)
'''
BODY = {
    "01_data": "from seqsae_utils import data\nhand_on(profile, 'data', data.TEXT + str(size))",
    "02_recommender": "from seqsae_utils.recommender import size\n"
    "hand_on(profile, 'recommender', f'{size} {rate}', reads=['data'])",
    "03_activations": "hand_on(profile, 'activations', 'states', reads=['recommender'])",
}
PARAMETERS = {
    "01_data": "size: int = 3  # how many",
    "02_recommender": "rate: float = 0.1  # of learning\nname: str | None = None  # of nobody",
    "03_activations": "site: str = 'final_norm'  # where\nseed: int = 0  # of all\n"
    "n_jobs: int = 2  # at once",
}


def write_notebook(path: Path, parameters: str, body: str) -> None:
    start = "from seqsae_utils.workspace import hand_on"
    cells = [
        new_markdown_cell("# A notebook", id="title"),
        new_code_cell(
            f'profile: str = "toy"  # name\n{parameters}',
            id="parameters",
            metadata={"tags": ["parameters"]},
        ),
        new_code_cell(f"{start}\n{body}", id="body"),
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A project of its own kind, with the working directory in it."""
    root = tmp_path / "a project"
    (root / "notebooks" / "params").mkdir(parents=True)
    (root / "notebooks/params/toy.yaml").write_text("size: 3\n")
    (root / "notebooks/params/tiny.yaml").write_text("size: 1\n")
    (root / "notebooks/claims.yaml").write_text("{}\n")
    (root / "requirements.txt").write_text("")
    package = root / "seqsae_utils"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "workspace.py").write_text(
        FAKE_WORKSPACE.replace("VERSION", seqsae_utils.__version__)
    )
    (package / "data/__init__.py").write_text("from .source import TEXT\n")
    (package / "data/source.py").write_text("TEXT = 'abc'\n")
    (package / "recommender.py").write_text("from .metrics import size\n")
    (package / "metrics.py").write_text("size = 8\n")
    for name in NAMES:
        write_notebook(root / f"notebooks/{name}.ipynb", PARAMETERS[name], BODY[name])
    # The last first: they are put back in reverse, and other tests rely on the order.
    for stage in reversed(list(workspace.STAGES)[3:]):
        monkeypatch.delitem(workspace.STAGES, stage)
    monkeypatch.setattr(changes, "PACKAGE", package)
    monkeypatch.setenv("SEQSAE_WORKSPACE", str(root))
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    for name in run.KERNEL:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.chdir(root)
    return root


def paper(project, *arguments) -> list[str]:
    """The stages that a run executed, in order."""
    (project / "ran.txt").write_text("")
    run.main(["paper", "--profile", "toy", *arguments])
    return (project / "ran.txt").read_text().split()


ALL = ["data", "recommender", "activations"]


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.fixture
def built(project) -> Path:
    """The project after a first run."""
    assert paper(project) == ALL
    return project


def test_a_second_run_executes_nothing(built, capsys):
    capsys.readouterr()
    before = {p: p.read_bytes() for p in built.rglob("figures/*/*") if p.name != "timings.json"}
    for path in built.rglob("*.py"):
        os.utime(path)  # as git does on checkout
    assert paper(built) == []
    shown = capsys.readouterr().out
    assert shown.count("up to date") == 3
    assert "[2/3] 02_recommender" in shown
    assert "figures/toy/data.csv" in shown
    assert {path: path.read_bytes() for path in before} == before


def test_results_are_gathered_without_times(built):
    figures = built / "figures" / "toy"
    assert json.loads((figures / "metrics.json").read_text())["data"] == {"length": 4}
    manifest = json.loads((figures / "manifest.json").read_text())
    assert manifest["label"] == "Toy" and manifest["seed"] == 0
    assert manifest["files"] == {
        f"{stage}.csv": workspace.sha256(figures / f"{stage}.csv") for stage in sorted(ALL)
    }
    assert set(json.loads((figures / "timings.json").read_text())["seconds"]) == set(NAMES)


def test_what_could_not_be_measured_is_said_at_the_end(built, capsys):
    assert "could not be measured" not in capsys.readouterr().out
    file = built / "artifacts" / "toy" / "metrics.json"
    found = json.loads(file.read_text())
    found["data"] |= {"names": {"auc": None, "auc_low": None}}
    file.write_text(json.dumps(found))
    run.gather(workspace.Workspace("toy"))
    shown = capsys.readouterr().out
    assert "\n2 of " in shown and "(null in metrics.json): data.names\n" in shown


@pytest.mark.parametrize(
    "path, old, new, expected",
    [
        ("notebooks/03_activations.ipynb", "'states'", "'other'", ["activations"]),
        ("notebooks/02_recommender.ipynb", "# A notebook", "# Better", []),
        # Another output of the first stage: the others follow.
        ("notebooks/01_data.ipynb", "str(size)", "str(2 * size)", ALL),
        ("notebooks/params/toy.yaml", "3", "4", ALL),
        ("seqsae_utils/data/source.py", "abc", "xyz", ALL),
        # Found through another module. The third notebook does not import it, but reads the stage.
        ("seqsae_utils/metrics.py", "8", "9", ["recommender", "activations"]),
        ("seqsae_utils/metrics.py", "size", "more = 1\nsize", ["recommender"]),
        ("seqsae_utils/metrics.py", "size", "# why\nsize", []),
        ("seqsae_utils/workspace.py", "import hashlib", "more = 1\nimport hashlib", ALL),
        ("artifacts/toy/recommender/content.txt", "8", "7", ["recommender"]),
        ("figures/toy/recommender.csv", "8", "7", ["recommender"]),
        ("artifacts/toy/draws/recommender.parquet", "8", "7", ["recommender"]),
        ("artifacts/toy/metrics.json", '{"length": 4}', '{"length": 5}', ["data"]),
    ],
)
def test_a_change_reruns_what_depends_on_it_and_only_that(built, path, old, new, expected):
    replace(built / path, old, new)
    assert paper(built) == expected
    assert paper(built) == []


@pytest.mark.parametrize(
    "path",
    ["figures/toy/data.csv", "artifacts/toy/data", "artifacts/toy/draws/data.parquet", "runs/toy"],
)
def test_what_was_deleted_is_made_again(built, path):
    subprocess.run(["rm", "-r", built / path], check=True)
    assert paper(built) == (ALL if path == "runs/toy" else ["data"])


def test_nothing_is_altered_or_lost_unnoticed(built):
    own, given = workspace.Workspace("toy"), parameters.resolve("toy", {})
    for file in sorted(path for path in built.rglob("*/toy/**/*") if path.is_file()):
        if file.name == ".lock" or file.parent == built / "figures/toy" and file.name in run.OWN:
            continue  # each run writes these anew
        good = file.read_bytes()
        record = file.suffix == ".json" and file.parent == built / "runs/toy"
        places = [] if record else range(0, len(good), max(1, len(good) // 20))
        flipped = [good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :] for i in places]
        for content in [None, b"", *flipped]:
            file.unlink() if content is None else file.write_bytes(content)
            with warnings.catch_warnings(action="ignore"):
                why = [changes.outdated(own, s, given[workspace.STAGES[s]]) for s in ALL]
            assert any(why), f"{file}: {content!r}"
            file.write_bytes(good)


def test_a_stage_that_a_notebook_reads_without_saying_so_counts_too(built):
    replace(
        built / "notebooks/03_activations.ipynb", "reads=['recommender']", "['recommender'][1:]"
    )
    assert paper(built) == ["activations"]
    (built / "notebooks/params/toy.yaml").write_text("size: 3\nrate: 0.2\n")
    assert paper(built) == ["recommender", "activations"]


def test_new_pins_rerun_everything(built):
    (built / "requirements.txt").write_text("numpy==3\n")
    assert paper(built) == ALL


def test_only_changed_parameters_reach_only_the_notebooks_that_declare_them(project):
    assert paper(project) == ALL
    before = contents(project)
    assert paper(project, "-p", "rate", "1e-3") == []
    assert contents(project) == before
    other = project / "runs/toy/others/rate=0.001"
    assert (other / "ran.txt").read_text().split() == ["recommender", "activations"]
    books = [nbformat.read(other / f"runs/toy/{name}.ipynb", 4) for name in NAMES]
    tags = [[tag for c in book.cells for tag in c.metadata.get("tags", [])] for book in books]
    assert tags == [["parameters"], ["parameters", "injected-parameters"], ["parameters"]]
    assert "rate = 0.001" in books[1].cells[2].source
    assert paper(project) == []
    assert paper(project, "-p", "rate", "0.1", "-p", "n_jobs", "1") == []  # as it is
    assert contents(project) == before


def contents(project) -> dict:
    """What the profile itself left."""
    folders = [project / name / "toy" for name in ("artifacts", "figures", "runs")]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    own = [path for path in files if "others" not in path.parts and path.name != ".lock"]
    return {path: path.read_bytes() for path in own if path.name != "timings.json"}


def test_a_run_with_other_parameters_has_a_name_and_is_compared(built, capsys):
    assert run.main(["compare", "--profile", "toy", "-p", "size", "12"]) == 1
    assert "size=12" in capsys.readouterr().err
    arguments = ["--profile", "toy", "-p", "size", "12"]
    assert run.main(["paper", *arguments, "--name", "../wide one"]) == 0
    (folder,) = (built / "runs/toy/others").iterdir()
    assert folder.name == "_wide_one"
    rows = [(seed, "data", "length", 4 + seed / 10) for seed in range(3)]
    rows += [(seed, "activations", "length", 7 - seed) for seed in range(3)]
    table = pd.DataFrame(rows, columns=["seed", "stage", "name", "value"])
    table.to_csv(built / "figures/toy/trainings.csv", index=False)
    assert run.main(["compare", "--profile", "toy", "--name", "../wide one"]) == 0
    shown = capsys.readouterr().out
    assert "data.length" in shown and "activations.length" not in shown
    found = pd.read_csv(folder / "comparison.csv", index_col="number")
    assert found.loc["data.length", ["profile", "_wide_one", "difference"]].tolist() == [4, 5, 1]
    assert found.loc["data.length", ["lowest", "highest"]].tolist() == [4.0, 4.2]
    assert found["beyond_retraining"].to_dict() == {
        "data.length": True, "recommender.length": False, "activations.length": False,
    }  # fmt: skip
    assert run.main(["compare", "--profile", "toy"]) == 1
    assert "compare with what?" in capsys.readouterr().err


def damaged(file: Path, kind: str) -> None:
    content = file.read_bytes()
    kinds = {
        "truncated": content[: len(content) // 2],
        "empty": b"",
        "list": b"[]",
        "object": b"{}",
    }
    file.write_bytes(kinds[kind])


@pytest.mark.parametrize("kind", ["truncated", "empty", "list", "object"])
@pytest.mark.parametrize(
    "file",
    ["artifacts/toy/recommender/manifest.json", "artifacts/toy/metrics.json",
     "runs/toy/02_recommender.json"],
)  # fmt: skip
def test_a_damaged_record_is_named_and_its_notebook_runs_again(built, file, kind):
    damaged(built / file, kind)
    with warnings.catch_warnings(record=True, action="always") as said:
        assert "recommender" in paper(built)
    named = any(f"{built / file} is damaged" in str(warning.message) for warning in said)
    assert named or kind == "object"
    assert paper(built) == []


@pytest.mark.parametrize(
    "file", ["artifacts/toy/recommender/manifest.json", "runs/toy/02_recommender.json"]
)
def test_a_record_in_which_a_value_is_of_another_kind_is_no_traceback(built, file):
    own, given = workspace.Workspace("toy"), parameters.resolve("toy", {})
    found = json.loads((built / file).read_bytes())
    for key in found:
        for value in (None, [], "x", {"x": 0}):
            if value == found[key]:
                continue
            (built / file).write_text(json.dumps(found | {key: value}))
            with warnings.catch_warnings(action="ignore"):
                why = [changes.outdated(own, s, given[workspace.STAGES[s]]) for s in ALL]
            assert why[1], f"{key}: {value}"
    with warnings.catch_warnings(action="ignore"):
        assert paper(built)[0] == "recommender"


def test_stages_of_another_profile_are_refused_and_made_anew(built):
    replace(built / "artifacts/toy/data/manifest.json", '"toy"', '"tiny"')
    with pytest.raises(workspace.StageError, match="was written for the profile 'tiny'"):
        workspace.Workspace("toy").load("data")
    assert paper(built)[0] == "data"


def test_the_profile_is_the_name_of_its_file(project):
    (project / "notebooks/params/tiny.yaml").write_text("profile: toy\n")
    assert run.main(["paper", "--profile", "tiny"]) == 0
    assert (project / "figures/tiny/metrics.json").is_file()
    assert not (project / "figures/toy").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["-p", "rat", "1"], "no notebook has a parameter 'rat'; nearest: 'rate'; all"),
        (["-p", "size", "big"], "parameter 'size' is 'big', but the notebooks declare `size: int`"),
        (["-p", "size", "2.5"], "parameter 'size' is 2.5"),
        (["-p", "size", "true"], "parameter 'size' is True"),
        (["-p", "name", "3"], "declare `name: str | None`"),
        (["-p", "size", " "], "parameter 'size' is None"),
        (["-p", "size", "[1"], "parameter 'size' is '[1': line 1 is not YAML: "),
        (["-p", "size", "\x00"], "parameter 'size' is '\\x00': not YAML: "),
        (["-p", "size", "2020-13-45"], "parameter 'size' is '2020-13-45': line 1 is not YAML: "),
        (["-p", "size ", "1"], "no notebook has a parameter 'size '; nearest: 'size'; all "),
        (["-p", "", ""], "no notebook has a parameter ''; nearest: "),
        (["-p", "qqqq", "1"], "of them: n_jobs, name, profile, rate, "),
        (["--profile", "toi"], "no profile 'toi'; nearest: 'toy'; all of them: tiny, toy"),
        (["--profile", "a toy"], "no profile 'a toy'; nearest: 'toy'; all of them: tiny, toy"),
        (["--profile", "qqqq"], "no profile 'qqqq'; nearest: "),
        (["--profile", ""], "no profile ''; nearest: "),
    ],
)
def test_a_wrong_parameter_or_profile_is_refused_before_anything_runs(
    project, arguments, message, capsys
):
    for command in ("paper", "seeds"):
        assert run.main([command, "--profile", "toy", *arguments]) == 1
        shown = capsys.readouterr().err
        assert message in shown and shown.count("\n") == 1
    assert not (project / "ran.txt").exists()


@pytest.mark.parametrize(
    "text, message",
    [
        ("siz: 3\n", "no notebook has a parameter 'siz'; nearest: 'size'"),
        ("1: 3\n", "toy.yaml: line 1: no notebook has a parameter 1; nearest: "),
        ("size: 3\nrate: [1\n", "toy.yaml: line 3 is not YAML: "),
        ("size = 3\n", "toy.yaml: expected lines `key: value`, found 'size = 3'"),
    ],
)
def test_a_wrong_line_of_a_profile_is_refused(project, text, message, capsys):
    (project / "notebooks/params/toy.yaml").write_text(text)
    assert run.main(["paper", "--profile", "toy"]) == 1
    shown = capsys.readouterr().err
    assert message in shown and shown.count("\n") == 1


def test_outside_of_the_project_there_is_no_profile(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run.main(["paper", "--profile", "toy"]) == 1
    shown = capsys.readouterr().err
    assert (
        "no profile 'toy'; there is none to choose from here; start in the folder of the project\n"
        in shown
    )


def test_a_failed_notebook_is_not_taken_for_built(built, capsys):
    path, runs = built / "notebooks/02_recommender.ipynb", built / "runs/toy"
    replace(path, "hand_on(profile", "1 / 0  # hand_on(profile")
    for _ in range(2):
        assert run.main(["paper", "--profile", "toy"]) == 1
    shown = capsys.readouterr().err
    assert "02_recommender failed in cell [2]: ZeroDivisionError: division by zero" in shown
    assert str(runs / "02_recommender.failed.ipynb") in shown
    assert "ZeroDivisionError" in (runs / "02_recommender.failed.ipynb").read_text()
    assert not (runs / "02_recommender.json").exists()
    assert not list(runs.glob("*.partial.ipynb"))

    replace(path, "1 / 0  # hand_on(profile", "hand_on(profile")
    assert paper(built) == ["recommender"]
    assert not list(runs.glob("*.failed.ipynb"))


def test_a_notebook_that_leaves_no_stage_has_failed(project, capsys):
    replace(project / "notebooks/01_data.ipynb", "hand_on(profile, ", "print(profile, ")
    assert run.main(["paper", "--profile", "toy"]) == 1
    assert "01_data failed: StageError" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, "parent gone"])
def test_an_interrupted_run_goes_on_at_the_same_notebook(project, kind):
    path, wait = project / "notebooks/02_recommender.ipynb", "open('on', 'w'), time.sleep(60), "
    replace(path, "hand_on(profile", f"import time; {wait}hand_on(profile")
    # As `python -m seqsae_utils.run`, but with the three stages and the modules of this project.
    script = f"""if True:
        import runpy, signal, sys
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background has none
        sys.path[:0] = [{str(Path(run.__file__).parents[2])!r}]
        from pathlib import Path
        from seqsae_utils import run, workspace
        from seqsae_utils.run import changes
        changes.PACKAGE = Path({str(project / "seqsae_utils")!r})
        for stage in list(workspace.STAGES)[3:]:
            del workspace.STAGES[stage]
        sys.argv = ["run", "paper", "--profile", "toy", "--end-with-stdin"]
        runpy.run_module("seqsae_utils.run", run_name="__main__")"""
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", script], **pipes, text=True)
    until = time.monotonic() + 60
    while not (project / "notebooks/on").exists() and time.monotonic() < until:
        time.sleep(0.1)
    if kind == "parent gone":
        process.stdin.close()  # as the system does
        process.stdin = None
    else:
        process.send_signal(kind)
    shown = process.communicate(timeout=30)[1]
    assert process.returncode == (-kind if kind == signal.SIGKILL else 130)
    assert ("the next run goes on" in shown) == (kind != signal.SIGKILL)

    replace(path, wait, "")
    assert paper(project) == ["recommender", "activations"]


def test_two_runs_of_one_profile_do_not_mix(project, capsys):
    with run.locked(project / "runs/toy", "a test"):
        assert run.main(["paper", "--profile", "toy"]) == 1
        assert "profile toy is being run already" in capsys.readouterr().err
        assert run.main(["paper", "--profile", "tiny"]) == 0


def test_executed_notebooks_replace_the_committed_ones(project, monkeypatch, capsys):
    (project / "notebooks/params/ml-100k.yaml").write_text("")
    assert run.main(["notebooks"]) == 1  # their default is the profile toy
    assert "a notebook's defaults are that profile" in capsys.readouterr().err
    for name in NAMES:
        replace(project / f"notebooks/{name}.ipynb", '\\"toy\\"', '\\"ml-100k\\"')
    assert run.main(["notebooks"]) == 0
    first = [(project / f"notebooks/{name}.ipynb").read_bytes() for name in NAMES]
    subprocess.run(["rm", "-r", project / "runs"], check=True)
    assert run.main(["notebooks"]) == 0
    assert [(project / f"notebooks/{name}.ipynb").read_bytes() for name in NAMES] == first
    replace(project / "notebooks/02_recommender.ipynb", "# A notebook", "# A better text")
    (project / "ran.txt").unlink()
    assert run.main(["notebooks"]) == 0
    assert "# A better text" in (project / "notebooks/02_recommender.ipynb").read_text()
    assert not (project / "ran.txt").exists()

    # Edited while the others ran: nothing is put back.
    monkeypatch.setattr(run, "paper", lambda *_: None)
    replace(project / "notebooks/01_data.ipynb", '"execution_count": 2', '"execution_count": 9')
    replace(project / "notebooks/03_activations.ipynb", "'states'", "'other'")
    before = [(project / f"notebooks/{name}.ipynb").read_bytes() for name in NAMES]
    assert run.main(["notebooks"]) == 1
    shown = capsys.readouterr().err
    assert "03_activations: its code cells are not those of its executed copy; was it" in shown
    assert [(project / f"notebooks/{name}.ipynb").read_bytes() for name in NAMES] == before
    book = nbformat.reads(first[0].decode(), as_version=4)
    assert [cell.execution_count for cell in book.cells[1:]] == [1, 2]
    assert [cell.id for cell in book.cells] == ["title", "parameters", "body"]


def test_another_published_profile_keeps_copies(project, monkeypatch, capsys):
    assert run.main(["notebooks", "--profile", "tiny"]) == 1
    assert "keeps what is committed: ml-100k, ml-1m" in capsys.readouterr().err
    assert run.main(["notebooks", "-p", "k", "8"]) == 1
    assert "keeps what a profile's own parameters give" in capsys.readouterr().err
    monkeypatch.setitem(run.PUBLISHED, "tiny", "Tiny (made up)")
    before = {name: (project / f"notebooks/{name}.ipynb").read_bytes() for name in NAMES}
    assert run.main(["notebooks", "--profile", "tiny"]) == 0
    assert before == {name: (project / f"notebooks/{name}.ipynb").read_bytes() for name in NAMES}
    copy = project / "notebooks/tiny/02_recommender.ipynb"
    book = nbformat.read(copy, as_version=4)
    assert book.cells[0].source.splitlines()[0].endswith(" (Tiny (made up))")
    kinds = [cell.metadata.get("tags") for cell in book.cells if cell.cell_type == "code"]
    assert kinds[:2] == [["parameters"], ["injected-parameters"]]
    assert 'profile = "tiny"' in book.cells[2].source
    # A text is edited: `claims` puts it into the copy too, and changes nothing else.
    monkeypatch.setattr(run, "publish", lambda: None)
    link = "[list](scenarios.yaml), [two](02_recommender.ipynb), [it](https://e.org#a), [b](#c)"
    replace(project / "notebooks/02_recommender.ipynb", "# A notebook", f"# A better text\\n{link}")
    assert run.main(["claims"]) == 0
    first = book.cells[0].source
    book = nbformat.read(copy, as_version=4)
    better = book.cells.pop(0).source
    assert better.startswith("# A better text (Tiny (made up))\n")
    assert link.replace("(sc", "(../sc") in better and first != better
    text = copy.read_text()
    assert run.main(["claims"]) == 0 and copy.read_text() == text


def test_a_changed_file_of_the_readers_own_is_noticed(project, monkeypatch):
    folder = project / "datasets" / "mine"
    folder.mkdir(parents=True)
    (folder / "interactions.csv").write_text("1,2,3\n")
    monkeypatch.setenv("SEQSAE_DATA_DIR", str(folder.parent))
    ws = workspace.Workspace("toy")
    before = changes.fingerprint(ws, "data", {"dataset": "mine"})
    assert before == changes.fingerprint(ws, "data", {"dataset": "mine"})
    (folder / "interactions.csv").write_text("1,2,4\n")
    assert before != changes.fingerprint(ws, "data", {"dataset": "mine"})
    published = project / "datasets" / "ml-10M100K"  # as its zip unpacks
    published.mkdir()
    (published / "ratings.dat").write_text("1::2::3::4\n")
    before = changes.fingerprint(ws, "data", {"dataset": "ml-10m"})
    (published / "ratings.dat").write_text("1::2::4::4\n")
    assert before != changes.fingerprint(ws, "data", {"dataset": "ml-10m"})


def test_concepts_that_come_later_are_noticed_by_the_notebook_that_reads_them(project, monkeypatch):
    monkeypatch.setenv("SEQSAE_DATA_DIR", str(project / "datasets"))
    ws, path = workspace.Workspace("toy"), project / "notebooks" / "01_data.ipynb"
    with ws.save("data", parameters={"dataset": "mine"}, label="mine"):
        pass
    book = nbformat.read(path, as_version=4)
    book.cells[-1].source += '\nload_concepts(ws.load("data"))'
    nbformat.write(book, project / "notebooks" / "02_recommender.ipynb")
    found = [changes.fingerprint(ws, "recommender", {})]
    for file in ("data/concepts/mine.csv", "datasets/mine/concepts.csv", "datasets/mine/users.csv"):
        (project / file).parent.mkdir(parents=True, exist_ok=True)
        (project / file).write_text("item_id,kind,concept\n")
        found.append(changes.fingerprint(ws, "recommender", {}))
        assert found[-1] != found[-2], file
    (project / "datasets" / "mine" / "items.csv").write_text("item_id\n")
    assert changes.fingerprint(ws, "recommender", {}) == found[-1], "it does not read this one"


def test_changed_scenarios_are_noticed(project):
    """A notebook that names a file of the folder depends on it."""
    ws, path = workspace.Workspace("toy"), project / "notebooks" / "01_data.ipynb"
    book = nbformat.read(path, as_version=4)
    book.cells[-1].source += '\nopen("scenarios.yaml")'
    nbformat.write(book, path)
    (project / "notebooks" / "scenarios.yaml").write_text("one: {}")
    before = changes.fingerprint(ws, "data", {})
    (project / "notebooks" / "scenarios.yaml").write_text("two: {}")
    assert changes.changes(changes.fingerprint(ws, "data", {}), before) == "scenarios.yaml"


def test_how_many_run_at_once_is_no_reason_to_run_again(project):
    ws = workspace.Workspace("toy")
    one, two, other = ({"n_jobs": n, "k": k} for n, k in [(1, 8), (2, 8), (1, 9)])
    found = [changes.fingerprint(ws, "data", given) for given in (one, two, other)]
    assert found[0] == found[1] != found[2]


def test_tables_over_trainings_are_no_product_of_a_notebook(project):
    folder = project / "figures/toy"
    (folder / "tables").mkdir(parents=True)
    for name in (
        "trainings.csv",
        "draws.parquet",
        "claims.csv",
        "metrics.json",
        "a.png",
        "tables/claims.csv",
    ):
        (folder / name).write_text("1")
    found = {
        path.relative_to(folder).as_posix() for path in run._outputs(workspace.Workspace("toy"))
    }
    assert found == {"a.png", "tables/claims.csv"}


def test_a_value_of_an_unknown_type_is_passed_on():
    assert parameters.fit("mode", "a", "Literal['a', 'b']") == "a"
    assert parameters.fit("sizes", [1, 2], "list[int]") == [1, 2]
    assert parameters.fit("rate", 1, "float") == 1
    for text, value in {"1e-3": 0.001, "1E-3": 0.001, "1.5e3": 1500, "-.5": -0.5}.items():
        assert parameters.fit("rate", text, "float") == value
        assert parameters.fit("rate", text, "float | str") == text
    with pytest.raises(
        parameters.RunError, match="'rate' is '1e', but the notebooks declare `rate: float`"
    ):
        parameters.fit("rate", "1e", "float")


def bar(percent: int) -> str:
    return f"\rtrain: {percent:3d}%|{'#' * (percent // 20):5}| {percent}/100 [00:01<00:01, 9.9it/s]"


def executed(outputs: list, times: str) -> nbformat.NotebookNode:
    cell = new_code_cell("1", id="a", outputs=outputs, execution_count=7)
    cell.metadata = {"execution": {"t": times}, "papermill": {"duration": times}, "tags": []}
    metadata = {"papermill": {"start": times}, "language_info": {"name": "python", "version": "3"}}
    return new_notebook(cells=[cell, new_code_cell("", id="b")], metadata=metadata)


def test_normalising_leaves_only_results():
    first = executed(
        [
            new_output("stream", name="stderr", text=bar(10)),
            new_output("stream", name="stdout", text="one\n"),
            new_output("stream", name="stderr", text=bar(90) + "\r" + " " * 60 + "\r"),
            new_output("stream", name="stdout", text="two\n"),
            new_output("execute_result", {"text/plain": "1"}, execution_count=7),
        ],
        "now",
    )
    second = executed(
        [
            new_output("stream", name="stdout", text="one\ntwo\n"),
            new_output("execute_result", {"text/plain": "1"}, execution_count=9),
        ],
        "later",
    )
    first, second = normalise(first), normalise(second)
    assert nbformat.writes(first) == nbformat.writes(second)
    assert nbformat.writes(normalise(first)) == nbformat.writes(second)
    assert first.cells[0].execution_count == first.cells[0].outputs[1].execution_count == 1
    assert first.cells[0].metadata == {} and first.cells[1].execution_count is None


@pytest.mark.parametrize(
    "text, left",
    [
        (bar(50) + bar(100) + "\n", None),
        (bar(50) + "\n" + bar(10) + "\x1b[A" + bar(100) + "\n" + " " * 60 + "\r\x1b[A", None),
        ("careful\n" + bar(50) + "\r" + " " * 60 + "\r", "careful\n"),
        ("UserWarning: 50% lost\n", "UserWarning: 50% lost\n"),
        ("model 1 of 2, gpt2, epochs: |█▌ | 0.5/3 [00:00, at most 00:01 more]\n", None),
        ("UserWarning: a title: |x| is read\n", "UserWarning: a title: |x| is read\n"),
    ],
)
def test_only_progress_bars_are_dropped_from_stderr(text, left):
    book = executed([new_output("stream", name="stderr", text=text)], "")
    shown = [output.text for output in normalise(book).cells[0].outputs]
    assert shown == [left] * (left is not None)


def test_outputs_are_put_beside_texts_that_have_been_edited_since():
    book = executed([new_output("stream", name="stdout", text="old\n")], "then")
    book.cells.insert(0, new_markdown_cell("new text", id="t"))
    copy = executed([new_output("stream", name="stdout", text="new\n")], "now")
    injected = new_code_cell("n_jobs = 1", metadata={"tags": ["injected-parameters"]})
    copy.cells.insert(0, injected)
    found = with_outputs(book, copy)
    assert [cell.id for cell in found.cells] == ["t", "a", "b"]
    assert found.cells[0].source == "new text"
    assert found.cells[1].outputs[0].text == "new\n" and found.cells[1].execution_count == 1
    copy.cells[1].source = "2"
    with pytest.raises(ValueError, match="its code cells are not those of its executed copy"):
        with_outputs(book, copy)


def test_a_copy_names_no_folder():
    warned = [new_output("stream", name="stderr", text="/a/b.py:3: UserWarning: /c is not whole\n")]
    book = executed([], "")
    book.cells.insert(0, new_markdown_cell("# Title", id="t"))
    book.cells[1].metadata["tags"] = ["parameters"]
    copy = beside(book, executed(warned, ""), "Tiny")
    assert copy.cells[0].source == "# Title (Tiny)" and copy.cells[1].outputs == []


#: In the place of `seqsae_utils.run` in the processes that `seeds` starts: a chain in no time.
FAKE_CHAIN = """
import json, os, sys
from pathlib import Path
root, words = Path(os.environ["SEQSAE_WORKSPACE"]), sys.argv[1:]
given = {words[i + 1]: words[i + 2] for i, word in enumerate(words) if word == "-p"}
seed = int(given.get("seed", 0))
folder = root / "artifacts/toy"
folder.mkdir(parents=True, exist_ok=True)
print(f"[1/3] 01_data  not run yet\\n{'':26}2 s\\n\\nmore", flush=True)
print("a warning", file=sys.stderr)
if Path(f"fail {seed}").exists():
    sys.exit("error: no luck")
asked = {"words": words, "environment": {name: os.environ.get(name) for name in
         ("TQDM_DISABLE", "SEQSAE_DATA_DIR", "SEQSAE_THREADS", "OMP_WAIT_POLICY")}}
(root / "asked.json").write_text(json.dumps(asked))
numbers = {"data": {"users": 943, "ok": True, "none": None, "nan": float("nan"), "list": [1.5]},
           "sae": {"l0": 8.0 + seed, "first, second": {"max": 1.23457e-9}}}
(folder / "metrics.json").write_text(json.dumps(numbers))
"""


@pytest.fixture
def chains(project, monkeypatch) -> Path:
    """The project with a fake chain, data that are fetched by naming them, and claims noted."""
    (project / "seqsae_utils/run.py").write_text(FAKE_CHAIN)
    replace(
        project / "notebooks/01_data.ipynb", "size: int = 3", "dataset: str = 'x'\\nsize: int = 3"
    )
    monkeypatch.setattr(trainings, "load_raw", lambda name: print(f"fetched {name}"))

    def note(folder):
        found = claims.load_trainings(folder).values()
        print("claims of", [training.numbers["sae", "l0"] for training in found], folder.name)
        (folder / "claims.csv").write_text("verdict\nholds\nundecided\nholds\n")

    monkeypatch.setattr(claims, "write_claims", note)
    return project


def asked(root: Path) -> dict:
    return json.loads((root / "asked.json").read_text())


def test_trainings_give_one_tidy_table(chains, capsys, monkeypatch):
    monkeypatch.setenv("SEQSAE_THREADS", "2")
    monkeypatch.setenv("SEQSAE_DATA_DIR", "own data")
    assert run.main(["seeds", "--profile", "toy", "-n", "3", "-p", "rate", "1e-3"]) == 0
    root = chains / "runs/toy/others/rate=0.001"
    file, folder = root / "figures/toy/trainings.csv", root / "runs/toy/trainings"
    own = ["{},data,users,943", "{},sae,l0,{}.0", '{},sae,"first, second.max",1.23457e-09']
    rows = [line.format(seed, seed + 8) for seed in range(3) for line in own]
    assert file.read_text().splitlines() == ["seed,stage,name,value", *rows]
    assert pd.read_csv(file)["value"].dtype == float

    first = ["paper", "--profile", "toy", "--end-with-stdin"]
    first += ["-p", "rate", "1e-3", "-p", "n_jobs", "1"]
    assert asked(root)["words"] == first
    assert not (chains / "figures/toy").exists()
    assert asked(folder / "2")["words"] == [*first, "-p", "seed", "2"]
    assert asked(folder / "2")["environment"] == {
        "TQDM_DISABLE": "1",
        "SEQSAE_DATA_DIR": str(chains / "own data"),
        "SEQSAE_THREADS": "2",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    assert not (folder / "0/artifacts").exists()
    shown = capsys.readouterr().out.splitlines()
    assert shown[:2] == ["other parameters, so in runs/toy/others/rate=0.001", "fetched x"]
    assert {line for line in shown if line.startswith("seed 1")} == {
        "seed 1 | [1/3] 01_data  not run yet",
        f"seed 1 | {'':26}2 s",
    }
    assert [line for line in shown if "done" in line] == [
        f"{i} of 3 trainings done" for i in (1, 2, 3)
    ]
    assert f"{os.path.relpath(file)}: 9 numbers of 3 trainings" in shown
    assert "claims: 2 holds, 1 undecided" in shown
    assert "claims of [8.0, 9.0, 10.0] toy" in shown
    for seed in range(3):
        log = (folder / f"{seed}/log.txt").read_text()
        assert "\nmore\n" in log and "a warning" in log


def test_trainings_with_other_parameters_are_not_joined_to_those_of_the_profile(chains):
    folder = chains / "figures/toy"
    folder.mkdir(parents=True)
    for name in ("trainings.csv", "draws.parquet", "claims.csv", "kept.csv"):
        (folder / name).write_text("of the profile")
    root = results.folder_of("toy", {"rate": 1e-3})
    results.begin(root, workspace.Workspace("toy"))
    assert [path.name for path in (root / "figures/toy").iterdir()] == ["kept.csv"]


def test_after_a_training_that_fails_the_others_go_on(chains, capsys):
    (chains / "fail 1").touch()
    assert run.main(["seeds", "--profile", "toy", "-n", "3", "--jobs", "1"]) == 1
    shown = capsys.readouterr()
    log = "runs/toy/trainings/1/log.txt"
    assert shown.err == f"error: 1 of 3 trainings failed: seed 1 (see {log})\n"
    assert "seed 1 | error: no luck" in shown.out and "2 of 3 trainings done" in shown.out
    assert (chains / log).read_text().endswith("error: no luck\n")
    assert asked(chains / "runs/toy/trainings/2")["words"][-2:] == ["seed", "2"]
    assert "n_jobs" not in asked(chains)["words"]  # one at a time has all cores
    assert not (chains / "figures/toy/trainings.csv").exists() and "claims" not in shown.out

    (chains / "fail 1").unlink()
    assert run.main(["seeds", "--profile", "toy", "-n", "3"]) == 0
    assert (chains / "figures/toy/trainings.csv").is_file()


def test_no_seed_is_trained_twice(chains):
    (chains / "notebooks/params/toy.yaml").write_text("seed: 1\n")
    found = trainings.places("toy", parameters.resolve("toy", {}), 3)
    folder = chains / "runs/toy/trainings"
    assert list(found.items()) == [(1, chains), (2, folder / "2"), (3, folder / "3")]


def test_seeds_waits_for_nobody_and_asks_for_one_at_least(chains, capsys):
    assert run.main(["seeds", "--profile", "toy", "-n", "0"]) == 1
    assert "error: 0 trainings: at least one is needed" in capsys.readouterr().err
    with run.locked(chains / "runs/toy/trainings", "a test"):
        assert run.main(["seeds", "--profile", "toy"]) == 1
    assert "`seeds` of profile toy is being run already; wait" in capsys.readouterr().err
    assert not list(chains.rglob("asked.json"))
    with pytest.raises(SystemExit):
        run.main(["paper", "--profile", "toy", "-n", "3"])
    assert "-n and --jobs belong to the command seeds" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run.main(["data", "--name", "wide"])
    assert "`data` has no run with a --name" in capsys.readouterr().err


def test_a_training_can_be_sent_to_another_machine(chains, tmp_path):
    """What joblib sends: a function of a module and plain values, which start from any folder."""
    log = tmp_path / "a log" / "log.txt"
    command = trainings._command("toy", {"seed": 4, "name": None})
    given = (4, command, trainings._environment(tmp_path / "out"), chains, log)
    function, given = pickle.loads(pickle.dumps((trainings.train, given)))
    os.chdir(tmp_path)
    assert function(*given) == (4, 0)
    assert asked(tmp_path / "out")["words"][-6:] == ["-p", "seed", "4", "-p", "name", "null"]
    assert "01_data" in log.read_text()


def test_a_training_ends_with_the_process_that_started_it(tmp_path):
    chain = "import sys; open('on', 'w'); sys.stdin.read(); open('ended', 'w')"
    script = f"""if True:
        import sys
        sys.path[:0] = [{str(Path(run.__file__).parents[2])!r}]
        from pathlib import Path
        from seqsae_utils.run import trainings
        here = Path({str(tmp_path)!r})
        trainings.train(1, ["-c", {chain!r}], {{}}, here, here / "log.txt")"""
    process = subprocess.Popen([sys.executable, "-c", script])

    def seen(name: str, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while not (tmp_path / name).exists() and time.monotonic() < until:
            time.sleep(0.1)
        return (tmp_path / name).exists()

    assert seen("on", 60) and not seen("ended", 1)
    process.kill()
    process.wait()
    assert seen("ended", 10)


def test_kernels_get_full_paths(project, monkeypatch):
    monkeypatch.setenv("SEQSAE_WORKSPACE", "out")
    monkeypatch.setenv("SEQSAE_DATA_DIR", "../data")
    monkeypatch.setattr(run, "data", lambda *_: None)
    assert run.main(["data", "--profile", "toy"]) == 0
    assert os.environ["SEQSAE_WORKSPACE"] == str(project / "out")
    assert Path(os.environ["SEQSAE_DATA_DIR"]).resolve() == project.parent / "data"


def test_claims_are_put_where_they_are_read(capsys, monkeypatch):
    calls = []
    monkeypatch.setattr(run, "publish", lambda: calls.append("published"))
    assert run.main(["claims"]) == 0 and calls == ["published"]
    assert run.main(["claims", "-p", "k", "8"]) == 1
    assert "shows what is committed, and has no profile or parameters" in capsys.readouterr().err


def test_the_memory_of_a_kernel_and_its_workers_is_that_of_a_notebook():
    worker = "import time; x = b'x' * 150_000_000; print('ready', flush=True); time.sleep(60)"
    kernel = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {worker!r}])"
    peak, done = [0], threading.Event()
    with subprocess.Popen([sys.executable, "-c", kernel], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        following = threading.Thread(target=run._follow_memory, args=[peak, done])
        following.start()
        for child in psutil.Process(process.pid).children():
            while not peak[0]:
                time.sleep(0.05)
            child.kill()
    done.set()
    following.join()
    assert peak[0] > 150e6
