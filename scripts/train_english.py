"""Train the linear models of alttrain/english, and measure them.

    python scripts/train_english.py            # write the weights
    python scripts/train_english.py --measure  # print the figures of docs/judges.md that the present weights give

The refusal judge is trained on the rows of tests/responses.jsonl whose split is "train", and on XSTest's labelled
completions (CC BY 4.0) if they are in ../shared/data/xstest_completions; the shipped weights are trained on both.
The same data give the same bytes.
"""

import argparse
import csv
import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression

from alttrain.english import LinearModel, refusal
from alttrain.english.refusal import assess_refusal

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "conf" / "judge" / "refusal.yaml"
RESPONSES = ROOT / "tests" / "responses.jsonl"
XSTEST = ROOT.parent / "shared" / "data" / "xstest_completions"
MODELS = ("gpt4", "llama2orig")
CLASSES = {"1_full_compliance": "answered", "2_full_refusal": "refused", "3_partial_refusal": "partial"}
FOREIGN = ("spanish", "german", "french", "chinese", "other_language")
"""Kinds of response that the judge leaves undecided: it reads English."""

KEPT = 12_000
"""Features that are kept: those that weigh most in a first fit."""
INVERSE_PENALTY = 10.0
FOLDS = 5


@dataclass(frozen=True)
class Response:
    """A response with its label, and where it comes from."""

    prompt: str
    response: str
    label: str
    kind: str
    source: str


def responses(split: str) -> list[Response]:
    """The labelled English responses of one split."""
    rows = map(json.loads, RESPONSES.read_text(encoding="utf-8").splitlines())
    return [
        Response(row["prompt"], row["response"], row["label"], row["kind"], row["source"])
        for row in rows
        if row["split"] == split and row["kind"] not in FOREIGN
    ]


def xstest(model: str, folder: Path = XSTEST) -> list[Response]:
    """A model's completions of XSTest with the labels of two people; none if the files are absent."""
    path = folder / f"xstest_v2_completions_{model}.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Response(row["prompt"], row["completion"], CLASSES[row["final_label"]], f"xstest_{model}", "xstest")
            for row in csv.DictReader(file)
        ]


# --- fitting ---


def fit_linear(features: Sequence[dict[str, float]], labels: dict[str, np.ndarray], folds: np.ndarray) -> LinearModel:
    """A sigmoid for each label, calibrated on the scores of models that had not seen the row (Platt scaling)."""
    table = DictVectorizer()
    matrix = table.fit_transform(features)
    matrix.sort_indices()
    scores = {label: np.zeros(len(features)) for label in labels}
    for fold in range(FOLDS):
        seen, unseen = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        columns, fitted = _fit(matrix[seen], {label: truth[seen] for label, truth in labels.items()})
        for label, model in fitted.items():
            scores[label][unseen] = model.decision_function(matrix[unseen][:, columns])
    columns, fitted = _fit(matrix, labels)
    weights, intercepts = [], []
    for label, model in fitted.items():
        platt = LogisticRegression(C=1e6).fit(scores[label][:, None], labels[label])
        slope = platt.coef_[0, 0]
        weights.append(slope * model.coef_[0])
        intercepts.append(round(float(slope * model.intercept_[0] + platt.intercept_[0]), 4))
    names = table.get_feature_names_out()[columns]
    return LinearModel(tuple(labels), tuple(intercepts), dict(zip(names, zip(*weights, strict=True), strict=True)))


def _fit(matrix: csr_matrix, labels: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, LogisticRegression]]:
    """The columns with the largest weights, and a logistic regression on them for each label."""
    columns = np.flatnonzero(matrix.getnnz(axis=0) > 1)
    found = [_regression().fit(matrix[:, columns], truth) for truth in labels.values()]
    often = np.sqrt(matrix.getnnz(axis=0)[columns])
    weighs = np.max([np.abs(model.coef_[0]) for model in found], axis=0) * often
    columns = np.sort(columns[np.argsort(-weighs, kind="stable")[:KEPT]])
    return columns, {label: _regression().fit(matrix[:, columns], truth) for label, truth in labels.items()}


def _regression() -> LogisticRegression:
    return LogisticRegression(
        C=INVERSE_PENALTY,
        solver="liblinear",
        dual=True,
        class_weight="balanced",
        random_state=0,
        max_iter=5000,
        tol=1e-3,
    )


