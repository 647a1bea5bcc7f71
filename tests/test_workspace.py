"""Stages are complete or not there, and nothing altered is ever read."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pandas as pd
import psutil
import pytest
from joblib import Parallel, delayed

from seqsae_utils import sae, workspace
from seqsae_utils.fingerprint import LOADED
from seqsae_utils.workspace import StageError, Workspace


@pytest.fixture
def ws(tmp_path, monkeypatch) -> Workspace:
    """A workspace with two stages, the second made from the first."""
    monkeypatch.setenv("SEQSAE_WORKSPACE", str(tmp_path))
    ws = Workspace("toy")
    write(ws, "data", "old", label="Toy")
    write(ws, "recommender", "weights", reads=["data"])
    return ws


def write(ws, stage, text, **how):
    with ws.save(stage, **how) as folder:
        (folder / "content.txt").write_text(text)


def test_a_stage_is_read_back_with_its_label(ws):
    assert (ws.load("recommender") / "content.txt").read_text() == "weights"
    assert ws.label == "Toy"
    assert ws.manifest("recommender")["label"] == "Toy"
    assert sorted(path.name for path in ws.artifacts.iterdir()) == ["data", "recommender"]


def test_a_missing_stage_names_what_makes_it(ws):
    with pytest.raises(StageError, match="make paper PROFILE=toy`, or notebook 04_sae"):
        ws.load("sae")


def test_an_error_while_saving_leaves_the_old_stage(ws):
    with pytest.raises(ZeroDivisionError), ws.save("data", label="Toy") as folder:
        (folder / "content.txt").write_text("new")
        raise ZeroDivisionError
    assert (ws.load("data") / "content.txt").read_text() == "old"


def test_a_kill_while_saving_leaves_the_old_stage(ws):
    script = """if True:
        import os, signal
        from seqsae_utils.workspace import Workspace
        with Workspace("toy").save("data", label="Toy") as folder:
            (folder / "content.txt").write_text("new")
            os.kill(os.getpid(), signal.SIGKILL)"""
    killed = subprocess.run([sys.executable, "-c", script], env=dict(os.environ))
    assert killed.returncode == -signal.SIGKILL
    assert (ws.artifacts / "data.partial" / "content.txt").read_text() == "new"
    assert (ws.load("data") / "content.txt").read_text() == "old"


def test_a_kill_between_the_two_renames_is_repaired_by_the_next_run(ws):
    (ws.artifacts / "data").rename(ws.artifacts / "data.old")  # what such a kill leaves
    with pytest.raises(StageError, match="data is missing"):
        ws.load("data")
    write(ws, "data", "new", label="Toy")
    assert (ws.load("data") / "content.txt").read_text() == "new"
    assert not (ws.artifacts / "data.old").exists()


def test_one_altered_byte_is_refused(ws):
    path = ws.artifacts / "recommender" / "content.txt"
    path.write_bytes(path.read_bytes().replace(b"w", b"W"))
    with pytest.raises(StageError, match=r"altered since 02_recommender wrote it: run `make paper"):
        ws.load("recommender")


def test_a_missing_file_is_refused(ws):
    (ws.artifacts / "recommender" / "content.txt").unlink()
    with pytest.raises(StageError, match=r"content.txt is missing: run `make paper PROFILE=toy`"):
        ws.load("recommender")


@pytest.mark.parametrize("content", [b"", b'{"files": {', b"[]", b"\xff\xfe", b"{}", b'"x"'])
def test_a_damaged_manifest_is_named_with_what_repairs_it(ws, content):
    with ws.save("data", label="Toy") as folder:
        (folder / "a.txt").write_text("a")
    file = ws.artifacts / "data" / "manifest.json"
    file.write_bytes(content)
    with warnings.catch_warnings(action="ignore"):
        with pytest.raises(StageError, match=r"manifest.json is damaged: run `make paper"):
            ws.load("data")


@pytest.mark.parametrize("content", [b"", b'{"data": {', b"[]", b"\xff\xfe"])
def test_damaged_numbers_are_named_and_recorded_anew(ws, content):
    with ws.save("data", label="Toy"):
        pass
    (ws.artifacts / "metrics.json").write_bytes(content)
    with pytest.warns(UserWarning, match="metrics.json is damaged and counts as missing"):
        ws.record("data", {"users": 3})
    assert json.loads((ws.artifacts / "metrics.json").read_bytes()) == {"data": {"users": 3}}


def test_a_stage_of_another_profile_is_refused(ws):
    other = Workspace("other")
    with other.save("data", label="Other"):
        pass
    shutil.rmtree(ws.artifacts)
    other.artifacts.rename(ws.artifacts)
    with pytest.raises(StageError, match="was written for the profile 'other': run `make paper"):
        ws.load("data")


def test_a_stage_made_from_another_one_is_refused(ws):
    write(ws, "activations", "states", reads=["recommender"])
    write(ws, "data", "new", label="Toy")
    for stage in ("recommender", "activations"):
        with pytest.raises(StageError, match="made from another 'data'"):
            ws.load(stage)


def test_the_same_content_written_again_keeps_the_chain(ws):
    write(ws, "data", "old", label="Toy")
    assert ws.load("recommender")


def test_two_processes_that_write_one_file_do_not_meet(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    with workspace.replacing(file) as one:
        one.write_text("one")
        monkeypatch.setattr(os, "getpid", lambda: os.getppid())
        with workspace.replacing(file) as other:
            other.write_text("other")
    assert file.read_text() == "one" and [*tmp_path.iterdir()] == [file]


def test_what_a_killed_process_left_is_removed_and_no_other(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    names = [f"a.json.{process}.tmp" for process in (gone.pid, os.getppid())]
    for name in names:
        (tmp_path / name).touch()
    workspace.write_json(tmp_path / "a.json", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", names[1]]


def test_workers_end_with_the_process_that_started_them(tmp_path):
    script = f"""if True:
        from pathlib import Path
        import numpy as np
        from joblib import Parallel, delayed
        from seqsae_utils import sae
        sae.training.SECONDS_BETWEEN_CHECKPOINTS = 0
        states, training = np.random.rand(500, 4), sae.Training(steps=10**9, batch_size=100)
        fits = (
            delayed(sae.fit)(states, sae.Config(4, 8, k=2), training, Path({str(tmp_path)!r}, i))
            for i in "ab"
        )
        Parallel(2)(fits)"""
    process = psutil.Popen([sys.executable, "-c", script])
    until = time.monotonic() + 120
    while len({*tmp_path.iterdir()}) < 2 and time.monotonic() < until:
        time.sleep(0.2)
    workers = process.children(recursive=True)
    assert len(workers) >= 2
    process.kill()
    process.wait()
    gone, alive = psutil.wait_procs(workers, timeout=10)
    for worker in alive:
        worker.kill()
    assert not alive


def interrupt(ws, **how) -> None:
    with pytest.raises(KeyboardInterrupt), ws.save("sae", **how) as folder:
        (folder / "epoch.txt").write_text("3")
        raise KeyboardInterrupt


@pytest.mark.parametrize("k, found", [(8, ["claim.json", "epoch.txt"]), (16, ["claim.json"])])
def test_half_done_work_goes_on_only_with_the_same_parameters(ws, k, found):
    interrupt(ws, parameters={"k": 8}, resume=sae.fit)
    with ws.save("sae", parameters={"k": k}, resume=sae.fit) as folder:
        assert sorted(path.name for path in folder.iterdir()) == found


@pytest.mark.parametrize("before, after", [(sae.fit, None), (None, sae.fit)])
def test_half_done_work_is_discarded_unless_asked_for(ws, before, after):
    interrupt(ws, resume=before)
    with ws.save("sae", resume=after) as folder:
        assert not (folder / "epoch.txt").exists()


@pytest.mark.parametrize(
    "path, kept",
    [
        ("figures/sae.py", True),
        ("apps/desk/pages.py", True),
        ("sae/variants.py", False),
        ("workspace.py", False),
    ],
)
@pytest.mark.parametrize("edit, is_code", [("# another caption", False), ("\nmore = 1", True)])
def test_half_done_work_goes_on_if_its_own_code_is_the_same(
    ws, monkeypatch, path, kept, edit, is_code
):
    interrupt(ws, resume=sae.fit)
    monkeypatch.setitem(LOADED, path, LOADED[path] + edit)
    with ws.save("sae", resume=sae.fit) as folder:
        assert (folder / "epoch.txt").exists() == (kept or not is_code)


def test_nobody_writes_a_stage_that_is_being_written(ws):
    with ws.save("sae") as folder:
        (folder / "weights").touch()
        with pytest.raises(StageError, match="sae is being run already; wait"), ws.save("sae"):
            pass
        with ws.save("control"):
            pass
    assert ws.load("sae")


@pytest.mark.parametrize("k, recorded, again", [(8, False, 0), (8, True, 1), (16, False, 1)])
def test_work_is_not_done_again_until_its_stage_is_recorded(ws, k, recorded, again):
    """A kill comes after the stage was written, and before the rest of its notebook has run."""

    def work(k):
        with ws.save("sae", parameters={"k": k}, resume=sae.fit) as folder:
            (folder / "a").mkdir(exist_ok=True)
            done = (folder / "a" / "of_work.checkpoint").is_file()
            (folder / "a" / "of_work.checkpoint").touch()
            (folder / "a" / "weights").write_text("weights")
        return not done

    assert work(8)
    first = (ws.load("sae") / "manifest.json").read_bytes()
    assert list(ws.manifest("sae")["files"]) == ["a/weights"]
    left = sorted(path.name for path in ws.load("sae").rglob("*"))
    assert left == ["a", "manifest.json", "weights"]
    beside = [ws.artifacts / f"{stage}.more.checkpoint" for stage in ("sae", "control")]
    for file in beside:
        file.touch()
    if recorded:
        ws.forget("sae")
        assert not [*ws.artifacts.glob("*.done")]
    assert [file.is_file() for file in beside] == [not recorded, True]
    assert work(k) == again
    assert ((ws.load("sae") / "manifest.json").read_bytes() == first) == (k == 8)


def test_checkpoints_are_no_part_of_a_stage(ws):
    with ws.save("sae", resume=sae.fit) as folder:
        for name in ("kept.checkpoint", "kept.checkpoint.tmp", "weights"):
            (folder / name).touch()
    assert list(ws.manifest("sae")["files"]) == ["weights"]


@pytest.mark.parametrize("version, refused", [("0.1.0", True), ("0.2.9", False)])
def test_a_stage_of_an_older_version_is_refused(ws, version, refused):
    path = ws.artifacts / "data" / "manifest.json"
    path.write_text(path.read_text().replace(workspace.__version__, version))
    if not refused:
        assert ws.load("data")
    else:
        with pytest.raises(StageError, match=r"version 0.1.0, this is .*: run `make paper PROFILE"):
            ws.load("data")


def test_records_are_merged_in_the_order_of_the_stages(ws):
    ws.record("sae", {"l0": np.float32(8), "dead": np.int64(0), "ok": np.True_})
    ws.record("data", {"users": 3})
    shown = ws.record("sae", {"l0": 7.99999999, "variance": float("nan")})
    assert shown == {"l0": 8.0, "variance": None}
    metrics = json.loads((ws.artifacts / "metrics.json").read_text())
    assert list(metrics.items()) == [("data", {"users": 3}), ("sae", shown)]


@pytest.mark.parametrize(
    "word, known, expected",
    [
        ("bert", ["SASRec", "BERT4Rec"], "nearest: 'BERT4Rec'; all of them: SASRec, BERT4Rec"),
        ("", ["mlp"], "nearest: 'mlp'; all of them: mlp"),
        ("qqq", ["mlp"], "nearest: 'mlp'; all of them: mlp"),
        (3, ["mlp", 30], "nearest: '30'; all of them: mlp, 30"),
        ("mlp", [], "there is none to choose from"),
    ],
)
def test_the_nearest_name_of_any_list(word, known, expected):
    assert workspace.name_nearest(word, known) == expected


def test_draws_are_kept_beside_the_numbers(ws):
    ws.record("sae", {"l0": 8}, {"l0": np.arange(3.0)})
    found = pd.read_parquet(ws.artifacts / "draws" / "sae.parquet")
    assert found.to_dict("list") == {"l0": [0.0, 1.0, 2.0]}
    ws.record("sae", {"l0": 8})
    assert pd.read_parquet(ws.artifacts / "draws" / "sae.parquet").empty
    assert [path.name for path in (ws.artifacts / "draws").iterdir()] == ["sae.parquet"]


def test_json_keeps_six_digits_and_no_half_written_file(tmp_path):
    path = tmp_path / "numbers.json"
    workspace.write_json(path, {"a": 1 / 3, "b": [1e-9 / 7, 12345678], "c": np.array([0.5])})
    assert json.loads(path.read_text()) == {"a": 0.333333, "b": [1.42857e-10, 12345678], "c": [0.5]}
    with pytest.raises(TypeError):
        workspace.write_json(path, {"a": object()})
    assert json.loads(path.read_text())["a"] == 0.333333


def test_the_same_seed_gives_the_same_numbers():
    draws = []
    for seed in (1, 1, 2):
        workspace.seed_everything(seed)
        draws.append((np.random.rand(), float(workspace.torch.rand(1))))
    assert draws[0] == draws[1] != draws[2]


def test_workers_have_as_many_threads_whatever_the_number_of_cores(monkeypatch):
    """Else they would have the cores divided by the jobs, and other machines other numbers."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(variable, "7")
    threads = workspace.torch.get_num_threads()
    for wanted in (2, 1):
        monkeypatch.setenv("SEQSAE_THREADS", str(wanted))
        workspace.seed_everything(0)
        found = Parallel(2)(delayed(workspace.torch.get_num_threads)() for _ in range(2))
        assert found == [wanted, wanted]
    workspace.torch.set_num_threads(threads)


def test_a_number_of_threads_that_is_none_is_refused(monkeypatch):
    for wrong in ("two", "0", "-1", "1.5"):
        monkeypatch.setenv("SEQSAE_THREADS", wrong)
        with pytest.raises(ValueError, match=f"SEQSAE_THREADS is '{wrong}', expected a number"):
            workspace.seed_everything(0)
    threads = workspace.torch.get_num_threads()
    monkeypatch.setenv("SEQSAE_THREADS", "")  # not set
    workspace.seed_everything(0)
    assert workspace.torch.get_num_threads() == 1
    workspace.torch.set_num_threads(threads)


def test_an_absent_gpu_is_named(monkeypatch):
    monkeypatch.setattr(workspace.torch.cuda, "is_available", lambda: False)
    assert workspace.pick_device().type == "cpu"
    with pytest.raises(ValueError, match="'cuda': torch sees no GPU"):
        workspace.pick_device("cuda")
