"""What alttrain does on this GPU: the tests marked cuda, then training and generation beside their peers, in one JSON.

    make test-cuda
    python scripts/gpu_lane.py --json outputs/cuda.json [--shape r1_llama_8b] [--minutes 8]

Needs no network. A part that has no time left is named in the JSON as not run. Exits with 1 if a test or a part fails
or has no time.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PARTS = {
    "training": ["bench_training.py", "--examples=160", "--contestants=TRL, defaults;alttrain;alttrain, compiled"],
    "generation": ["bench_generation.py", "--prompts=256", "--batch=256", "--mix=even", "--contestants=batch;alttrain"],
}


def main() -> None:
    """Run all parts within the time, and write one JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path("outputs/cuda.json"), help="where to write the figures")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--shape", default="r1_llama_8b", help="an option of conf/backbone")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which no part begins, and the last one ends")
    asked = parser.parse_args()
    ends = time.monotonic() + 60 * asked.minutes
    results: dict[str, Any] = {"tests": tested(asked.device, ends)}
    for name, (script, *options) in PARTS.items():
        command = [script, f"--device={asked.device}", f"--shape={asked.shape}", "--rounds=1", *options]
        results[name] = measured(command, ends)
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(json.dumps(results, indent=2) + "\n")
    print(f"written to {asked.json}")
    bad = results["tests"].get("failed") or any("reason" in results[name] for name in results)
    sys.exit(1 if bad else 0)


def tested(device: str, ends: float) -> dict[str, Any]:
    """The outcome and the seconds of each test marked cuda."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "junit.xml"
        command = [sys.executable, "-m", "pytest", "-m", "cuda", "tests/test_cuda.py", f"--junitxml={file}"]
        environment = {"ALTTRAIN_TEST_DEVICE": device}
        if reason := run([*command, "-p", "no:cacheprovider"], ends, environment, accepted=(0, 1)):
            return {"reason": reason}
        cases = list(ElementTree.parse(file).iter("testcase"))
    outcomes = {case.get("name", ""): next((child.tag for child in case), "passed") for case in cases}
    return {
        "passed": sum(outcome == "passed" for outcome in outcomes.values()),
        "failed": [name for name, outcome in outcomes.items() if outcome in ("failure", "error")],
        "skipped": [name for name, outcome in outcomes.items() if outcome == "skipped"],
        "seconds": {case.get("name"): float(case.get("time", 0)) for case in cases},
    }


def measured(command: list[str], ends: float) -> dict[str, Any]:
    """The JSON that a benchmark script writes, or the reason why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        script, *options = command
        reason = run([sys.executable, str(ROOT / "scripts" / script), *options, f"--json={file}"], ends)
        return {"reason": reason} if reason else json.loads(file.read_text())  # type: ignore[no-any-return]


def run(
    command: list[str], ends: float, environment: dict[str, str] | None = None, accepted: tuple[int, ...] = (0,)
) -> str:
    """Run a command in the repository. Returns why it gave nothing, or ""."""
    left = ends - time.monotonic()
    if left <= 0:
        return "not run: no time left"
    begun = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **(environment or {})}, start_new_session=True)
    try:
        code = begun.wait(left)
    except subprocess.TimeoutExpired:
        os.killpg(begun.pid, signal.SIGKILL)  # with the processes that it started
        begun.wait()
        return "stopped: no time left"
    return "" if code in accepted else f"exit code {code}"


if __name__ == "__main__":
    main()