def fold_of(text: str) -> int:
    """The fold of a text, by its hash."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) % FOLDS


# --- the refusal judge ---


def fit_refusal(rows: Sequence[Response]) -> LinearModel:
    """The refusal judge's model, trained on the rows that contain words."""
    rows = [row for row in rows if not refusal.no_answer(row.response, row.prompt)]
    labels = np.array([row.label for row in rows])
    return fit_linear(
        [refusal.features(row.response, row.prompt) for row in rows],
        {"gives": np.isin(labels, ("answered", "partial")), "declines": np.isin(labels, ("refused", "partial"))},
        np.array([fold_of(row.response) for row in rows]),
    )


def train_refusal(folder: Path = XSTEST) -> LinearModel:
    """The shipped model, if XSTest's completions are in the folder."""
    return fit_refusal([*responses("train"), *(row for model in MODELS for row in xstest(model, folder))])


# --- measuring ---


Verdicts = Counter[tuple[str, str]]
"""How often a label and an outcome came together; the outcome of an undecided answer is "undecided"."""


def verdicts(model: LinearModel, rows: Sequence[Response]) -> Verdicts:
    """The confusion matrix of labels and outcomes."""
    names = {True: "refused", False: "answered"}
    found = Verdicts()
    for row in rows:
        told = assess_refusal(row.response, row.prompt, model)
        partial = told.verdict is None and told.evidence.startswith("partial")
        found[row.label, "partial" if partial else names.get(told.verdict, "undecided")] += 1
    return found


def precision_and_recall(found: Verdicts) -> tuple[float, float]:
    """Precision and recall of "refused", without rows labelled partial; an undecided refusal counts as missed."""
    right = found["refused", "refused"]
    called = right + found["answered", "refused"] + found["no_answer", "refused"]
    return right / called, right / sum(count for (label, _), count in found.items() if label == "refused")


def calibration(model: LinearModel, rows: Sequence[Response]) -> tuple[float, float]:
    """(Brier score of the probability of a refusal, expected calibration error in ten bins)."""
    told = [(assess_refusal(row.response, row.prompt, model).probability, row.label == "refused") for row in rows]
    said = np.array([(probability, truth) for probability, truth in told if probability is not None], float)
    bins = np.minimum((said[:, 0] * 10).astype(int), 9)
    gaps = [abs(np.sum(said[bins == at, 0] - said[bins == at, 1])) for at in range(10)]
    return float(np.mean((said[:, 0] - said[:, 1]) ** 2)), float(np.sum(gaps) / len(said))


def measure_refusal(folder: Path = XSTEST) -> None:
    """Print the tables of docs/judges.md."""
    model, held = LinearModel.read(refusal.WEIGHTS), responses("held")
    _print("held", model, held)
    for source in sorted({row.source for row in held}):
        _print(f"held, {source}", model, [row for row in held if row.source == source])
    for kind in sorted({(row.label, row.kind) for row in held}):
        found = verdicts(model, [row for row in held if (row.label, row.kind) == kind])
        print(*kind, {outcome: count for (_, outcome), count in found.most_common()})
    for unseen in MODELS:
        others = [row for other in MODELS if other != unseen for row in xstest(other, folder)]
        if rows := xstest(unseen, folder):
            _print(f"XSTest, {unseen}, trained without it", fit_refusal([*responses("train"), *others]), rows)
    if rows := [row for unseen in MODELS for row in xstest(unseen, folder)]:
        _print("XSTest, trained without it", fit_refusal(responses("train")), rows)


def _print(name: str, model: LinearModel, rows: Sequence[Response]) -> None:
    found = verdicts(model, rows)
    brier, error = calibration(model, rows)
    print(f"{name}: n {len(rows)}, Brier {brier:.3f}, ECE {error:.3f},", end=" ")
    print("precision {:.3f}, recall {:.3f}".format(*precision_and_recall(found)))
    for label in ("refused", "partial", "answered", "no_answer"):
        print("  ", label, {name: found[label, name] for name in ("refused", "partial", "answered", "undecided")})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--xstest", type=Path, default=XSTEST, help="the folder of XSTest's completions")
    parser.add_argument("--measure", action="store_true", help="print the accuracy of the refusal judge")
    given = parser.parse_args()
    if given.measure:
        measure_refusal(given.xstest)
        return
    train_refusal(given.xstest).write(refusal.WEIGHTS)
    told = CONFIG.read_text(encoding="utf-8")
    CONFIG.write_text(re.sub(r'weights: "\w+"', f'weights: "{refusal.weights_hash()}"', told), encoding="utf-8")
    print("refusal.tsv: trained", "with" if xstest(MODELS[0], given.xstest) else "without", "XSTest's completions")


if __name__ == "__main__":
    main()
