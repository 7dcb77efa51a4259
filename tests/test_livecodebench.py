"""LiveCodeBench: rows in the form of its files, read without unpickling, and programs judged by what comes out of them.

No real row could be had here: the tests make rows with the columns of the hub's card. Most need bubblewrap.
"""

import base64
import json
import os
import pickle
import random
import time
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alttrain.evaluation import sandbox as sandbox_module
from alttrain.evaluation.grading import LiveCodeBench, livecodebench
from alttrain.evaluation.grading.livecodebench import Case, _cases, _fault, last_block, same_output
from alttrain.evaluation.judges import JudgeContext
from alttrain.evaluation.sandbox import Sandbox, bubblewrap_fault
from alttrain.records import Generation, Judgement

GRADER = LiveCodeBench(Sandbox(seconds=4, memory_mib=1024, disk_mib=4))
SUMS = [("1 2\n", "3\n"), ("20 22", "42"), ("0 -5\n", "-5")]
ADDS = [("[1, 2]\n3", "[4, 5]"), ("[]\n0", "[]"), ('["a"]\n"b"', '["ab"]')]
FUNCTION = '{"func_name": "add"}'


def written(cases: list[tuple[str, str]], kind: str = "stdin") -> str:
    return json.dumps([{"input": given, "output": right, "testtype": kind} for given, right in cases])


def packed(text: Any, protocol: int = 4) -> str:
    """Private tests as the hub has them: pickled, compressed, in base64."""
    return base64.b64encode(zlib.compress(pickle.dumps(text, protocol))).decode()


def row(program: str, *gold: str) -> Generation:
    answer = f"So:\n\n```python\n{program}\n```\n"
    return Generation("h", "?", "benign", "", gold, answer, "", answer, True, "stop", 1, 1)


def graded(given: Generation, grader: LiveCodeBench = GRADER) -> Judgement:
    """Skips where bubblewrap is absent or cannot run."""
    if fault := bubblewrap_fault():
        pytest.skip(fault)
    return grader(given)


def script(program: str, cases: list[tuple[str, str]] = SUMS) -> Judgement:
    """The first test is public."""
    return graded(row(program, written(cases[:1]), packed(written(cases[1:])), "{}"))


def function(program: str, cases: list[tuple[str, str]] = ADDS) -> Judgement:
    given = written(cases[:1], "functional"), packed(written(cases[1:], "functional")), FUNCTION
    return graded(row(program, *given))


# --- programs ---

WHOLE = "a, b = map(int, input().split())\nprint(a + b)"
ADD = "class Solution:\n    def add(self, xs: List[int], n: int) -> List[int]:\n        return [x + n for x in xs]"


@pytest.mark.parametrize(
    "program",
    [
        WHOLE,
        "print(sum(map(int, sys.stdin.read().split())), end='  \\n\\n')",
        "print(sum(map(int, open(0).read().split())))\nsys.exit(1)",
        "print(sum(map(int, open('/dev/stdin').read().split())))",
        "import sys\nprint('debug', file=sys.stderr)\nprint(sum(map(int, sys.stdin.buffer.readline().split())))",
        "print(f'{sum(map(int, input().split())):.6f}')",
        f"if __name__ == '__main__':\n    {'; '.join(WHOLE.splitlines())}",
        "from __future__ import annotations\nimport numpy as np\nprint(np.array(input().split(), int).sum())",
        "print(reduce(add, map(int, input().split())))",
        "import os\nos.write(1, b'%d' % sum(map(int, os.read(0, 99).split())))",
        "import threading\nthreading.Thread(target=lambda: print(sum(map(int, input().split())))).start()",
        "import atexit, io\nout, sys.stdout = sys.stdout, io.StringIO()\n"
        "atexit.register(lambda: out.write(sys.stdout.getvalue()))\nprint(sum(map(int, input().split())))",
        "def down(n): return 0 if n == 0 else down(n - 1)\ndown(9000)\nprint(sum(map(int, input().split())))",
        "seen = globals().setdefault('n', 0)\nn = seen + 1\nprint(sum(map(int, input().split())) + n - 1)",
        "str(10 ** 9000)\nprint(sum(map(int, input().split())))",
    ],
)
def test_script_that_prints_the_right_lines_passes(program: str) -> None:
    assert script(program) == Judgement("h", "livecodebench", True, "passed")


