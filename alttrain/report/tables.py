"""The tables and their cells: a tidy frame for each table, with a row for each cell (tables/<table>.csv).

The rows of main and of the tables that vary one thing are the runs whose run.json names the table. Main also lists
methods that only another backbone or a source has, with their published figures. The benchmarks of main, general,
multi_turn and multilingual are those whose metrics.json names the table. A table without data is not made.
"""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any, NamedTuple

import pandas as pd

from alttrain.evaluation import protocol_hash
from alttrain.report import estimates, measures
from alttrain.report.contrasts import Contrast, Contrasts, base_of, comparisons, decision_places, interventions
from alttrain.report.estimates import Number, Numbers, numbers
from alttrain.report.evaluation import BenchmarkKey, Evaluation
from alttrain.report.measures import MEASURES, OVERVIEW, RATES, base_measure
from alttrain.report.probes import probes
from alttrain.report.processes import MANY, second_process
from alttrain.report.published import covers, label_and_order, matching_figure, published_figures
from alttrain.report.results import METRICS, NO_TRAIN, WEIGHTS, changes, option, read_texts, tidy
from alttrain.report.variants import (
    SEVERAL,
    Column,
    Variant,
    by_backbone,
    mean_columns,
    pool,
    protocols_of,
    rate_columns,
    variants,
)

Layout = tuple[str, list[Variant], list[Column]]  # a table's name, rows and columns
LEVEL = 0.05  # the level of the tests, adjusted over the report


TABLES = {
    "overview": "All runs",  # every variant: each benchmark's measure, adherence, tokens
    "main": "Backbones and methods",  # each backbone's methods: safety sets, their mean, over-refusal, reasoning
    "reasoning": "Reasoning",  # every variant that has them: each reasoning set
    # what varies one thing: harmful and reasoning means, over-refusal
    "ablation_structure": "The structure without each of its steps",
    "teacher_swap": "Assessments by another teacher",
    "data_size": "Amount of training data",
    "benign_amount": "Amount of harmless training data",
    # every variant that has them: short answers, knowledge and summaries; attacks; each language
    "general": "General ability",
    "multi_turn": "Multi-turn attacks",
    "multilingual": "Harmful requests by language",
    # every variant that has them: each judge's rate, its rate corrected by human labels, and agreements
    "judges": "Several judges, or people, on the same texts",
    "recognition": "Harm that untrained backbones recognise",  # what their thoughts hold of harmful requests
    # every variant: the assessment as a classifier, failures by cause; training, and tokens a query
    "adherence": "Adherence to the structure, and failures by what the assessment said",
    "efficiency": "What training and a query cost",
    "interventions": "What interventions change",  # every variant with and without each intervention
    "published": "Published figures, by source",  # all known ones, by source and method
}
"""Name -> title."""
VARIED = {
    "teacher_swap": ("rewrite.teacher.",),
    "ablation_structure": ("rewrite.",),
    "data_size": ("dataset.size", "dataset.name"),
    "benign_amount": ("dataset.amounts.", "dataset.size", "dataset.harmful_share", "dataset.name"),
}
"""Tables that vary one thing -> the config keys that they vary; the narrower before the wider."""
ROW, COLUMN = ["backbone", "method"], ["measure", "kind", "benchmark", "protocol_hash"]
"""The fields that identify a row and a column within one protocol."""
CELLS = [
    *("table", "protocol", *ROW, *COLUMN, "unit", *Number._fields),
    *("best", "difference", "p", "p_holm", "detectable", "published", "published_why", "source", "lacking"),
    *("evaluated", "called", "judge", "setting"),
]
"""The columns of a table's CSV.

`benchmark` and `protocol_hash` join several values with " + "; `kind` then says whether rates were averaged (mean) or
prompts pooled (pool). `n` counts the texts behind the number, over all seeds: without `undecided` ones, with
`truncated` ones. `difference` is from No-train; `p_holm` is adjusted over all contrasts of the report. `published_why`
is the reason why there is no published figure, `lacking` lists sets that a mean lacks, `evaluated` lists what the
evaluation changed in its protocol and benchmarks, `called` is the measure's name in tables, `judge` names the
judges that the column depends on, one for each set if they differ, and `setting` says in what the column differs from
others of its benchmark and protocol."""
DIGITS = 6  # of the hash of an intervention's settings
NAMED = 2  # maximum number of missing sets that a cell names


