"""Import direction, what must stay light, and what the wheel must carry."""

import ast
import glob
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "alttrain"
CONF = ROOT / "conf"

ORDER = (
    *("records", "config", "llm", "english", "dataset", "rewrite", "backbone", "tokenization"),
    *("training", "generation", "evaluation", "report", "run"),
)
ALLOWED: dict[str, set[str]] = {
    "records": set(),
    "llm": {"config", "records"},
    "config": set(),
    "english": set(),
    "dataset": {"records"},
    "rewrite": {"records", "llm", "english"},
    "backbone": {"records"},
    "tokenization": {"backbone", "english", "records", "rewrite"},
    "training": {"records", "tokenization", "backbone"},
    "generation": {"records", "llm", "tokenization", "backbone"},
    "evaluation": {"records", "llm", "english", "dataset", "rewrite", "generation"},
    "report": {"records", "config", "rewrite", "evaluation"},
    "run": set(ORDER),
    "__main__": {"run"},
    "__init__": {"report"},
}
LIGHT_ROOMS = ("records", "llm", "english", "config", "dataset", "rewrite", "evaluation", "report")
LIGHT_MODULES = (
    "alttrain.backbone",
    "alttrain.training",
    "alttrain.generation",
    "alttrain.run.app",
    "alttrain.run.assembly",
)
HEAVY = ("torch", "transformers", "peft", "pytorch_lightning")
MODULES = sorted(PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    """The name a module's file is imported by."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room(path: Path) -> str:
    """The room a module's file stands in."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: Path) -> Iterator[str]:
    """Full names of what a module imports anywhere in it; a relative import comes as "." and its level."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def test_the_table_covers_every_room() -> None:
    assert len(MODULES) > 40
    assert {room(path) for path in MODULES} == set(ALLOWED)
    for name in ORDER[:-1]:
        assert all(ORDER.index(other) < ORDER.index(name) for other in ALLOWED[name]), name


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_imports_go_one_way(path: Path) -> None:
    names = list(imported(path))
    assert not [name for name in names if name.startswith(".")], "imports are absolute"
    ours = {name.split(".")[1] for name in names if name.startswith("alttrain.")}
    rooms = {name for name in ours if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()}
    assert ours - rooms <= {"__version__"}
    assert rooms - {room(path)} <= ALLOWED[room(path)]


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_only_config_and_run_see_hydra(path: Path) -> None:
    if room(path) not in ("config", "run"):
        assert not [name for name in imported(path) if name.split(".")[0] in ("hydra", "omegaconf")]


def test_light_modules_import_nothing_heavy() -> None:
    modules = [dotted(path) for path in MODULES if room(path) in LIGHT_ROOMS] + list(LIGHT_MODULES)
    code = (
        "import importlib, json, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        f"    heavy = [h for h in {HEAVY!r} if h in sys.modules]\n"
        "    assert not heavy, f'{name} imports {heavy}'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def setuptools_table() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    return table


def test_every_package_is_listed(setuptools_table: dict[str, Any]) -> None:
    folders = {path.parent for path in MODULES}
    assert all((folder / "__init__.py").is_file() for folder in folders)
    assert setuptools_table["package-dir"] == {"alttrain": "alttrain", "alttrain.conf": "conf"}
    assert set(setuptools_table["packages"]) == {dotted(folder / "__init__.py") for folder in folders} | {
        "alttrain.conf",
        "hydra_plugins.alttrain_ray",
    }


@pytest.mark.parametrize(
    ("package", "folder"),
    [
        ("alttrain.conf", CONF),
        ("alttrain.dataset", PACKAGE / "dataset"),
        ("alttrain.english", PACKAGE / "english"),
        ("alttrain", PACKAGE),
    ],
)
def test_every_data_file_is_carried(setuptools_table: dict[str, Any], package: str, folder: Path) -> None:
    patterns = setuptools_table["package-data"][package]
    carried = {name for pattern in patterns for name in glob.glob(pattern, root_dir=folder, recursive=True)}
    apart = [PACKAGE / "dataset", PACKAGE / "english"] if package == "alttrain" else []
    present = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and not any(path.is_relative_to(a) for a in apart)
    }
    assert present
    assert present <= carried


def test_conf_is_an_empty_package() -> None:
    assert [path.relative_to(CONF).as_posix() for path in CONF.rglob("*.py")] == ["__init__.py"]
    assert (CONF / "__init__.py").read_bytes() == b""
