"""Which tables there are, and their cells: one tidy frame a table, a row a cell (tables/<table>.csv).

The rows of main and of the tables that vary one thing are the runs whose run.json names the table. Main also lists
methods that only another backbone or a source has, with their published figures. The benchmarks of main, general,
multi_turn and multilingual are those whose metrics.json names the table. A table without data is not made.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pandas as pd

from alttrain.evaluation import protocol_hash
from alttrain.report import measures
from alttrain.report.contrasts import Contrast, Contrasts, base_of, comparisons, decided, interventions
from alttrain.report.estimates import Number, by_category, numbers, structure, thoughts
from alttrain.report.evaluation import Evaluation, Made
from alttrain.report.measures import MEASURES, OVERVIEW, RATES, base
from alttrain.report.processes import MANY, second_process
from alttrain.report.published import beside, covers, described, published
from alttrain.report.results import METRICS, NO_TRAIN, changes, option, read_texts, tidy
from alttrain.report.variants import (
    Column,
    Variant,
    by_backbone,
    mean_columns,
    pool,
    protocols_of,
    rate_columns,
    variants,
)

Numbers = dict[tuple[Variant, Column], Number]
NAN = math.nan
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

    `judged` is without interventions, `intervened` with. `frames` are the CSV files by name, `runs` is the table of all
    runs, and `tables` are those over seeds.
    """

    judged: Sequence[Evaluation]
    intervened: Sequence[Evaluation]
    variants: Sequence[Variant]
    frames: Mapping[str, pd.DataFrame]
    runs: pd.DataFrame
    tables: Mapping[str, pd.DataFrame]


def report_of(judged: Sequence[Evaluation]) -> Report:
    """The report over these benchmarks."""
    plain = [one for one in judged if not one.intervention]
    read_texts(plain)
    found, results = variants(plain), tidy(plain)

    def differences() -> tuple[pd.DataFrame, list[tuple[int, Column, Contrast]]]:
        frame, contrasts = comparisons(found)
        return frame, [(found.index(variant), column, one) for (variant, column), one in contrasts.items()]

    with second_process([differences], len(plain) >= MANY) as results_of:
        known = _known(found)
        ((compared, placed),) = results_of()
    whole, contrasts = variants(judged), {(found[place], column): one for place, column, one in placed}
    made = tables(found, contrasts, known)
    intervened, effects = interventions(whole)
    if effects:
        made["interventions"] = _effects(whole, effects)
    frames = {"metrics": results[METRICS], "comparisons": compared, "interventions": intervened}
    frames |= {"decided": decided(whole), "thoughts": thoughts(judged)}
    frames |= {"structure": structure(plain), "categories": by_category(found)}
    under = [one for one in judged if one.intervention]
    return Report(plain, under, found, frames, runs_table(results, compared), made)


def methods(main: Sequence[Variant], protocol: str) -> list[Variant]:
    """Each backbone's methods, and without runs those that only another backbone or a source of this protocol has."""
    rows = []
    unchanged = {v.known_as: v for v in reversed(main) if not (v.changed or v.tag)}
    for backbone, own in by_backbone(main):
        there = {variant.known_as for variant in own if not variant.changed}
        lacking = [
            replace(v, backbone=backbone, folders={}, judged={}, every={})
            for name, v in unchanged.items()
            if name not in there
        ]
        here = [one for one in published() if (one.table, one.protocol, one.backbone) == ("main", protocol, backbone)]
        for method in dict.fromkeys(one.method for one in here if one.known):
            if method not in there | unchanged.keys():
                lacking.append(Variant(backbone, "", "", "", method, "", "", *described(method), (), {}, {}, {}, {}))
        rows += sorted([*own, *lacking], key=lambda variant: (variant.known_as != NO_TRAIN, variant.order))
    return rows


def belongs(variant: Variant, table: str) -> bool:
    """Whether a table lists a variant: run.json names the table, and any changes are to keys that the table varies."""
    if not variant.changed or table not in variant.tables:
        return table in variant.tables
    fitting = (name for name, varies in VARIED.items() if all(key.startswith(varies) for key in variant.changed))
    varied = next(fitting, "")
    return table == varied if varied in variant.tables else table not in VARIED


def listed(found: Sequence[Variant], table: str) -> list[Variant]:
    """The rows of a table that varies one thing, No-train first, for backbones with several rows."""
    rows = []
    for _, group in by_backbone(found):
        own = [variant for variant in group if belongs(variant, table) and not variant.untrained]
        if len(own) > 1:
            first = [variant for variant in group if variant.untrained and not variant.changed][:1]
            rows += [variant for variant in group if variant in first or variant in own]
    return rows