class Report(NamedTuple):
    """The judged benchmarks of a report, their variants, and all its numbers: what files, figures and page show.

    `evaluations` are without an intervention, `interventions` with one. `frames` are the CSV files by name,
    `tables` those over seeds.
    """

    evaluations: Sequence[Evaluation]
    interventions: Sequence[Evaluation]
    variants: Sequence[Variant]
    frames: Mapping[str, pd.DataFrame]
    tables: Mapping[str, pd.DataFrame]


def report_of(judged: Sequence[Evaluation]) -> Report:
    """The report over these benchmarks."""
    plain = [evaluation for evaluation in judged if not evaluation.intervention]
    intervened = [evaluation for evaluation in judged if evaluation.intervention]
    read_texts(judged)
    plain_variants = variants(plain)
    layouts = [layout for name, own in protocols_of(plain_variants).items() for layout in _layouts(own, name)]

    def differences() -> tuple[pd.DataFrame, list[tuple[int, Column, Contrast]]]:
        frame, contrasts = comparisons(plain_variants)
        return frame, [(plain_variants.index(variant), column, test) for (variant, column), test in contrasts.items()]

    jobs: dict[str, Callable[[], Any]] = {"comparisons": differences, "metrics": lambda: tidy(plain)[METRICS]}
    jobs |= {"structure": lambda: estimates.structure(plain), "thoughts": lambda: estimates.thoughts(judged)}
    jobs |= {"categories": lambda: estimates.by_category(plain_variants)}
    with second_process([*jobs.values()], len(plain) >= MANY) as results_of:
        known = numbers(plain_variants, (column for *_, columns in layouts for column in columns))
        frames = dict(zip(jobs, results_of(), strict=True))
    frames["comparisons"], indexed = frames["comparisons"]
    contrasts = {(plain_variants[index], column): contrast for index, column, contrast in indexed}
    all_variants, over_seeds = variants(judged), tables(layouts, known, contrasts, _changed_ways(plain_variants))
    intervention_rows, effects = interventions(all_variants)
    if effects:
        over_seeds["interventions"] = _intervention_table(effects)
    frames |= {"interventions": intervention_rows, "decided": decision_places(all_variants)}
    frames |= {"probes": probes(plain_variants), "tokens": estimates.token_use(plain)}
    frames |= {"structure_agreement": estimates.structure_agreement(judged)}
    return Report(plain, intervened, plain_variants, frames, over_seeds)


def methods(main: Sequence[Variant], protocol: str) -> list[Variant]:
    """Each backbone's methods, and without runs those that only another backbone or a source of this protocol has."""
    rows = []
    unchanged = {v.known_as: v for v in reversed(main) if not (v.changed or v.tag)}
    for backbone, with_runs in by_backbone(main):
        present = {variant.known_as for variant in with_runs if not variant.changed}
        lacking = [
            replace(variant, backbone=backbone, folders={}, evaluations={}, all_evaluations={})
            for name, variant in unchanged.items()
            if name not in present
        ]
        in_sources = [
            f for f in published_figures() if (f.table, f.protocol, f.backbone) == ("main", protocol, backbone)
        ]
        for method in dict.fromkeys(figure.method for figure in in_sources if figure.known):
            if method not in present | unchanged.keys():
                lacking.append(
                    Variant(backbone, "", "", "", method, "", "", *label_and_order(method), (), {}, {}, {}, {})
                )
        rows += sorted([*with_runs, *lacking], key=lambda variant: (variant.known_as != NO_TRAIN, variant.order))
    return rows


def belongs(variant: Variant, table: str) -> bool:
    """Whether a table lists a variant: run.json names the table, and any changes are to keys that the table varies."""
    if not variant.changed or table not in variant.tables:
        return table in variant.tables
    fitting = (name for name, varies in VARIED.items() if all(key.startswith(varies) for key in variant.changed))
    narrowest = next(fitting, "")
    return table == narrowest if narrowest in variant.tables else table not in VARIED


def rows_of_table(variants: Sequence[Variant], table: str) -> list[Variant]:
    """The rows of a table that varies one thing, No-train first, for backbones with several rows."""
    rows = []
    for _, group in by_backbone(variants):
        trained = [variant for variant in group if belongs(variant, table) and not variant.untrained]
        if len(trained) > 1:
            no_train = [variant for variant in group if variant.untrained and not variant.changed][:1]
            rows += [variant for variant in group if variant in no_train or variant in trained]
    return rows


