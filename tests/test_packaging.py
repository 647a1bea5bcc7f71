"""The two commands, the pins, and what they promise."""

import ast
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import seqsae_utils
from seqsae_utils import control, data, interpretability, workspace

PROJECT = Path(__file__).parents[1]


def read(name: str) -> str:
    return (PROJECT / name).read_text()


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    lines = [line.partition("#")[0].strip() for line in read("requirements.txt").splitlines()]
    return {normal(line.partition("==")[0]): line.partition("==")[2] for line in lines if line}


def test_everything_installed_is_pinned_exactly():
    assert all(re.fullmatch(r"\d[\w.]*", version) for version in pins().values()), pins()
    for name, version in pins().items():
        assert importlib.metadata.version(name).partition("+")[0] == version, name


def test_pins_bring_along_nothing_unpinned():
    pinned, waiting = pins(), {"seqsae", *pins()}
    for name in waiting:
        for requirement in importlib.metadata.requires(name) or []:
            spec, _, marker = requirement.partition(";")
            if not marker:  # what a platform or an extra adds is not for everybody
                needed = normal(re.match(r"[\w.-]+", spec)[0])
                assert needed in pinned, f"{name} needs {needed}, which requirements.txt lacks"


def test_each_direct_pin_has_its_reason():
    direct = read("requirements.txt").split("# Brought along")[0].splitlines()
    lines = [line for line in direct if "==" in line]
    assert len(lines) >= 15 and all(re.search(r"  # \S+", line) for line in lines)


def test_conda_gets_the_same_pins():
    environment = yaml.safe_load(read("environment.yml"))["dependencies"]
    conda = [line for line in environment if isinstance(line, str)]
    (extra,) = [line["pip"] for line in environment if isinstance(line, dict)]
    assert conda == ["python=3.11", "pip"]
    assert extra == ["-r requirements.txt"]


def requirements() -> dict[str, list[str]]:
    """What pyproject.toml asks for, by extra; under "" what everybody gets."""
    project = tomllib.loads(read("pyproject.toml"))["project"]
    return {"": project["dependencies"], **project["optional-dependencies"]}


def test_what_the_package_needs_is_pinned_and_fits():
    found = requirements()
    assert set(found) == {"", "notebooks", "app", "interop"}
    for requirement in found[""] + found["notebooks"] + found["app"]:
        name, _, least = requirement.partition(">=")
        pinned = pins()[normal(name)]
        assert [*map(int, pinned.split("."))] >= [*map(int, least.split("."))], requirement


#: The house from the ground up. Files in no folder are the basement, except for the claims.
FLOORS = ["basement", "data", "recommender", "activations", "sae", "interpretability", "control",
          "figures", "claims", "apps", "recommend", "workshop", "run"]  # fmt: skip
CORE = FLOORS[1:7]
FILES = {path.relative_to(PROJECT): path.read_text()
         for path in sorted((PROJECT / "seqsae_utils").rglob("*.py"))}  # fmt: skip
MODULES = {"concept-erasure": "concept_erasure", "scikit-learn": "sklearn", "pyyaml": "yaml",
           "sae-lens": "sae_lens"}  # fmt: skip


def floor(module: str) -> str:
    room = module.partition(".")[2].partition(".")[0]
    return room if room in FLOORS else "basement"


def floor_of(path: Path) -> str:
    return floor(".".join(path.with_suffix("").parts))


def modules(extras) -> set[str]:
    names = {line.partition(">=")[0] for extra in extras for line in requirements()[extra]}
    return {MODULES.get(name, name) for name in names}