def _wanted(found: Sequence[Variant]) -> list[tuple[str, list[Variant], list[Column]]]:
    return [one for protocol, own in protocols_of(found).items() for one in _specified(own, protocol)]


def _known(found: Sequence[Variant]) -> Numbers:
    """All numbers of the tables."""
    every_column = list(dict.fromkeys(column for *_, columns in _wanted(found) for column in columns))
    known: Numbers = {}
    for variant in found:  # one at a time, so that the rows of the last one can be freed
        known |= {(variant, column): number for column, number in numbers(variant, every_column).items()}
    return known


def tables(found: Sequence[Variant], contrasts: Contrasts, known: Numbers | None = None) -> dict[str, pd.DataFrame]:
    """Every table that has data, by name, as `finished` frames. `known` are its numbers, if already computed."""
    known = _known(found) if known is None else known
    cells: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    for name, rows, columns in _wanted(found):
        for key in itertools.product(rows, columns):
            cells[name].append(_cell(*key, known.get(key), contrasts.get(key)) | _figure(*key))
    made = {name: finished(name, own) for name, own in cells.items() if own}
    made = {name: own for name, own in made.items() if (own.known | (own.undecided > 0)).any()}
    return made | {"published": figures()}


def _specified(found: list[Variant], protocol: str) -> list[tuple[str, list[Variant], list[Column]]]:
    """Each table's name, rows and columns, of one protocol. `found` are the variants that it judged."""
    rates, pooled = rate_columns(found, protocol), pool(found, protocol)
    judges = {column.made[0]: column.judges for column in rates if column.judges}

    def judged(column: Column) -> Column:
        own = [name for made in column.made for name in judges.get(made, ())]
        return replace(column, judges=tuple(own) if measures.by_judge(column.measure) else ())

    means = {name: judged(column) for name, column in mean_columns(found, protocol).items()}
    pools = {name: judged(Column(name, protocol, pooled, "pool")) for name in (*measures.ASSESSING, *measures.TOKENS)}
    training = [Column(name, protocol, (), "training") for name in measures.TRAINING]
    own = {name: [c for c in rates if c.measure == name and "main" in c.tables] for name in RATES}
    short = []  # each measure's mean, or also each of its sets if no row has all of them
    for measure in RATES:
        mean = means.get(measure)
        whole = mean and any(set(mean.made) <= variant.judged.keys() for variant in found)
        short += [*([] if whole else own[measure]), *([mean] if mean else [])]
    recognising = [column for column in rates if column.measure in measures.RECOGNISING]
    apart = {name: [c for c in rates if name in c.tables] for name in ("general", "multi_turn", "multilingual")}
    apart["reasoning"] = own["accuracy"] if "accuracy" in means else []
    compared = [c for c in rates if c.measure == "kappa" or measures.corrected(c.measure)]
    beside = {column.made[0][:2] for column in compared}  # the sets with several judges, or with human labels
    several = [c for c in rates if c.made[0][:2] in beside and c.measure not in ("score", *measures.RECOGNISING)]
    main = methods([variant for variant in found if belongs(variant, "main")], protocol)
    return [
        ("overview", found, [*(c for c in rates if c not in recognising), *(pools[name] for name in OVERVIEW)]),
        ("judges", [v for v in found if any(v.has(column) for column in compared)], several),
        ("main", main, list(dict.fromkeys([*own["harmful_rate"], *short]))),
        *((name, [v for v in found if any(c.made[0] in v.judged for c in own)], own) for name, own in apart.items()),
        *((name, listed(found, name), short) for name in VARIED),
        ("recognition", [variant for variant in found if variant.untrained], recognising),
        ("adherence", found, [pools[name] for name in measures.ASSESSING]),
        ("efficiency", found, [*training, *(pools[name] for name in measures.TOKENS)]),
    ]


def _effects(found: Sequence[Variant], effects: Mapping[tuple[Variant, Made], Contrast]) -> pd.DataFrame:
    """The table of interventions: a row for each variant without any and with each, a column for each benchmark.

    If an intervention has several settings in a report, a row names them by the beginning of their hash.
    """
    cells, settings = [], defaultdict[str, set[str]](set)
    told = {(v, made): next(iter(v.judged[made].values())) for v, made in effects}
    digests = {key: protocol_hash(one.intervention["settings"])[:DIGITS] for key, one in told.items()}
    for key, one in told.items():
        settings[one.intervention["name"]].add(digests[key])
    for variant in dict.fromkeys(variant for variant, _ in effects):
        rows: dict[str, dict[tuple[Column, Column], None]] = {"no intervention": {}}  # the column, and what it shows
        for key in (key for key in effects if key[0] is variant):
            one, of = told[key], base_of(told[key])
            name = one.intervention["name"]
            name += f" {digests[key]}" if len(settings[name]) > 1 else ""
            judges = tuple(filter(None, [one.judge]))
            column = Column(one.measure, of[0], (of,), called=one.called(one.measure), judges=judges)
            rows.setdefault(name, {})[column, replace(column, made=(key[1],))] = None
            rows["no intervention"][column, column] = None
        known = numbers(variant, {own for pairs in rows.values() for _, own in pairs})
        for name, pairs in rows.items():
            row = replace(variant, name=f"{variant.name}, {name}")
            for column, own in pairs:
                cells.append(_cell(row, column, known.get(own), effects.get((variant, own.made[0]))))
    return finished("interventions", cells, best=False)