def tables(
    layouts: Sequence[Layout], known: Numbers, contrasts: Contrasts, changed: Set[BenchmarkKey]
) -> dict[str, pd.DataFrame]:
    """Every table that has data, by name, as frames of `finish_table`."""
    cells: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    for name, rows, columns in layouts:
        for key in itertools.product(rows, columns):
            cells[name].append(_cell(*key, known.get(key), contrasts.get(key)) | _published_figure(*key, changed))
    frames = {name: finish_table(name, table_cells) for name, table_cells in cells.items() if table_cells}
    frames = {name: frame for name, frame in frames.items() if (frame.known | (frame.undecided > 0)).any()}
    return frames | {"published": figures()}


def _layouts(variants: list[Variant], protocol: str) -> list[Layout]:
    """The layout of each table, of one protocol. `variants` are those that it judged."""
    rates, pooled = rate_columns(variants, protocol), pool(variants, protocol)
    judges = {column.sets[0]: column.judges for column in rates if column.judges}

    def with_judges(column: Column) -> Column:
        names = [name for key in column.sets for name in judges.get(key, ())]
        names = [f"{name}{SEVERAL}" if f"{name}{SEVERAL}" in names else name for name in names]
        return replace(column, judges=tuple(names) if measures.by_judge(column.measure) else ())

    def having(columns: Sequence[Column]) -> list[Variant]:
        return [variant for variant in variants if any(column.sets[0] in variant.evaluations for column in columns)]

    means = {name: with_judges(column) for name, column in mean_columns(variants, protocol).items()}
    pooling = [Column(name, protocol, pooled, "pool") for name in (*measures.ASSESSING, *measures.TOKENS)]
    pools = {column.measure: with_judges(column) for column in pooling}
    training = [Column(name, protocol, (), "training") for name in measures.TRAINING]
    main_rates = {name: [c for c in rates if c.measure == name and "main" in c.tables] for name in RATES}
    summary = []  # each measure's mean, or also each of its sets if no row has all of them
    for measure in RATES:
        mean = means.get(measure)
        complete = mean and any(set(mean.sets) <= variant.evaluations.keys() for variant in variants)
        summary += [*([] if complete else main_rates[measure]), *([mean] if mean else [])]
    recognising = [column for column in rates if column.measure in measures.RECOGNISING]
    by_set = {name: [c for c in rates if name in c.tables] for name in ("general", "multi_turn", "multilingual")}
    by_set["reasoning"] = main_rates["accuracy"] if "accuracy" in means else []
    comparing = [c for c in rates if c.measure == "kappa" or measures.corrected(c.measure)]
    compared = {column.sets[0][:2] for column in comparing}  # the sets with several judges, or with human labels
    of_judges = [c for c in rates if c.sets[0][:2] in compared and c.measure not in ("score", *measures.RECOGNISING)]
    main = methods([variant for variant in variants if belongs(variant, "main")], protocol)
    return [
        ("overview", variants, [*(c for c in rates if c not in recognising), *(pools[name] for name in OVERVIEW)]),
        ("judges", [v for v in variants if any(v.has(column) for column in comparing)], of_judges),
        ("main", main, list(dict.fromkeys([*main_rates["harmful_rate"], *summary]))),
        *((name, having(columns), columns) for name, columns in by_set.items()),
        *((name, rows_of_table(variants, name), summary) for name in VARIED),
        ("recognition", [variant for variant in variants if variant.untrained], recognising),
        ("adherence", variants, [pools[name] for name in measures.ASSESSING]),
        ("efficiency", variants, [*training, *(pools[name] for name in measures.TOKENS)]),
    ]


def _intervention_table(effects: Mapping[tuple[Variant, BenchmarkKey], Contrast]) -> pd.DataFrame:
    """The table of interventions: a row for each variant without any and with each, a column for each benchmark.

    If an intervention has several settings in a report, a row names them by the beginning of their hash.
    """
    evaluations = {(variant, key): next(iter(variant.evaluations[key].values())) for variant, key in effects}
    digests = {key: protocol_hash(e.intervention["settings"])[:DIGITS] for key, e in evaluations.items()}
    settings = {(evaluation.intervention["name"], digests[key]) for key, evaluation in evaluations.items()}
    several = Counter(name for name, _ in settings)
    rows = defaultdict[tuple[Variant, str], dict[Column, Column]](dict)  # the column, and that whose number it shows
    for (variant, key), evaluation in evaluations.items():
        base_key, measure, name = base_of(evaluation), evaluation.measure, evaluation.intervention["name"]
        name += f" {digests[variant, key]}" if several[name] > 1 else ""
        judges = tuple(filter(None, [evaluation.judge]))
        column = Column(measure, base_key[0], (base_key,), called=evaluation.label_of(measure), judges=judges)
        rows[variant, "no intervention"].setdefault(column, column)
        if column in rows[variant, name]:
            name += f" {key[2][:DIGITS]}"  # with other texts of the run that it reads
        rows[variant, name][column] = replace(column, sets=(key,))
    shown_columns = (shown for columns in rows.values() for shown in columns.values())
    known, cells = numbers(dict.fromkeys(variant for variant, _ in rows), shown_columns), []
    for (variant, name), columns in rows.items():
        row = replace(variant, name=f"{variant.name}, {name}")
        for column, shown in columns.items():
            (way,), (base_key,) = shown.sets, column.sets
            # a number that is also over seeds without a base, or which another judge decides, was not tested
            both = {*variant.evaluations.get(way, ())}.intersection(variant.evaluations.get(base_key, ()))
            contrast = effects.get((variant, way)) if variant.all_evaluations[way].keys() <= both else None
            cells.append(_cell(row, column, known.get((variant, shown)), contrast))
    return finish_table("interventions", cells, best=False)


