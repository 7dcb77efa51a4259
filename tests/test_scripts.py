"""Scripts: benchmarks run without weights, on random ones of a backbone's shape; the test fixtures are up to date."""

import ast
import filecmp
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import alttrain

SCRIPTS = Path(__file__).parents[1] / "scripts"
SMALL, FULL = Path(__file__).parent / "fixtures" / "tokenizers", SCRIPTS.parents[1] / "shared" / "tokenizers"
SHAPE = ("--shape", "smollm2_135m", "--rounds", "1")
TRAINING = ("bench_training.py", *SHAPE, "--examples", "2", "--batch", "2")
GENERATION = ("bench_generation.py", *SHAPE, "--prompts", "2", "--batch", "2", "--cap", "12")


def test_what_scripts_import_from_the_package_exists() -> None:
    imports = [
        (path.name, node.module, alias.name)
        for path in SCRIPTS.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("alttrain")
        for alias in node.names
    ]
    assert len(imports) > 40
    assert [one for one in imports if not _exists(*one[1:])] == []


def _exists(module: str, name: str) -> bool:
    """Whether a module has a name, or is a package with a module of that name."""
    return hasattr(importlib.import_module(module), name) or bool(importlib.util.find_spec(f"{module}.{name}"))


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize(
    ("command", "contestant"),
    [(TRAINING, "alttrain"), (TRAINING, "peft, tuned"), (GENERATION, "alttrain"), (GENERATION, "batch")],
)
def test_a_contestant_of_random_weights_prints_its_figures(
    tmp_path: Path, command: tuple[str, ...], contestant: str
) -> None:
    name, *options = command
    done = alttrain(["--only", contestant, *options], SCRIPTS / name, ALTTRAIN_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert len(figures["seconds"]) == 1
    assert figures["seconds"][0] > 0
    assert figures["peak"] > 0


@pytest.mark.skipif(not FULL.is_dir(), reason="the full tokenizers are not here")
def test_the_small_tokenizers_are_what_their_script_makes(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(SCRIPTS)!r}); import build_tokenizers as b; b.build(b.Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, stdout=subprocess.DEVNULL)
    names = [
        f"{family}/{name}" for family in os.listdir(tmp_path) for name in ("tokenizer.json", "tokenizer_config.json")
    ]
    assert len(names) >= 4
    assert filecmp.cmpfiles(SMALL, tmp_path, names, shallow=False) == (names, [], [])