def _cell(row: Variant, column: Column, number: Number | None, tested: Contrast | None) -> dict[str, Any]:
    """A cell of one of our numbers."""
    lacks = [made[1] for made in column.made if row.judged and made not in row.every]
    names = {"backbone": row.backbone, "method": row.name, "evaluated": changes(_evaluated(row, column))}
    names |= {"lacking": " + ".join(lacks)} if column.kind == "mean" else {}
    return {**names, **_named(column), **(number or Number())._asdict(), **(tested or Contrast())._asdict()}


def _evaluated(row: Variant, column: Column) -> dict[str, Any]:
    """What the evaluation changed in its protocol and benchmarks."""
    judged = (one for made in column.made for one in row.every.get(made, {}).values())
    return {key: values for one in judged for key, values in one.provenance["changed"].items()}


def _figure(row: Variant, column: Column) -> dict[str, Any]:
    """The published figure beside a cell, or the reason why there is none."""
    figure, why = beside(row.backbone, row.method, bool(_evaluated(row, column) or row.changed), column)
    return {"published": figure.value, "source": figure.source} if figure else {"published_why": why}


def _named(column: Column) -> dict[str, str]:
    measure = MEASURES[base(column.measure)]
    names = {name: getattr(column, name) for name in ("protocol", *COLUMN, "setting")}
    judges = column.judges if len({*column.judges}) > 1 else column.judges[:1]
    return {**names, "unit": measure.unit, "called": column.called or measure.label, "judge": " + ".join(judges)}


def figures() -> pd.DataFrame:
    """The known published figures as a separate table, one part per source; never next to our numbers."""
    known, cells = pd.DataFrame([one for one in published() if one.known]), list[dict[str, Any]]()
    for protocol, own in known.groupby("protocol", sort=False):
        rows = own[ROW].drop_duplicates().sort_values("backbone", key=lambda names: names == "", kind="stable")
        columns = own[["measure", "benchmark"]].drop_duplicates()
        last = own.drop_duplicates([*rows, *columns], keep="last")
        for one in rows.merge(columns, how="cross").merge(last, how="left").itertuples():
            called = option("benchmark", one.benchmark).get("labels", {}).get(one.measure, "")
            column = Column(one.measure, str(protocol), ((str(protocol), one.benchmark, ""),), called=called)
            names = {"backbone": one.backbone or "not named", "method": described(one.method)[0]}
            names["source"] = "" if math.isnan(one.value) else f"{one.source}. {one.note}".rstrip(". ")
            cells.append(names | _named(column) | Number(one.value)._asdict())
    return finished("published", cells, best=False)


def runs_table(results: pd.DataFrame, compared: pd.DataFrame) -> pd.DataFrame:
    """The `finished` table of all runs, seed by seed. Adherence and tokens are over all benchmarks of a run."""
    keys = ["run", "benchmark", "metric", "protocol_hash"]
    found = results.merge(compared[[*keys, "p_holm", "seeds"]], on=keys, how="left")
    found = found.rename(columns={"seeds": "tested"}).assign(n=found.n - found.undecided)
    several = found.protocol.nunique() > 1
    places = {measure: place for place, measure in enumerate((*RATES, "kappa"))}
    rates = found.assign(kind="rate", place=found.measure.map(base).map(places)).dropna(subset="place")
    rates = rates.sort_values(["place", "benchmark", "protocol", "measure", "protocol_hash"], kind="stable")
    if several:
        rates["benchmark"] = (rates.benchmark + " " + rates.protocol).str.removesuffix(" offline")
    pools = found[found.measure.isin(OVERVIEW) & found.value.notna()]
    pools = pools.assign(total=pools.value * pools.n).groupby(["measure", "run"])[["total", "n"]].sum()
    pools = pools[pools.n > 0].reset_index().sort_values("measure", key=lambda s: s.map(OVERVIEW.index), kind="stable")
    over = {"kind": "pool", "benchmark": "all its benchmarks", "protocol_hash": "", "judge": "", "setting": ""}
    called = [MEASURES[measure].label for measure in pools.measure]
    cells = pd.concat([rates, pools.assign(value=pools.total / pools.n, n=0, called=called, **over)])
    counts = {name: cells[name].fillna(0).astype(int) for name in ("n", "undecided", "truncated")}
    cells = cells.assign(
        protocol="" if several else next(iter(results.protocol), ""),
        backbone="",
        method=pd.Categorical(cells.run, dict.fromkeys(results.run)),
        unit=[MEASURES[base(measure)].unit for measure in cells.measure],
        tested=cells.tested.fillna(1).astype(int),
        **counts,
        seeds=1,
    )
    return finished("runs", cells)