def _cell(row: Variant, column: Column, number: Number | None, contrast: Contrast | None) -> dict[str, Any]:
    lacking = [key[1] for key in column.sets if row.evaluations and key not in row.all_evaluations]
    names = {"backbone": row.backbone, "method": row.name, "evaluated": changes(_evaluation_changes(row, column))}
    names |= {"lacking": " + ".join(lacking)} if column.kind == "mean" else {}
    return {**names, **_column_fields(column), **(number or Number())._asdict(), **(contrast or Contrast())._asdict()}


def _evaluation_changes(row: Variant, column: Column) -> dict[str, Any]:
    """What the evaluation changed in its protocol and benchmarks."""
    evaluations = (evaluation for key in column.sets for evaluation in row.all_evaluations.get(key, {}).values())
    return {key: values for evaluation in evaluations for key, values in evaluation.provenance["changed"].items()}


def _changed_ways(variants: Sequence[Variant]) -> set[BenchmarkKey]:
    """The ways in which no evaluation was made as its protocol says, whatever weights it loaded."""
    every = [e for variant in variants for seeds in variant.all_evaluations.values() for e in seeds.values()]
    return {e.key for e in every} - {e.key for e in every if not e.provenance["changed"].keys() - {WEIGHTS}}


def _published_figure(row: Variant, column: Column, changed_ways: Set[BenchmarkKey]) -> dict[str, Any]:
    """The published figure beside a cell, or the reason why there is none.

    Of sets on which the row was not evaluated, what counts is how the column's other rows were.
    """
    elsewhere = changed_ways & {*column.sets} - row.all_evaluations.keys()
    changed = bool(_evaluation_changes(row, column) or row.changed or elsewhere)
    figure, why = matching_figure(row.backbone, row.method, changed, column)
    return {"published": figure.value, "source": figure.source} if figure else {"published_why": why}


def _column_fields(column: Column) -> dict[str, str]:
    measure = MEASURES[base_measure(column.measure)]
    names = {name: getattr(column, name) for name in ("protocol", *COLUMN, "setting")}
    judges = column.judges if len({*column.judges}) > 1 else column.judges[:1]
    return {**names, "unit": measure.unit, "called": column.called or measure.label, "judge": " + ".join(judges)}


def figures() -> pd.DataFrame:
    """The known published figures as a separate table, one part per source; never next to our numbers."""
    known, cells = pd.DataFrame([figure for figure in published_figures() if figure.known]), list[dict[str, Any]]()
    for protocol, part in known.groupby("protocol", sort=False):
        rows = part[ROW].drop_duplicates().sort_values("backbone", key=lambda names: names == "", kind="stable")
        columns = part[["measure", "benchmark"]].drop_duplicates()
        last = part.drop_duplicates([*rows, *columns], keep="last")
        for figure in rows.merge(columns, how="cross").merge(last, how="left").itertuples():
            called = option("benchmark", figure.benchmark).get("labels", {}).get(figure.measure, "")
            column = Column(figure.measure, str(protocol), ((str(protocol), figure.benchmark, ""),), called=called)
            names = {"backbone": figure.backbone or "not named", "method": label_and_order(figure.method)[0]}
            names["source"] = "" if math.isnan(figure.value) else f"{figure.source}. {figure.note}".rstrip(". ")
            cells.append(names | _column_fields(column) | Number(figure.value)._asdict())
    return finish_table("published", cells, best=False)


