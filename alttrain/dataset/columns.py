"""How a raw row becomes an Example: which column fills which field, which rows are used, and where a trace ends.

A column is named by its key, or by a dotted path into nested values: `score.Accuracy`, `code.0`. Reads no file.
"""

import json
import math
import random
import re
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from difflib import get_close_matches
from functools import partial
from typing import Any

import regex

from alttrain.records import Label, Rejected, Shape, shape_of

FIELDS = (
    *("id", "prompt", "label", "category", "phrasing", "thought", "answer", "gold", "goal", "response", "dialogue"),
    "key_sentence",
)
"""What a column may fill: a field of an Example; `response`, a thought and an answer in one text; or `dialogue`, a list
of user turns, the last of which is the prompt."""

Scalar = str | int | float | bool | None
WHOLE: tuple[Shape, ...] = ("thought_and_answer",)
_COLUMN = re.compile(r"\{([^{}]+)\}")
_ISO = re.compile(r"\d{4}-\d\d-\d\d([T ][\d:.]+)?")
_HALF_PAIR = re.compile("[\ud800-\udfff]")
PATTERN_SECONDS = 10.0  # for a pattern of `extract` or `erase` on one text, since a bad one may never finish


class Unusable(Exception):  # noqa: N818
    """Why a row is rejected."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The column map of a file.

    - `columns`: our field -> the file's column, or several columns; the first that the row has is used. From a list
      value, `category` and `phrasing` take the first item and `gold` takes all items. A column that has a field's name
      fills it where nothing else does (`thought` only with text; neither it nor `answer` with a `response`).
    - `forms`: our field -> a text in which each {column} stands for a column's value, as in "{prompt}\n{tests.0}"; or
      several texts: the first is used that has no empty column, else the last.
    - `constants`: our field -> its value in all rows. It replaces a column that merely has the field's name; a
      column named in `columns` replaces it.
    - `where`: column -> the value, or the list of values, of the rows to use.
    - `dates`: column -> the first and the last moment of the rows to use, as ISO dates ("2025-02-01" is its midnight);
      null leaves an end open. The rows' time zones are not read, and the ends have none.
    - `labels`: value of the label's column -> harmful or benign; "*" matches every other value but null.
    - `extract`: our field -> a pattern (the dot matches newlines) whose first group is the field's text.
    - `slices`: our field -> three columns: a text, and the first and last character of the field in it.
    - `erase`: our field -> a pattern to remove from its text.
    - `thought_tags`: opening and closing tag of the thought in a `response`. The opening tag may be missing, since some
      prompt templates write it.
    - `shapes`: the accepted shapes of a response; other rows are rejected. With a `response` each row also has a column
      `shape`, from which `columns.label` may tell harmful rows from benign ones.
    - `golds`: columns that together are the gold texts, for a grader that needs several; a list or mapping as JSON.
    - `choices`: columns of a multiple choice's options (a list counts as its items), appended to the prompt as lettered
      lines. With a `choice_seed` the first option is the right one; the options are shuffled by the seed and the
      prompt, and the letter of the right one is the gold text.
    """

    columns: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    forms: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)
    where: Mapping[str, Scalar | Sequence[Scalar]] = field(default_factory=dict)
    dates: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    labels: Mapping[str, Label] = field(default_factory=dict)
    extract: Mapping[str, str] = field(default_factory=dict)
    slices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    erase: Mapping[str, str] = field(default_factory=dict)
    thought_tags: Sequence[str] = ()
    shapes: Sequence[Shape] = WHOLE
    golds: Sequence[str] = ()
    choices: Sequence[str] = ()
    choice_seed: int | None = None

    def map_faults(self) -> Iterator[str]:
        """Yield why no row could satisfy the map."""
        for key in ("columns", "forms", "constants", "extract", "slices", "erase"):
            for name, value in getattr(self, key).items():
                if name not in FIELDS:
                    hint = "".join(f"; did you mean {near!r}?" for near in get_close_matches(name, FIELDS, n=1))
                    yield f"{key}.{name}={value!r}: no such field; accepted: {', '.join(FIELDS)}{hint}"
        for key in ("extract", "erase"):
            for field_name, pattern in getattr(self, key).items():
                try:
                    groups = regex.compile(pattern).groups
                except regex.error as error:
                    yield f"{key}.{field_name}={pattern!r}: not a pattern: {error}"
                    continue
                if key == "extract" and not groups:
                    yield f"extract.{field_name}={pattern!r}: needs a group, the text to take"
        for column, ends in self.dates.items():
            if len(ends) != 2 or not all(end is None or (_ISO.fullmatch(str(end)) and _moment(end)) for end in ends):
                accepted = "two dates as YYYY-MM-DD, also with a time but no zone, or null for either"
                yield f"dates.{column}={list(ends)!r}: accepted: {accepted}"
        for field_name, columns in self.slices.items():
            if len(columns) != 3:
                yield f"slices.{field_name}={list(columns)!r}: accepted: columns of text, start, end"
        tags, shuffles = self.thought_tags, self.choice_seed is not None
        if tags and (len(tags) != 2 or not all(tags)):
            yield f"thought_tags={list(tags)!r}: accepted: an opening and a closing tag, or none"
        if ("response" in self.columns) != bool(tags):
            yield "columns.response and thought_tags go together; one of them is missing"
        if self.labels and "label" in self.constants and "label" not in self.columns:
            yield "labels map a column, and constants.label replaces it; leave one of them out"
        if shuffles and not self.choices:
            yield f"choice_seed={self.choice_seed}: there are no choices to put in order"
        golds = {"columns.gold": "gold" in self.columns, "golds": bool(self.golds), "choice_seed": shuffles}
        if sum(golds.values()) > 1:
            yield f"{' and '.join(key for key in golds if golds[key])} each say what the gold is; give one of them"

    def passes(self, raw: Mapping[str, Any]) -> bool:
        """Return whether a row passes `where` and `dates`. Raises ValueError if it lacks a column, or its date."""
        for column, accepted in self.where.items():
            value = _value(raw, column, "to filter by")
            if value not in (accepted if isinstance(accepted, list | tuple) else [accepted]):
                return False
        for column, ends in self.dates.items():
            value = _value(raw, column, "to filter by")
            if (moment := _moment(value)) is None:
                raise ValueError(f"{column}={value!r} is no ISO date to filter by")
            first, last = (end and _moment(end) for end in ends)
            if (first and moment < first) or (last and moment > last):
                return False
        return True

    def convert(self, raw: Mapping[str, Any], default_id: str, source: str) -> dict[str, Any] | Rejected:
        """Return the fields of a row's Example, or why it is rejected. Raises ValueError for a malformed row."""
        own_id = next((value for name in _names(self.columns.get("id", "id")) for value in _at(raw, name)), None)
        row_id = default_id if own_id is None else str(own_id)
        try:
            response = {}
            if "response" in self.columns:
                text = _value(raw, self.columns["response"], "for response")
                if text is None:
                    raise Unusable("no response")
                thought, answer = split_response(str(text), self.thought_tags, self.shapes)
                raw = {**raw, "shape": shape_of(bool(thought), bool(answer))}  # the label may depend on it
                response = {name: text for name, text in (("thought", thought), ("answer", answer)) if text}
            fields = {"id": row_id} | self._fields(raw) | response | {"source": source}
            fields["id"] = row_id if fields["id"] is None else str(fields["id"])
            if fields.get("prompt", "") is None:
                raise Unusable("no prompt")  # in JailbreakBench's artifacts: the attack found none
            self._apply_patterns(fields)
            if "thought" in fields and not str(fields["thought"]).strip():
                raise Unusable("the thought is empty")
        except Unusable as reason:
            return Rejected(row_id, str(reason))
        for name, value in fields.items():
            if any(map(_HALF_PAIR.search, _texts(value))):
                raise ValueError(f"the {name} holds half a surrogate pair, which is no character")
        if not str(fields["prompt"]).strip():
            raise ValueError("the prompt is empty")
        if "thought" in fields:
            fields["thought"] = [{"step": "reasoning", "text": fields["thought"], "origin": "trace"}]
        return fields

    def _fields(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        has_response = "response" in self.columns
        others = {"thought", "response", "dialogue"} | ({"answer"} if has_response else set())
        fields = {name: raw[name] for name in FIELDS if name in raw and name not in others}
        if not has_response and isinstance(text := raw.get("thought"), str) and text.strip():
            fields["thought"] = text  # not a list of steps, which a run writes
        fields |= self.constants
        for name, column in self.columns.items():
            if name != "response":
                fields[name] = _value(raw, column, f"for {name}")
        for name, forms in self.forms.items():
            fill = partial(_filled, raw=raw, field_name=name)
            fields[name] = _COLUMN.sub(fill, _form(_names(forms), raw))
        for name, columns in self.slices.items():
            text, start, end = (_value(raw, column, f"for {name}") for column in columns)
            if not (isinstance(start, int) and isinstance(end, int) and 0 <= start < end <= len(str(text))):
                raise ValueError(f"{columns[1]}={start!r}, {columns[2]}={end!r}: not characters of {columns[0]}")
            fields[name] = str(text)[start:end].strip()
        for name in ("category", "phrasing"):
            value = fields.get(name)
            first = _number(next(iter(value), "") if isinstance(value, list | tuple) else value)
            fields[name] = str(first) if isinstance(first, int | float) else first
        golds = [_number(_value(raw, column, "for gold")) for column in self.golds]
        if None in golds:
            raise Unusable("no gold")
        golds = [json.dumps(gold) if isinstance(gold, list | tuple | Mapping) else str(gold) for gold in golds]
        gold = golds or _number(fields.get("gold"))
        if isinstance(gold, int | float) and "gold" in self.columns:
            gold = str(gold)
        fields["gold"] = [gold] * bool(gold) if isinstance(gold, str) else gold
        if "dialogue" in fields:
            turns = fields.pop("dialogue")
            if not isinstance(turns, list | tuple) or not turns:
                raise ValueError("the dialogue is no list of the user's turns")
            fields |= {"turns": turns[:-1], "prompt": turns[-1]}
        if self.choices:
            if (question := fields.get("prompt", "")) is None:
                raise Unusable("no prompt")
            fields |= self._multiple_choice(raw, str(question).strip())
        if self.labels and ("label" in self.columns or ("label" in fields and "label" not in self.constants)):
            found = _number(fields["label"])
            value = str(found)
            if value not in self.labels and (found is None or "*" not in self.labels):
                raise ValueError(f"label {value!r} is not mapped; accepted: {', '.join(self.labels)}")
            fields["label"] = self.labels.get(value, self.labels.get("*"))
        if absent := [name for name in ("prompt", "label") if name not in fields]:
            remedy = f"set columns.{absent[0]} to one of the columns, or constants.{absent[0]} for all rows"
            raise ValueError(f"no {' and no '.join(absent)}; columns: {', '.join(raw)}; {remedy}")
        optional = ("category", "phrasing", "thought", "answer", "gold", "goal")
        return {name: value for name, value in fields.items() if value is not None or name not in optional}

    def _multiple_choice(self, raw: Mapping[str, Any], question: str) -> dict[str, Any]:
        """Return the prompt with its lettered options, one per line, and the gold letter if they are shuffled.

        A null option is left out; the others keep their letters unless they are shuffled.
        """
        values = [_value(raw, column, "for a choice") for column in self.choices]
        options = [item for value in values for item in (value if isinstance(value, list | tuple) else [value])]
        if len(options) > len(string.ascii_uppercase):
            raise ValueError(f"{len(options)} choices; there are letters for {len(string.ascii_uppercase)}")
        order = list(range(len(options)))
        gold = {}
        if self.choice_seed is not None:
            if options[:1] == [None]:
                raise Unusable("no right choice")
            order = [i for i in order if options[i] is not None]
            random.Random(f"choices-{self.choice_seed}-{question}").shuffle(order)
            gold = {"gold": [string.ascii_uppercase[order.index(0)]]}
        lines = [
            f"{letter}. {' '.join(str(options[i]).split())}"
            for letter, i in zip(string.ascii_uppercase, order, strict=False)
            if options[i] is not None
        ]
        return {"prompt": "\n".join([question, "", *lines]), **gold}

    def _apply_patterns(self, fields: dict[str, Any]) -> None:
        """Apply `extract` and `erase` to `fields`. Raises Unusable, or ValueError if a pattern takes too long."""
        for name, pattern in self.extract.items():
            texts, search = _texts(fields.get(name, "")), regex.compile(pattern, regex.DOTALL).search
            matches = [_timed(search, text, f"extract.{name}={pattern!r}") for text in texts]
            groups = [match[1].strip() for match in matches if match and match[1] is not None]
            if len(groups) < len(texts):
                raise Unusable(f"no {name} where extract.{name} looks for it")
            fields[name] = groups if name == "gold" else "".join(groups)
        for name, pattern in self.erase.items():
            texts, erase = _texts(fields.get(name, "")), partial(regex.compile(pattern).sub, "")
            texts = [_timed(erase, text, f"erase.{name}={pattern!r}") for text in texts]
            fields[name] = texts if name == "gold" else "".join(texts)


def _timed(apply: Callable[..., Any], text: str, pattern: str) -> Any:
    """Return what a pattern's search or substitution gives for a text. Raises ValueError after `PATTERN_SECONDS`."""
    try:
        return apply(text, timeout=PATTERN_SECONDS)
    except TimeoutError as error:
        fault = f"took more than {PATTERN_SECONDS:g} s on a text of {len(text):,} characters"
        raise ValueError(f"{pattern}: {fault}; accepted: a pattern without nested repetitions") from error


def split_response(text: str, thought_tags: Sequence[str], shapes: Sequence[Shape] = WHOLE) -> tuple[str, str]:
    """Return (thought, answer) of a response, stripped. Raises Unusable if it cannot be split, or has another shape.

    A response without tags is an answer if `shapes` accepts an answer alone, else a thought that never ends.
    """
    opening, closing = thought_tags
    if closing not in text and (opening in text or "answer_only" not in shapes):
        raise Unusable("the thought is not closed")
    if text.count(closing) > 1 or text.count(opening) > 1:
        raise Unusable("several thoughts")
    thought, answer = text.split(closing) if closing in text else ("", text)
    before, opened, inside = thought.partition(opening)
    if opened and before.strip():
        raise Unusable("text before the thought")
    if opening in answer:
        raise Unusable("the thought is closed before it is opened")
    thought, answer = (inside if opened else thought).strip(), answer.strip()
    shape = shape_of(bool(thought), bool(answer))
    if shape not in shapes:
        both = "it has both a thought and an answer"
        raise Unusable(both if thought and answer else "the answer is empty" if thought else "the thought is empty")
    return thought, answer


def _names(column: str | Sequence[str]) -> Sequence[str]:
    return [column] if isinstance(column, str) else column


def _at(raw: Any, path: str) -> Iterator[Any]:
    """Yield the value at a dotted path; nothing if there is none."""
    if isinstance(raw, Mapping) and path in raw:
        yield raw[path]
        return
    head, _, rest = path.partition(".")
    if isinstance(raw, Mapping) and head in raw and rest:
        yield from _at(raw[head], rest)
    elif isinstance(raw, list | tuple) and head.isdigit() and int(head) < len(raw):
        yield from _at(raw[int(head)], rest) if rest else [raw[int(head)]]


def _value(raw: Mapping[str, Any], columns: str | Sequence[str], use: str) -> Any:
    """Return the value of a column, or of the first of several that the row has.

    Raises ValueError, saying what the column is used for, if it has none.
    """
    for column in _names(columns):
        for value in _at(raw, column):
            return value
    missing = " or ".join(map(repr, _names(columns)))
    raise ValueError(f"missing field {missing} (the column {use}); columns: {', '.join(raw)}")


def _moment(value: Any) -> datetime | None:
    """Return the moment that an ISO date names, without its time zone; None if it is no ISO date."""
    try:
        return datetime.fromisoformat(str(value)).replace(tzinfo=None)
    except ValueError:
        return None


def _form(forms: Sequence[str], raw: Mapping[str, Any]) -> str:
    """Return the first form without an empty column, else the last. A column the row lacks is a fault, not empty."""
    for form in forms[:-1]:
        if all(value not in ("", None) for column in _COLUMN.findall(form) for value in _at(raw, column)):
            return form
    return forms[-1]


def _filled(match: re.Match[str], raw: Mapping[str, Any], field_name: str) -> str:
    """Return the value of the column that a {column} of `forms` names. Raises ValueError if it is no text or number."""
    value = _value(raw, match[1], f"for {field_name}")
    if not isinstance(value, str | int | float):
        raise ValueError(f"{field_name} needs a text or number in {match[1]!r}, found {value!r:.60}")
    return str(value)


def _number(value: Any) -> Any:
    """Return an integral float as an integer and NaN as None: pandas makes floats of a column of integers with gaps."""
    if isinstance(value, float):
        return None if math.isnan(value) else int(value) if value.is_integer() else value
    return value


def _texts(value: Any) -> list[str]:
    return [str(item) for item in (value if isinstance(value, list | tuple) else [value]) if item is not None]