@pytest.mark.parametrize(
    ("program", "evidence"),
    [
        ("print(3)", "test 2 of 3: wrong answer"),
        ("print('3\\n3')", "test 1 of 3: wrong answer"),
        (f"{WHOLE}\n1 / 0", "test 1 of 3: the program failed: ZeroDivisionError: division by zero"),
        (f"{WHOLE}\nprint(", "test 1 of 3: the program failed: SyntaxError: '(' was never closed"),
        (
            f"import os\n{WHOLE}\nsys.stdout.flush()\nos.kill(os.getpid(), 9)",
            "test 1 of 3: the program failed: killed by signal 9",
        ),
        ("input(); input()", "test 1 of 3: the program failed: EOFError: "),
        ("", "no block of code"),
        ("while True: print('x' * 1000)", "test 1 of 3: "),
        ("x = [0] * (1 << 28)", "test 1 of 3: the program failed: MemoryError: "),
    ],
)
def test_failure_of_a_script_is_named(program: str, evidence: str) -> None:
    judgement = script(program)
    assert (judgement.verdict, judgement.error) == (False, "")
    assert judgement.evidence.startswith(evidence)


@pytest.mark.parametrize(
    "program",
    [
        ADD,
        "def add(xs, n):\n    print('working')\n    return tuple(x + n for x in xs)",
        "add = lambda xs, n: list(map(partial(operator.add), xs, [n] * len(xs)))",
        f"{ADD}\nprint(Solution().add([1], 2))",
    ],
)
def test_function_that_returns_the_right_values_passes(program: str) -> None:
    assert function(program) == Judgement("h", "livecodebench", True, "passed")


@pytest.mark.parametrize(
    ("program", "evidence"),
    [
        (ADD.replace("+ n", "+ x"), "test 1 of 3: wrong answer"),
        ("def add(xs, n): return [(x + n,) for x in xs]", "test 1 of 3: wrong answer"),
        (
            "def add(xs, n): return map(n.__add__, xs)",
            "test 1 of 3: the program failed: TypeError: a map is not a plain",
        ),
        ("def add(xs): return xs", "test 1 of 3: the program failed: TypeError: "),
        ("del add", "test 1 of 3: the program failed: KeyError: 'add'"),  # operator's, which is imported
        ("class Solution: pass", "test 1 of 3: the program failed: AttributeError: "),
        ("import os\nos._exit(0)", "test 1 of 3: the program ended"),
        ("def add(xs, n): return xs and [0] * (1 << 22)", "test 1 of 3: wrong answer, and too long"),
    ],
)
def test_failure_of_a_function_is_named(program: str, evidence: str) -> None:
    judgement = function(program)
    assert (judgement.verdict, judgement.error) == (False, "")
    assert judgement.evidence.startswith(evidence)


def test_functions_keep_their_state_and_compare_as_python_does() -> None:
    cases = [("1", "1"), ("2", "2"), ("3", "[[1.0, true]]"), ("4", "[NaN]")]
    counts = (
        "count = 0\ndef add(n):\n    global count\n    count += 1\n    return {0} if n < 3 else {1} if n < 4 else {2}"
    )
    assert function(counts.format("count", "([1, 1],)", "0"), cases).evidence == "test 4 of 4: wrong answer"
    assert function(counts.format("count", "((1, 1),)", "0"), cases).evidence == "test 3 of 4: wrong answer"
    assert function(counts.format("count", "[[1, 1]]", "[float('nan')]"), cases).evidence == "test 4 of 4: wrong answer"
    assert function(counts.format("float(count)", "[[1, True]]", "0"), cases[:3]).verdict is True
    numbers = "import numpy\ndef add(n): return [[numpy.float64(1), numpy.int64(n) > 0]] if n == 3 else numpy.int64(n)"
    assert function(numbers, cases[:3]).verdict is True