def imported(path: Path) -> set[str]:
    """Dotted names that a file may import, in full."""
    names = set()
    for node in ast.walk(ast.parse(FILES[path])):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            module = importlib.util.resolve_name(module, ".".join(path.parent.parts))
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def test_imports_lead_down_and_the_sae_stands_alone():
    below = {room: FLOORS[: i + 1] for i, room in enumerate(FLOORS)}
    below["sae"] = ["basement", "sae"]  # it could be lifted out, to decompose anything else
    ours = [(path, name) for path in FILES for name in imported(path) if "seqsae_utils." in name]
    assert not [(p, name) for p, name in ours if floor(name) not in below[floor_of(p)]]


def test_sae_names_the_stage_and_the_representation_and_nothing_else():
    assert "sae" in workspace.STAGES and "sae" in interpretability.REPRESENTATIONS
    assert "sae" not in [*data.SPLITS, *control.METHODS]


def test_every_import_is_declared_and_the_core_needs_no_extra():
    for path in FILES:
        names = {name.partition(".")[0] for name in imported(path)}
        extras = [""] if floor_of(path) in ["basement", *CORE] else requirements()
        assert names - {*sys.stdlib_module_names, "seqsae_utils"} <= modules(extras), path


@pytest.mark.parametrize("rooms, without", [(CORE, set()), (["sae"], {"sklearn"})])
def test_rooms_open_without_what_extras_bring(rooms, without):
    absent = modules({*requirements()} - {""}) | without
    code = f"import sys; sys.modules |= dict.fromkeys({sorted(absent)})\n"
    code += "\n".join(f"import seqsae_utils.{room}" for room in rooms)
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr


def test_the_sae_opens_with_little_else():
    heavy = ["pandas", "scipy", "joblib", "pyarrow", "sklearn", "matplotlib"]
    code = "import sys, torch; before = {*sys.modules}; import seqsae_utils.sae\n"
    code += f"print(sorted({{*{heavy}}} & ({{*sys.modules}} - before)))"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_one_version():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == seqsae_utils.__version__
    assert importlib.metadata.version("seqsae") == seqsae_utils.__version__
    assert citation["license"] == "MIT" and read("LICENSE").startswith("MIT License")


def test_templates_come_with_the_package():
    found = {path.relative_to(PROJECT / "seqsae_utils") for path in
             (PROJECT / "seqsae_utils").rglob("*") if path.is_file()}  # fmt: skip
    found = {path.as_posix() for path in found if path.suffix not in (".py", ".pyc")}
    declared = tomllib.loads(read("pyproject.toml"))["tool"]["setuptools"]["package-data"]
    names = {f"{package}.{name}" for package, names in declared.items() for name in names}
    assert names == {"seqsae_utils." + name.replace("/", ".") for name in found}


def test_the_robot_calls_the_test_command_last():
    lines = read(".ci/run").splitlines()
    assert os.access(PROJECT / ".ci/run", os.X_OK)
    assert lines[:2] == ["#!/usr/bin/env bash", "set -euo pipefail"] and lines[-1] == "make test"


@pytest.mark.parametrize("works", [True, False])
@pytest.mark.parametrize("user", [0, 1000])
@pytest.mark.parametrize("browser", [True, False])
def test_the_robot_installs_a_missing_browser_or_fails(tmp_path, browser, user, works):
    commands = {"id": f"echo {user}", "make": "echo made $*", "dirname": "echo $PWD/.ci"}
    commands["apt-get"] = f"echo apt-get $*; {'true' if works else 'false'}"
    for name, body in (commands | {"chromium": "true"} if browser else commands).items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    command = [shutil.which("bash"), PROJECT / ".ci/run"]
    found = subprocess.run(
        command, cwd=PROJECT, env={"PATH": str(tmp_path)}, capture_output=True, text=True
    )
    installs = user == 0 and not browser
    assert ("apt-get install" in found.stdout) == (installs and works), found.stderr
    assert (found.returncode == 0) == ("made test" in found.stdout) == (works or not installs)


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    # Without the variables of a `make test` around this one.
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def test_help_is_the_default_and_explains_each_target():
    targets = re.search(r"(?m)^\.PHONY: (.*)", read("Makefile"))[1].split()
    shown = make(PROJECT).stdout
    assert shown == make(PROJECT, "help").stdout
    assert [line.split()[0] for line in shown.splitlines()[1:]] == targets
    assert {"env", "data", "paper", "notebooks", "lab", "test", "lint", "clean"} < {*targets}


