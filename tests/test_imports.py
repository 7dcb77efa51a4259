"""Import direction, what must stay light, and what the wheel must carry."""

import ast
import glob
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "alttrain"
CONF = ROOT / "conf"

PICTURE = ROOT / "docs" / "architecture.md"
SEE_HYDRA = ("config", "run")
IMPORT_TORCH = ("backbone", "tokenization", "training", "generation", "run")
"""Rooms in which a module may import torch; all other rooms are light."""
LIGHT_MODULES = (
    "alttrain.backbone",
    "alttrain.training",
    "alttrain.generation",
    "alttrain.run.app",
    "alttrain.run.assembly",
    "alttrain.run.sweep",
)
HEAVY = ("torch", "transformers", "peft", "pytorch_lightning")
MODULES = sorted(PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    """The name a module's file is imported by."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room(path: Path) -> str:
    """The room a module's file is in."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


ROOMS = {room(path) for path in MODULES} - {"__init__", "__main__"}


def imported(path: Path) -> Iterator[str]:
    """Full names of what a module imports anywhere in it; a relative import comes as "." and its level."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def uses() -> dict[str, set[str]]:
    """Each room, and the other rooms that its modules import."""
    found: dict[str, set[str]] = {name: set() for name in ROOMS}
    for path in MODULES:
        if room(path) in ROOMS:
            found[room(path)] |= {name.split(".")[1] for name in imported(path) if name.startswith("alttrain.")}
    return {name: others & ROOMS - {name} for name, others in found.items()}


def pictured() -> dict[str, set[str]]:
    """The arrows of the picture in docs/architecture.md."""
    arrows = re.findall(r"^ +(\w+) --> ([\w &]+)$", PICTURE.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: {*others.split(" & ")} for name, others in arrows}


def test_the_picture_shows_every_import_between_rooms_and_no_other() -> None:
    found = {name: others for name, others in uses().items() if others}
    arrows = [f"    {name} --> {' & '.join(sorted(others))}" for name, others in sorted(found.items())]
    assert pictured() == found, "docs/architecture.md should show these arrows:\n" + "\n".join(arrows)


def test_every_room_is_described() -> None:
    described = re.findall(r"^\| `(\w+)` \|", PICTURE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(described) == sorted(ROOMS)


def test_imports_go_one_way_and_are_absolute() -> None:
    TopologicalSorter(uses()).prepare()  # raises CycleError with the rooms of a circle
    assert len(MODULES) > 40
    faults = []
    for path in MODULES:
        known = ROOMS | {"__version__"} if path.stem != "__main__" else {"config", "run"}
        for name in imported(path):
            if name.startswith(".") or (name.startswith("alttrain.") and name.split(".")[1] not in known):
                faults.append(f"{dotted(path)} imports {name}")
    assert not faults, "\n".join(faults)


def test_only_config_and_run_see_hydra() -> None:
    faults = [
        f"{dotted(path)} imports {name}"
        for path in MODULES
        for name in imported(path)
        if room(path) not in SEE_HYDRA and name.split(".")[0] in ("hydra", "omegaconf")
    ]
    assert not faults, "\n".join(faults)


def test_light_modules_import_nothing_heavy() -> None:
    modules = [dotted(path) for path in MODULES if room(path) in ROOMS - {*IMPORT_TORCH}] + list(LIGHT_MODULES)
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
        "hydra_plugins.alttrain_jobs",
    }


def test_every_data_file_is_carried(setuptools_table: dict[str, Any]) -> None:
    """Each file that is not Python matches a pattern of the innermost package that has patterns."""
    folders = {"alttrain.conf": CONF}
    folders |= {name: ROOT / name.replace(".", "/") for name in setuptools_table["package-data"] if name not in folders}
    left = {path for top in (CONF, PACKAGE) for path in top.rglob("*") if path.suffix not in (".py", ".pyc", "")}
    assert len(left) > 250
    for package, folder in folders.items():
        for pattern in setuptools_table["package-data"][package]:
            left -= {folder / name for name in glob.glob(pattern, root_dir=folder, recursive=True)}
    assert not left, "\n".join(map(str, sorted(left)))


def test_conf_is_an_empty_package() -> None:
    assert [path.relative_to(CONF).as_posix() for path in CONF.rglob("*.py")] == ["__init__.py"]
    assert (CONF / "__init__.py").read_bytes() == b""