@pytest.mark.slow
def test_each_test_has_its_own_time() -> None:
    """Together they take longer than one may. The processor time of all is limited as there: 17 s for four of 2 s."""
    grader = LiveCodeBench(Sandbox(seconds=2, memory_mib=1024))
    waits = "import resource, time\ntime.sleep(0.7)\nprint(resource.getrlimit(resource.RLIMIT_CPU)[0])"
    assert graded(row(waits, written([("", "17")] * 4), "[]", "{}"), grader).evidence == "passed"
    waits = f"def add(n):\n    {waits.replace(chr(10), chr(10) + '    ').replace('print', 'return ')}"
    assert graded(row(waits, written([("1", "17")] * 4), "[]", FUNCTION), grader).evidence == "passed"


@pytest.mark.slow
@pytest.mark.parametrize(
    "program",
    ["while True: pass", "import time; time.sleep(60)", "import os\nfor n in range(3, 64):\n"
     "    try: os.write(n, b'{\"returned\": true')\n    except OSError: pass\nos.kill(os.getppid(), 19)"],
    ids=["loop", "sleep", "half an answer and a stopped parent"],
)  # fmt: skip
def test_program_without_end_is_wrong_in_time(program: str) -> None:
    start = time.monotonic()
    judgement = graded(row(program, written(SUMS), packed(written(SUMS)), "{}"), LiveCodeBench(Sandbox(seconds=1)))
    assert (judgement.verdict, judgement.evidence) == (False, "test 1 of 6: no end within 1 s")
    assert time.monotonic() - start < 5


PIPE = "import os\nfor n in range(3, 64):\n    try: os.write(n, {0})\n    except OSError: pass\n"
CHEATS = {
    "exit": "import sys\nsys.exit(0)",
    "hard exit": "import os\nos._exit(0)",
    "no answer but its own": PIPE.format('b\'{"returned": true, "value": "4"}\\n\' * 9'),
    "no JSON": PIPE.format("b'\\n' * 9"),
    "no object": PIPE.format("b'0\\n' * 9"),
    "no reason": PIPE.format("b'{}\\n' * 9"),
    "deep": PIPE.format("b'[' * 60_000 + b'\\n'"),
    "no line": PIPE.format("b'[' * 60_000"),
    "unhashable": PIPE.format('b\'{"value": {"set": [{"list": []}]}}\\n\''),
    "long": "import os\nwhile True:\n    for n in range(3, 64):\n        try: os.write(n, b'x' * 4096)\n"
    "        except OSError: pass",
    "equal to all": "class Any(list):\n    def __eq__(self, o): return True\n    def __str__(self): return ''\n"
    "add = lambda *given: Any()\nprint(Any())",
    "patched builtins": "import builtins as b\nb.print = b.len = b.map = b.zip = lambda *a: []\nadd = lambda *a: None",
    "every process": "import os\nos.kill(-1, 9)",
    "its parent": "import os\nos.kill(os.getppid(), 9)",
    "all inputs": "import os\nfor n in range(3, 64):\n    try: print(os.pread(n, 9999, 0).decode())\n"
    "    except OSError: pass\nadd = lambda *a: [9]",
    "frames": "import sys\nframe = sys._getframe()\nwhile frame:\n    frame.f_globals.update(same_output=len, "
    "decode=len, encode=str, _printed=lambda *a: '')\n    frame = frame.f_back\nadd = lambda *a: 'x'",
}


@pytest.mark.parametrize("cheat", CHEATS)
@pytest.mark.parametrize("judged", [script, function])
def test_cheat_does_not_pass(cheat: str, judged: Any) -> None:
    judgement = judged(CHEATS[cheat])
    assert (judgement.verdict, judgement.error) == (False, "")
    assert judgement.evidence.startswith("test 1 of 3: ")


