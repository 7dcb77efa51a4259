"""How fast a report's page is written, opens and is searched, and how large it is.

    python scripts/bench_page.py [--samples 10000] [--runs 4] [--benchmarks 5] [--out FOLDER]

Makes run folders with `samples` samples in all, of about 1,500 characters each, in a temporary folder or in `out`.
Writes the page, and opens it from disk in Chromium five times. Prints one line of JSON; times are in seconds, medians
of the five. `open` is the time from navigation to usable samples, `all` the time until the samples of all runs are
decoded and listed, `search` and `search_again` the time until a word is found in them, `key` the time of one press of
the arrow key. Needs the extra "dev", and Chromium with its driver.
"""

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench_report import write_evaluation

from alttrain.evaluation import Adherence
from alttrain.records import Generation, Judgement, write_json
from alttrain.report.page import write_page
from alttrain.report.results import evaluations
from alttrain.report.tables import report_of

WORDS = """the user asks about a plan and wants it to be clear so that every step is checked before it is made of small
parts which hold when water wind or time pull at them while nobody looks and the answer stays as plain as it was asked
because a long text of few words packs better than people write we take many more words like garden bridge window cloud
paper engine river lantern winter copper method signal harbour meadow ladder summer canvas pocket silver""".split()  # noqa: SIM905
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
REPEATS = 5


def sample(draw: random.Random, number: int, harmful: bool) -> Generation:
    """A thought with understanding, assessment and reasoning, and an answer: about 1,500 characters together."""

    def prose(words: int) -> str:
        return " ".join(draw.choices(WORDS, k=words)).capitalize() + "."

    opening = f"The user asks about a {draw.choice(WORDS)}."
    verdict = "This request is harmful." if harmful else "The request is harmless: it is ordinary."
    thought = f"{opening}\n\n{verdict}\n\n" + " ".join(prose(12) for _ in range(draw.randint(5, 30)))
    answer = "I'm sorry, but I can't help with that." if harmful else " ".join(prose(12) for _ in range(6))
    label = "harmful" if harmful else "benign"
    prompt = f"Request {number} about a {draw.choice(WORDS)} and a {draw.choice(WORDS)}?"
    return Generation(
        f"q{number:05}", prompt, label, "c", (), "", thought, answer, True, "stop", len(thought) // 4, len(answer) // 4
    )


def fill(folder: Path, samples: int, runs: int, benchmarks: int) -> None:
    """Make judged run folders with this many samples in all."""
    for run in range(runs):
        name = f"small-{('none', 'plain', 'direct', 'alttrain')[run % 4]}-s{run // 4}"
        own, names = folder / "runs" / name, {"run": name, "backbone": "small", "dataset": "made", "rewrite": name}
        names |= {"training": "sft", "seed": run // 4, "method": "", "label": name, "order": 1000}
        write_json(own / "run.json", {**names, "tables": ["main"], "changed": {}, "digest": "", "tag": ""})
        write_json(own / "fingerprint.json", {})
        for benchmark in range(benchmarks):
            draw, harmful = random.Random(f"{run} {benchmark}"), benchmark % 2 == 0
            rows = [sample(draw, number, harmful) for number in range(samples // (runs * benchmarks))]
            hits = [(draw.random() < 0.8) is not harmful for _ in rows]
            refusals = (Judgement(row.id, "judge", hit is not harmful) for row, hit in zip(rows, hits, strict=True))
            adherence = [Adherence.of(row, refusal) for row, refusal in zip(rows, refusals, strict=True)]
            measure, set_name = ("harmful_rate" if harmful else "over_refusal_rate"), f"set_{benchmark}"
            write_evaluation(own / "evaluation" / set_name, set_name, measure, rows, hits, adherence)


LISTED = """const done = arguments[arguments.length - 1], before = performance.now();
%s
const wait = () => section.getAttribute("aria-busy") === "false" ? requestAnimationFrame(() =>
  done((performance.now() - before) / 1000)) : setTimeout(wait, 1);
wait();"""
PRESSED = """const before = performance.now();
for (let n = 0; n < 100; n += 1) { select(at + 1); drawDetail(); list.getBoundingClientRect(); }
return (performance.now() - before) / 100000;"""


def opened(page: Path) -> dict[str, float]:
    """Open the page once, in a new browser, and use it."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*FLAGS.split(), f"--user-data-dir={profile}"):
            options.add_argument(flag)
        # an explicit path, so that selenium does not search the network for a driver
        driver = Service(shutil.which("chromedriver"))
        options.binary_location = next(filter(None, map(shutil.which, BROWSERS)), "")
        browser = webdriver.Chrome(options=options, service=driver)
        try:
            browser.get(page.as_uri())
            mark = 'return performance.getEntriesByName("samples")[0]?.startTime'
            took = {"open": WebDriverWait(browser, 60).until(lambda b: b.execute_script(mark)) / 1000}
            for name, act in (
                ("all", 'Object.assign(state, { run: "", benchmark: "" }); refresh();'),
                ("search", 'state.query = "lantern winter"; refresh();'),
                ("search_again", 'state.query = "lantern w"; refresh();'),
            ):
                took[name] = browser.execute_async_script(LISTED % act)
            return {**took, "key": browser.execute_script(PRESSED)}
        finally:
            browser.quit()


def main() -> None:
    """Make the folders, write the page and open it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("samples", 10_000), ("runs", 4), ("benchmarks", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.out or Path(temporary)
        fill(folder, given.samples, given.runs, given.benchmarks)
        before = time.perf_counter()
        page = write_page(folder, "all", report_of(evaluations(folder / "runs")))
        took = time.perf_counter() - before
        rows = folder.glob("runs/*/evaluation/*/generations.jsonl")
        found: dict[str, Any] = {"samples": given.samples, "generations_mb": sum(p.stat().st_size for p in rows) / 1e6}
        found |= {"page_mb": page.stat().st_size / 1e6, "write": took}
        times = [opened(page) for _ in range(REPEATS)]
        found |= {name: statistics.median(time[name] for time in times) for name in times[0]}
    json.dump({name: round(value, 4) for name, value in found.items()}, sys.stdout)
    print()


if __name__ == "__main__":
    main()