@pytest.fixture
def fresh(tmp_path) -> Path:
    """A checkout without an environment, in a path with a space."""
    folder = tmp_path / "a checkout"
    folder.mkdir()
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        (folder / name).write_text(read(name))
    return folder


def fake_python(folder: Path, version: str = "0", pip: str = "true") -> str:
    """A Python that answers what the Makefile asks of it, and installs nothing."""
    path = folder / "python"
    path.write_text(f"""#!/bin/sh
    case "$*" in
      -c*) exit {version} ;;
      "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python && echo created ;;
      "-m pip"*) {pip} ;;
    esac""")
    path.chmod(0o755)
    return f"PYTHON={'./python'}"


@pytest.mark.parametrize("version", [None, "1"])
def test_a_missing_or_other_python_is_named(fresh, version):
    python = fake_python(fresh, version) if version else "PYTHON=python3.11-that-nobody-has"
    made = make(fresh, "env", python)
    assert made.returncode != 0 and not (fresh / ".venv").exists()
    assert f"`{python.partition('=')[2]}` is not Python 3.11 to 3.14" in made.stdout + made.stderr


def test_an_interrupted_installation_starts_over(fresh):
    assert make(fresh, "env", fake_python(fresh, pip="exit 1")).returncode != 0
    (fresh / ".venv" / "half-installed").touch()
    assert "created" in make(fresh, "env", fake_python(fresh)).stdout
    assert not (fresh / ".venv" / "half-installed").exists()
    assert "created" not in make(fresh, "env", fake_python(fresh)).stdout


@pytest.mark.parametrize("name", ["requirements.txt", "pyproject.toml"])
def test_new_pins_make_a_new_environment(fresh, name):
    make(fresh, "env", fake_python(fresh))
    later = (fresh / ".venv/.done").stat().st_mtime + 10
    os.utime(fresh / name, (later, later))
    assert "created" in make(fresh, "env", fake_python(fresh)).stdout


def test_one_range_of_pythons_everywhere():
    least, most = 11, 14
    asked = tomllib.loads(read("pyproject.toml"))["project"]["requires-python"]
    assert asked == f">=3.{least},<3.{most + 1}"
    for name in ("Makefile", "workshop/check.py"):
        assert f"(3, {least}) <= sys.version_info[:2] <= (3, {most})" in read(name)
    for name in ("README.md", "workshop/INSTRUCTOR.md", "workshop/check.py"):
        assert f"Python 3.{least} to 3.{most}" in read(name)


def test_make_takes_the_first_python_that_fits(fresh):
    other, right = fresh / "python3.11", fresh / "python3.13"
    other.write_text("#!/bin/sh\nexit 1\n")
    right.write_text("#!/bin/sh\n")
    for path in (other, right):
        path.chmod(0o755)
    command = [shutil.which("make"), "help"]
    env = {"PATH": f"{fresh}:{os.environ['PATH']}"}
    found = subprocess.run(command, cwd=fresh, env=env, capture_output=True, text=True)
    assert "PYTHON=" in found.stdout and "PYTHON=python3.11]" not in found.stdout


def test_a_wheelhouse_is_for_a_named_platform_and_needs_no_index(fresh):
    python = fake_python(fresh)
    shown = make(fresh, "-n", "wheelhouse", python, "FOR=--platform win_amd64").stdout
    assert "pip download --only-binary=:all: --platform win_amd64 -d wheelhouse" in shown
    shown = make(fresh, "-n", "env", python, "WHEELS=a house").stdout
    assert "pip install --no-index --find-links 'a house' -r requirements.txt" in shown