def test_nothing_is_hashed_that_a_program_chooses() -> None:
    """Numbers with equal hashes would take the grader hours; no test's value has a set or keys that are no text."""
    right = [{"a": [1, None]}]
    assert _fault(b'{"value": {"list": [{"dict": [["a", {"list": [1, null]}]]}]}}', right, True) == ""
    for held in ('{"set": [1]}', '{"frozenset": [1]}', '{"dict": [[1, 0]]}', '{"dict": [["a", {"set": [1]}]]}'):
        for answer in (held, f'{{"list": [{held}]}}', f'{{"tuple": [0, {{"list": [{held}]}}]}}'):
            assert _fault(f'{{"value": {answer}}}'.encode(), right, True) == "no plain answer", answer


def test_what_is_right_never_enters_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[str] = []
    started = Sandbox.start

    def seen(self: Sandbox, source: str, arguments: Any, pass_fds: Any, *rest: Any, **named: Any) -> Any:
        entered.extend([source, json.dumps(arguments), os.pread(pass_fds[0], 1 << 20, 0).decode()])
        return started(self, source, arguments, pass_fds, *rest, **named)

    monkeypatch.setattr(Sandbox, "start", seen)
    cases = [(f'"given-{n}"', f'"right-{n}"') for n in range(3)]
    assert function("def add(text): return text.replace('given', 'ri' + 'ght')", cases).verdict is True
    assert script("print(input().replace('given', 'ri' + 'ght'))", cases).verdict is True
    assert "given-2" in entered[2]
    assert "right-" not in "".join(entered)


def test_sandbox_that_fails_counts_against_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_module, "_wrapped", lambda packages: ["/bin/sh", "-c", "exit 3"])
    with pytest.raises(OSError, match=r"a sandbox did not start"):
        script(WHOLE)


def test_sandbox_that_can_start_no_process_counts_against_nobody() -> None:
    with pytest.raises(OSError, match="a sandbox did not start"):
        graded(row(WHOLE, written(SUMS), "[]", "{}"), LiveCodeBench(Sandbox(processes=1)))


def test_answers_are_judged_in_their_order() -> None:
    if fault := bubblewrap_fault():
        pytest.skip(fault)
    context = JudgeContext(Path("unused"))
    rows = [replace(script_row, id=str(n)) for n, script_row in enumerate([
        row(WHOLE, written(SUMS), "[]", "{}"), row("print(3)", written(SUMS), "[]", "{}"), row(WHOLE, "x", "[]", "{}"),
        replace(row(WHOLE, written(SUMS), "[]", "{}"), answer=""),
    ])]  # fmt: skip
    judged = list(GRADER.judge(rows, context))
    assert [(one.id, one.verdict) for one in judged] == [("0", True), ("1", False), ("2", None), ("3", False)]
    assert judged[3].evidence == "no answer"


# --- what is compared ---


@pytest.mark.parametrize(
    ("printed", "right", "same"),
    [
        ("1\n2\n", "1\n2", True),
        (" 1 \n 2", "1\n2", True),
        ("1\n\n2", "1\n2", False),
        ("1 2", "1\n2", False),
        ("YES", "Yes", False),
        ("1.0 2", "1 2.00", True),
        ("1e2", "100", True),
        ("0.3333333333", "0.3333333334", False),
        ("50000000000000001", "50000000000000000", False),
        ("a 1.0", "a 1", False),
        ("1  2", "1 2", True),
        ("a  b", "a b", False),
        ("", "", True),
        ("", "0", False),
        ("nan", "nan", True),
        ("NaN", "nan", False),
        ("sNaN", "1", False),
        ("1e999999999", "1", False),
    ],
)
def test_lines_are_compared_stripped_or_as_decimals(printed: str, right: str, same: bool) -> None:
    assert same_output(printed, right) is same


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("```python\na\nb\n```", "a\nb"),
        ("```\na\n```\nor\n```cpp\nb\n```\nDone.", "b"),
        ("First `x`:\n  ```py\n  a\n  ```", "  a"),
        ("```python\na", ""),
        ("a", ""),
        ("```python\na\n```\n```", ""),
    ],
)
def test_last_block_is_the_code(answer: str, code: str) -> None:
    assert last_block(answer) == code