def finished(table: str, cells: Any, best: bool = True) -> pd.DataFrame:
    """A table of these cells, the best of each column marked per backbone, with all columns that `marked` adds."""
    frame = pd.DataFrame(cells).assign(table=table)
    frame = frame.reindex(columns=[*CELLS, *({"tested"} & {*frame})])
    words = ["published_why", "source", "lacking", "evaluated", "setting"]
    frame[words] = frame[words].astype(object).fillna("").astype(str)
    frame = frame.astype(dict.fromkeys(("difference", "p", "p_holm", "detectable", "published"), float))
    better = frame.measure.map(lambda measure: MEASURES[base(measure)].better)
    keys = [frame[name] for name in ("protocol", "backbone", *COLUMN)]
    top = (better * frame.value).groupby(keys).transform("max")
    several = frame.value.groupby(keys).transform("nunique") > 1
    frame["best"] = best & several & (better != 0) & frame.value.notna() & (better * frame.value == top)
    return marked(frame)


def marked(frame: pd.DataFrame) -> pd.DataFrame:
    """A table as in its CSV, with columns for the marks and notes of each cell.

    - `known`    there is a number
    - `differs`  it differs from No-train at 5 %, adjusted over all contrasts of the report
    - `tested`   the number of seeds of that test
    - `few`      a difference of this size would be missed more than one time in five
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
    counts = zip(frame.known, frame.n, frame.undecided, frame.truncated, frame.lacking, strict=True)
    frame["notes"] = [_notes(*one) for one in counts]
    empty = ~frame.known & (frame.n + frame.undecided == 0)
    frame["missing"] = empty & (frame.kind != "training") & (frame.table != "published")
    return frame if "tested" in frame else frame.assign(tested=frame.seeds)


def _notes(known: bool, n: int, undecided: int, truncated: int, lacking: str) -> list[str]:
    if sets := lacking.split(" + ") if lacking else []:
        more = f" and {len(sets) - NAMED} more" if len(sets) > NAMED else ""
        return [f"without {', '.join(sets[:NAMED])}{more}"]
    texts = n + undecided
    if not known and texts:
        return [f"undecided {undecided}/{texts}"]
    counts = {"undecided": undecided, "truncated": truncated}
    return [f"{what} {count}" for what, count in counts.items() if count > measures.WORTH_SAYING * texts]


def pivot(part: pd.DataFrame) -> pd.DataFrame:
    """One protocol's part of a table as a grid in the order of `part`. Each cell is its row of `part`, or nan.

    The index is (backbone, method); a column is the tuple of its heading's lines: measure, part if it is not the
    deciding one, benchmark, judge, and if two columns share a heading, the setting, else the hash.
    """
    cells = pd.Series(list(part.itertuples(index=False)), pd.MultiIndex.from_frame(part[[*ROW, *COLUMN]]), dtype=object)
    grid = cells.unstack(COLUMN, sort=False)
    if isinstance(part.method.dtype, pd.CategoricalDtype):
        grid = grid.sort_index(level="method")
    grid = pd.concat([own for _, own in grid.groupby(level="backbone", sort=False)])
    called = part.set_index(["measure", "benchmark"]).called.to_dict()
    judges = part.set_index(COLUMN).judge.to_dict()
    headings = []
    for key in grid.columns:
        measure, kind, benchmark, _ = key
        over = {"rate": benchmark, "mean": f"mean of {benchmark.count(' + ') + 1}"}.get(kind, "")
        name = MEASURES[base(measure)].heading(called[measure, benchmark])
        different = len({*judges[key].split(" + ")})
        judge = f"by {judges[key] if different == 1 else f'{different} judges'}" if judges[key] else ""
        headings.append(tuple(line for line in (name, measure.partition(".")[2], over, judge) if line))
    for end_of in (part.set_index(COLUMN).setting.to_dict(), {key: key[-1] for key in grid.columns}):
        ends = [end_of[key] if headings.count(one) > 1 else "" for one, key in zip(headings, grid.columns, strict=True)]
        headings = [one + ((end,) if end else ()) for one, end in zip(headings, ends, strict=True)]
    grid.columns = pd.Index(headings, tupleize_cols=False)
    return grid