def finish_table(table: str, cells: Sequence[Mapping[str, Any]], best: bool = True) -> pd.DataFrame:
    """A table of these cells, the best of each column marked per backbone, with all columns that `add_marks` adds."""
    frame = pd.DataFrame(cells).assign(table=table).reindex(columns=CELLS)
    texts = ["published_why", "source", "lacking", "evaluated", "setting"]
    frame[texts] = frame[texts].astype(object).fillna("").astype(str)
    frame = frame.astype(dict.fromkeys(("difference", "p", "p_holm", "detectable", "published"), float))
    better = frame.measure.map(lambda measure: MEASURES[base_measure(measure)].better)
    keys = [frame[name] for name in ("protocol", "backbone", *COLUMN)]
    top = (better * frame.value).groupby(keys).transform("max")
    values_differ = frame.value.groupby(keys).transform("nunique") > 1
    frame["best"] = best & values_differ & (better != 0) & frame.value.notna() & (better * frame.value == top)
    return add_marks(frame)


def add_marks(frame: pd.DataFrame) -> pd.DataFrame:
    """A table as in its CSV, with columns for the marks and notes of each cell.

    - `known`    there is a number
    - `differs`  it differs from No-train at 5 %, adjusted over all contrasts of the report
    - `few`      a difference of this size would be missed too often, by `POWER`
    - `covered`  whether the interval covers the published figure; None if one of them is absent
    - `notes`    sets that a mean lacks, and many undecided or truncated texts
    - `missing`  not measured, but could be
    """
    frame = frame.assign(known=frame.value.notna(), differs=frame.p_holm < LEVEL)
    frame["few"] = ~frame.differs & (frame.difference.abs() < frame.detectable)
    frame["covered"] = [
        None if math.isnan(low) or math.isnan(figure) else covers(low, high, figure)
        for low, high, figure in zip(frame.low, frame.high, frame.published, strict=True)
    ]
    rows = zip(frame.known, frame.n, frame.undecided, frame.truncated, frame.lacking, strict=True)
    frame["notes"] = [_notes(*row) for row in rows]
    unmeasured = ~frame.known & (frame.n + frame.undecided == 0)
    frame["missing"] = unmeasured & (frame.kind != "training") & (frame.table != "published")
    return frame


def _notes(known: bool, n: int, undecided: int, truncated: int, lacking: str) -> list[str]:
    """The notes of a cell: the sets that a mean lacks, else many undecided or truncated texts."""
    if sets := lacking.split(" + ") if lacking else []:
        more = f" and {len(sets) - NAMED} more" if len(sets) > NAMED else ""
        return [f"without {', '.join(sets[:NAMED])}{more}"]
    texts = n + undecided
    if not known and texts:
        return [f"undecided {undecided}/{texts}" if undecided else "undefined"]
    counts = {"undecided": undecided, "truncated": truncated}
    return [f"{name} {count}" for name, count in counts.items() if count > measures.WORTH_SAYING * texts]


def pivot(part: pd.DataFrame) -> pd.DataFrame:
    """One protocol's part of a table as a grid in the order of `part`. Each cell is its row of `part`, or nan.

    The index is (backbone, method); a column is the tuple of its heading's lines: measure, part if it is not the
    deciding one, benchmark, judge, and if two columns share a heading, the setting, else the hash.
    """
    cells = pd.Series(list(part.itertuples(index=False)), pd.MultiIndex.from_frame(part[[*ROW, *COLUMN]]), dtype=object)
    grid = cells.unstack(COLUMN, sort=False)
    grid = pd.concat([rows for _, rows in grid.groupby(level="backbone", sort=False)])
    called = part.set_index(["measure", "benchmark"]).called.to_dict()
    judges = part.set_index(COLUMN).judge.to_dict()
    headings = []
    for key in grid.columns:
        measure, kind, benchmark, _ = key
        sets = {"rate": benchmark, "mean": f"mean of {benchmark.count(' + ') + 1}"}.get(kind, "")
        name = MEASURES[base_measure(measure)].heading(called[measure, benchmark])
        different = len({*judges[key].split(" + ")})
        judge = f"by {judges[key] if different == 1 else f'{different} judges'}" if judges[key] else ""
        headings.append(tuple(line for line in (name, measure.partition(".")[2], sets, judge) if line))
    for line_of in (part.set_index(COLUMN).setting.to_dict(), {key: key[-1] for key in grid.columns}):
        lines = [line_of[key] if headings.count(h) > 1 else "" for h, key in zip(headings, grid.columns, strict=True)]
        headings = [heading + ((line,) if line else ()) for heading, line in zip(headings, lines, strict=True)]
    grid.columns = pd.Index(headings, tupleize_cols=False)
    return grid