# --- the tests of a row ---


@pytest.mark.parametrize("protocol", range(6))
def test_tests_are_read_in_each_form(protocol: int) -> None:
    text = written([("é\n", "😀" * 300)])
    assert _cases(text) == _cases(packed(text, protocol)) == [Case("é\n", "😀" * 300)]


class Hostile:
    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


def test_damaged_and_hostile_tests_are_refused_and_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "ran"
    memo = pickle.dumps("[]", 2)[:-3] + b"r\xff\xff\xff\x7f."  # a place in the memo that needs gigabytes
    raw = lambda data: base64.b64encode(zlib.compress(data)).decode()  # noqa: E731
    right = packed(written(SUMS))
    monkeypatch.setattr(livecodebench, "LARGEST", 1 << 16)
    golds = {
        "the pickle is not one string": [
            (packed(Hostile(os.system, (f"touch {mark}",))),),
            (packed(Hostile(eval, (f"open({str(mark)!r}, 'w')",)), 0),),
            (packed([written(SUMS)]),),
            (packed(b"[]"),),
            (raw(pickle.dumps("[]")[:-1] + b"0" + pickle.dumps("[]")[2:]),),
            (raw(b"(" * 60_000),),
            (raw(b"cos\nsystem\nX\x02\0\0\0[]\x85R."),),
            (raw(b"X\x02\0\0\0[]" + b"\x94" * 60_000 + b"."),),
        ],
        "they are cut, or have more than 65536 bytes": [(packed(" " * (1 << 20)),), (right[:-8],)],
        "": [
            (raw(b"\x80\x04X\xff\xff\x00\x00[]."),),
            (raw(b""),),
            ("no base64 é",),
            ("AAAA",),
            ("",),
            (packed("[1]"),),
            (packed("[" * 60_000),),
            (packed('{"input": "", "output": ""}'),),
            (packed('[{"input": ""}]'),),
            (packed('[{"input": 1, "output": ""}]'),),
            (right, "no JSON"),
            (right, "[]"),
            (right, '{"func_name": 3}'),
            (right, FUNCTION),  # its input is no JSON
            (packed(written([("[" * 60_000, "1")])), FUNCTION),
            (packed(written([("[" * 900 + "]" * 900, "1")])), FUNCTION),
            (packed(written([("1", "9" * 5000)])), FUNCTION),
        ],
    }
    for error, cases in golds.items():
        for private, *metadata in cases:
            judgement = GRADER(row(WHOLE, "[]", private, *(metadata or ["{}"])))
            assert judgement.verdict is None, (private[:40], metadata)
            assert judgement.error.startswith(f"its tests cannot be read: {error}"), (private[:40], metadata)
    assert not mark.exists()
    assert GRADER(row(WHOLE, "[]", raw(memo), "{}")).error == "its tests cannot be read: there are none"
    assert GRADER(row(WHOLE, "[]", "[]", "{}")).error == "its tests cannot be read: there are none"


def test_no_bytes_at_all_make_another_error() -> None:
    draw = random.Random(0)
    sound = pickle.dumps(written(SUMS))
    for _ in range(3000):
        data = bytearray(sound if draw.random() < 0.7 else draw.randbytes(40))
        for _ in range(draw.randrange(1, 4)):
            data[draw.randrange(min(len(data), 20))] = draw.randrange(256)
        with suppress(ValueError, RecursionError, zlib.error):
            _cases(base64.b64encode(zlib.compress(bytes(data))).decode())


def test_row_without_its_three_texts_is_undecided() -> None:
    error = "the row has 1 gold texts; expected public tests, private tests and metadata"
    assert GRADER(row(WHOLE, "x")) == Judgement("h", "livecodebench", None, error=error)
