"""Teachers: what a model writes is validated, repaired and kept; a server may do its worst and no row is lost."""

import asyncio
import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from stub_server import HARMFUL, HARMLESS, RESET, Say, Serve, Stub, right

from alttrain.config import instantiate
from alttrain.dataset import embedded_rows
from alttrain.llm import Failure, is_other_model
from alttrain.llm.replies import Keep, Reply, ReplyCache, replies, reply_key
from alttrain.records import Example, Label, Rejected, Segment
from alttrain.rewrite.teachers import (
    DISAGREES,
    AskedTeacher,
    BackboneWriter,
    ServerWriter,
    TeacherContext,
    TeacherUnavailableError,
    TemplateTeacher,
    clean,
    sentence_fault,
)
from alttrain.run.stages.rewrite import count_disagreements

SECRET = "sk-planted-5e0c7a"  # no real key

Results = dict[str, Segment | Rejected]


def rows(count: int) -> list[Example]:
    """Every other row harmful, in general words."""
    labels: tuple[Label, Label] = ("harmful", "benign")
    return [Example(f"r{n}", f"Request number {n}.", labels[n % 2]) for n in range(count)]


@pytest.fixture
def context(tmp_path: Path) -> TeacherContext:
    return TeacherContext(tmp_path / "replies")


def asking(stub: Stub | str, *, tell_label: bool = True, repairs: int = 1, **limits: Any) -> AskedTeacher:
    """A teacher on a server, impatient."""
    url = stub if isinstance(stub, str) else stub.url
    patience = {"attempts": 4, "timeout_s": 5.0, "concurrency": 4}
    return AskedTeacher("mine", ServerWriter(url, "stub", **(patience | limits)), tell_label, repairs=repairs)


def assessed(teacher: AskedTeacher, examples: Sequence[Example], context: TeacherContext) -> Results:
    """The results by id; no id comes twice."""
    results = list(teacher.assess(examples, 0, context))
    assert len({identity for identity, _ in results}) == len(results)
    return dict(results)


def all_right(results: Results, examples: Sequence[Example]) -> bool:
    texts = {e.id: HARMFUL if e.label == "harmful" else HARMLESS for e in examples}
    return {i: s.text for i, s in results.items() if isinstance(s, Segment)} == texts


# --- a server's faults ---

CHAT = b'{"choices": [{"finish_reason": "stop", "message": {%s}}]}'
FAULTS = {
    "late": Say(delay=0.9),
    "rate limit": Say(status=429, headers={"Retry-After": "0"}),
    "overloaded": Say(status=503),
    "error": Say(status=500, body=b"<html>oops</html>"),
    "garbage": Say(body=b"\xff{]"),
    "not a completion": Say(body=b'{"choices": []}'),
    "null": Say(body=b"null"),
    "truncated body": Say(missing_bytes=40),
    "reset": RESET,
    "empty": Say("  "),
    "no content": Say(None),
    "a key twice": Say(body=CHAT % b'"content": "The request is harmless.", "content": "The request is harmful."'),
    "a tool": Say(body=CHAT % b'"content": "The request is harmless as it is.", "tool_calls": [{"id": "x"}]'),
    "refused beside it": Say(body=CHAT % b'"content": "The request is harmless as it is.", "refusal": "I cannot."'),
    "an error beside it": Say(body=b'{"error": "overloaded", ' + (CHAT % b'"content": "The request is harmless."')[1:]),
    "half a character": Say("The request is harmless \ud83d because so."),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_passing_fault_is_asked_again(serve: Serve, context: TeacherContext, fault: Say) -> None:
    stub = serve(lambda prompt, before: right(prompt) if before else fault)
    examples = rows(4)
    assert all_right(assessed(asking(stub, timeout_s=0.5 if fault.delay else 5.0), examples, context), examples)
    assert sorted(stub.asked.values()) == [2] * 4


@pytest.mark.parametrize(("temperature", "tries"), [(0.7, 2), (None, 2), (0.0, 1)])
def test_a_cut_reply_is_asked_again_only_if_another_may_come(
    serve: Serve, context: TeacherContext, temperature: float | None, tries: int
) -> None:
    stub = serve(lambda prompt, before: right(prompt) if before else Say("The request is", finish="length"))
    results = assessed(asking(stub, temperature=temperature), rows(4), context)
    assert sorted(stub.asked.values()) == [tries] * 4
    assert tries == 1 or all_right(results, rows(4))
    cut = Rejected("r0", "assessment: the reply was cut at writer.max_tokens")
    assert (results["r0"] == cut) == (tries == 1)


def test_all_faults_at_once_lose_and_double_no_row(serve: Serve, context: TeacherContext) -> None:
    worst = list(FAULTS.values())
    examples = rows(60)
    stub = serve(
        lambda prompt, before: right(prompt) if before else worst[len(prompt) * sum(map(ord, prompt)) % len(worst)]
    )
    assert all_right(assessed(asking(stub, timeout_s=0.5, concurrency=16), examples, context), examples)
    asked = stub.asked.total()
    assert all_right(assessed(asking(stub), examples[::-1], context), examples)
    assert stub.asked.total() == asked  # the second run asks for nothing


def test_segment_says_who_wrote_it_and_where_the_reply_is_kept(serve: Serve, context: TeacherContext) -> None:
    made = assessed(asking(serve(lambda prompt, before: right(prompt))), rows(1), context)["r0"]
    assert isinstance(made, Segment)
    assert (made.step, made.text, made.origin) == ("assessment", HARMFUL, "teacher:mine")
    (kept,) = context.cache.glob("*/*.json")
    assert kept.parent.name == made.prompt_hash[:2]
    assert kept.stem.startswith(made.prompt_hash)
    assert len(made.prompt_hash) == 16
    assert json.loads(kept.read_text()).items() >= {"text": HARMFUL, "served": "stub-1"}.items()


def test_order_of_rows_and_replies_is_irrelevant(serve: Serve, tmp_path: Path) -> None:
    examples = rows(12)
    stub = serve(lambda prompt, before: Say(right(prompt).text, delay=sum(map(ord, prompt)) % 5 / 100))
    one, other = (
        assessed(asking(stub), order, TeacherContext(tmp_path / name))
        for name, order in [("a", examples), ("b", examples[::-1])]
    )
    assert one == other
    assert all_right(one, examples)


def test_concurrency_is_used_and_bounded(serve: Serve, context: TeacherContext) -> None:
    stub = serve(lambda prompt, before: Say(right(prompt).text, delay=0.05))
    assessed(asking(stub, concurrency=3), rows(12), context)
    assert stub.most_active == 3


def test_retry_after_is_waited_for(serve: Serve, context: TeacherContext) -> None:
    limit = Say(status=429, headers={"Retry-After": "0.3"})
    stub = serve(lambda prompt, before: right(prompt) if before else limit)
    assessed(asking(stub), rows(1), context)
    assert stub.times[1] - stub.times[0] >= 0.3


def test_a_reply_that_comes_drop_by_drop_is_not_waited_for(
    serve: Serve, context: TeacherContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alttrain.llm.LONGEST_PAUSE_S", 0.0)
    stub = serve(lambda prompt, before: Say(drip=0.2))  # half a minute in all
    started = time.monotonic()
    with pytest.raises(TeacherUnavailableError, match=r"did not answer within 0\.5 s"):
        assessed(asking(stub, timeout_s=0.5, attempts=2), rows(2), context)
    assert time.monotonic() - started < 10


# --- a server that dies, and one that is no use ---


def test_death_half_way_keeps_what_was_answered(serve: Serve, context: TeacherContext) -> None:
    examples, alive = rows(20), threading.Event()
    answered: list[str] = []

    def dies(prompt: str, before: int) -> Say:
        if len(answered) >= 7 and not alive.is_set():
            return RESET
        answered.append(prompt)
        return right(prompt)

    stub = serve(dies)
    first: list[int] = []
    with pytest.raises(TeacherUnavailableError, match=r"13 of 20 rows .*connection.*the same command goes on"):
        assessed(asking(stub), examples, TeacherContext(context.cache, progress=first.append))
    assert sum(first) == 7
    assert stub.asked.total() <= 7 + 2 * 4 * 4  # no worker tries a third prompt
    before = stub.asked.copy()
    alive.set()
    seen: list[int] = []
    again = assessed(asking(stub), examples, TeacherContext(context.cache, progress=seen.append))
    assert all_right(again, examples)
    assert sum(seen) == 20
    assert len(answered) == len(set(answered)) == 20  # no prompt was answered twice
    assert (stub.asked - before).total() == 13


def test_dead_server_is_given_up_early(context: TeacherContext, quick_retries: None) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(TeacherUnavailableError, match="500 of 500"):
        assessed(asking(f"http://127.0.0.1:{port}/v1"), rows(500), context)
    assert time.monotonic() - started < 3
    assert not list(context.cache.rglob("*.json"))


def test_one_stubborn_row_does_not_stop_the_others(serve: Serve, context: TeacherContext) -> None:
    examples = rows(30)
    stub = serve(lambda prompt, before: Say(status=500) if "number 3." in prompt else right(prompt))
    with pytest.raises(TeacherUnavailableError, match=r"1 of 30 rows .*HTTP 500"):
        assessed(asking(stub, concurrency=2), examples, context)
    assert len(list(context.cache.rglob("*.json"))) == 29


NO_MODEL = json.dumps({"error": {"code": "model_not_found", "message": SECRET}}).encode()


@pytest.mark.parametrize(
    ("say", "words"),
    [
        (Say(status=401), r"HTTP 401\); check the key in \$A_KEY"),
        (Say(status=404), r"HTTP 404\); check writer.base_url"),
        (Say(status=400, body=NO_MODEL), "HTTP 400 model_not_found"),
    ],
)
def test_hopeless_server_is_asked_once(
    serve: Serve, context: TeacherContext, monkeypatch: pytest.MonkeyPatch, say: Say, words: str
) -> None:
    monkeypatch.setenv("A_KEY", SECRET)
    stub = serve(lambda prompt, before: say)
    with pytest.raises(TeacherUnavailableError, match=words):
        assessed(asking(stub, key_variable="A_KEY", concurrency=2), rows(50), context)
    assert stub.asked.total() <= 2


@pytest.mark.parametrize(
    ("say", "tries", "reason"),
    [
        (Say(status=400), 1, "assessment: the server refuses the prompt (HTTP 400)"),
        (Say(None, finish="content_filter"), 1, "assessment: the server's filter stopped the reply"),
        (Say(finish="length"), 1, "assessment: the reply was cut at writer.max_tokens"),
        (Say(""), 4, "assessment: the reply is empty"),
    ],
)
def test_row_without_a_usable_reply_is_rejected_and_not_kept(
    serve: Serve, context: TeacherContext, say: Say, tries: int, reason: str
) -> None:
    stub = serve(lambda prompt, before: say if "number 2." in prompt else right(prompt))
    for run in (1, 2):
        results = assessed(asking(stub), rows(5), context)
        assert results["r2"] == Rejected("r2", reason)
        assert sum(isinstance(result, Segment) for result in results.values()) == 4
        assert stub.asked.total() == 4 + tries * run


# --- interrupted and concurrent runs ---


@pytest.mark.filterwarnings("ignore:coroutine 'connect_tcp")  # anyio's, when a connection is cancelled as it opens
def test_interrupted_run_keeps_every_reply_that_arrived(serve: Serve, context: TeacherContext) -> None:
    stub = serve(lambda prompt, before: Say(right(prompt).text, delay=0.02))
    results = asking(stub, concurrency=2).assess(rows(12), 0, context)
    for _ in range(3):
        next(results)
    results.close()  # type: ignore[attr-defined]
    kept = len(list(context.cache.rglob("*.json")))
    assert 3 <= kept < 12
    assert stub.asked.total() <= kept + 2
    before = stub.asked.total()
    assert all_right(assessed(asking(stub), rows(12), context), rows(12))
    assert stub.asked.total() - before == 12 - kept


def test_concurrent_runs_share_the_cache(serve: Serve, context: TeacherContext) -> None:
    """Each of four runs gets the same sentence for a row, though the server never says the same twice."""
    stub = serve(lambda prompt, before: Say(f"{str(right(prompt).text)[:-1]} ({before}).", delay=0.001))
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: assessed(asking(stub), rows(30), context), range(4)))
    asked = stub.asked.total()
    again = assessed(asking(stub), rows(30), context)
    assert stub.asked.total() == asked
    assert all(isinstance(result, Segment) for result in again.values())
    assert runs == [again] * 4
    assert not [path for path in context.cache.rglob("*") if path.is_file() and path.suffix not in (".json", ".lock")]


def test_spoiled_cache_file_costs_one_reply(serve: Serve, context: TeacherContext) -> None:
    stub = serve(lambda prompt, before: right(prompt))
    assessed(asking(stub), rows(6), context)
    files = sorted(context.cache.rglob("*.json"))
    files[0].write_text("")
    files[1].write_text('{"text": 3}')
    assert all_right(assessed(asking(stub), rows(6), context), rows(6))
    assert stub.asked.total() == 8
    assert all(ReplyCache(context.cache).get(path.stem) for path in files)


def test_a_reply_that_was_changed_or_moved_is_asked_for_again(tmp_path: Path) -> None:
    cache = ReplyCache(tmp_path)
    for key in ("ab1", "ab2", "ab3"):
        cache.keep(key, Reply(f"reply {key}", "m"))
    path = tmp_path / "ab" / "ab1.json"
    path.write_text(path.read_text().replace("reply", "Reply"))
    path.with_name("ab2.json").write_bytes(path.with_name("ab3.json").read_bytes())
    assert [cache.get(key) for key in ("ab1", "ab2", "ab3")] == [None, None, Reply("reply ab3", "m")]
    path.write_text('{"text": "without a checksum", "served": "m"}')
    assert cache.get("ab1") is None


def test_a_notebooks_loop_is_no_hindrance(serve: Serve, context: TeacherContext) -> None:
    async def cell() -> Results:
        return assessed(asking(serve(lambda prompt, before: right(prompt))), rows(3), context)

    assert all_right(asyncio.run(cell()), rows(3))


def test_first_reply_counts(tmp_path: Path) -> None:
    cache = ReplyCache(tmp_path)
    assert cache.get("ab1") is None
    assert cache.keep("ab1", Reply("first")) == Reply("first")
    assert cache.keep("ab1", Reply("second")) == cache.get("ab1") == Reply("first")


def test_a_kept_reply_that_is_useful_for_one_of_equal_prompts_is_not_asked_for_again(tmp_path: Path) -> None:
    asked: list[str] = []

    class Model:
        identity, sampling, repeats = "m", dict[str, Any](), False

        def write(self, prompts: Mapping[str, str], keep: Keep) -> Iterator[tuple[str, Reply | Failure]]:
            for key, prompt in prompts.items():
                asked.append(prompt)
                yield key, keep(key, Reply(f"reply {len(asked)}"))

    def replied(useful: Callable[[int, Reply], bool]) -> set[tuple[str, int, str]]:
        items = [("a", 1), ("b", 2), ("a", 3)]
        found = replies(Model(), items, tmp_path, 1, "test", useful)
        return {(prompt, item, reply.text) for prompt, item, _, reply in found if isinstance(reply, Reply)}

    first = replied(lambda item, reply: True)
    assert (first, asked) == ({("a", 1, "reply 1"), ("b", 2, "reply 2"), ("a", 3, "reply 1")}, ["a", "b"])
    assert replied(lambda item, reply: item != 1) == first
    assert asked == ["a", "b"]
    assert replied(lambda item, reply: item == 2) == {("a", 1, "reply 3"), ("b", 2, "reply 2"), ("a", 3, "reply 3")}
    assert asked == ["a", "b", "a"]


def test_a_model_that_answered_another_run_meanwhile_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Model:
        identity, sampling, repeats = "m at url", dict[str, Any](), False

        def write(self, prompts: Mapping[str, str], keep: Keep) -> Iterator[tuple[str, Reply | Failure]]:
            pytest.fail("every reply is there")

    first, second = (reply_key("m at url", [{"role": "user", "content": prompt}], {}, 1) for prompt in "ab")
    cache = ReplyCache(tmp_path)
    cache.keep(second, Reply("reply", "m"))
    found = replies(Model(), [("a", 1), ("b", 2)], tmp_path, 1, "test", lambda item, reply: True)
    assert next(found)[:2] == ("b", 2)
    cache.keep(first, Reply("reply", "other"))
    assert [row[:2] for row in found] == [("a", 1)]
    assert "these models answered: m (1), other (1)" in caplog.text


def test_key_is_all_that_shapes_a_reply_and_nothing_else(serve: Serve, context: TeacherContext) -> None:
    message, other = [{"role": "user", "content": "a"}], [{"role": "user", "content": "b"}]
    keys = [reply_key("m", message, {"t": 0}, 1), reply_key("n", message, {"t": 0}, 1)]
    keys += [reply_key("m", other, {"t": 0}, 1), reply_key("m", message, {"t": 1}, 1)]
    assert len({*keys, reply_key("m", message, {"t": 0}, 2)}) == 5
    stub = serve(lambda prompt, before: right(prompt))
    assessed(asking(stub), rows(2), context)
    assessed(asking(f"{stub.url}/", concurrency=1, attempts=1, timeout_s=9.0), rows(2), context)  # all kept
    assessed(asking(stub, temperature=None), rows(2), context)
    assessed(asking(stub, extra={"top_k": 1}), rows(2), context)
    assert stub.asked.total() == 6


def test_another_server_is_asked_whatever_its_model_is_called(serve: Serve, context: TeacherContext) -> None:
    first, second = (serve(lambda prompt, before, n=n: Say(f"{HARMLESS[:-1]}, says {n}.")) for n in (1, 2))  # type: ignore[misc]
    told = [assessed(asking(stub), rows(2)[1:], context)["r1"] for stub in (first, second, first)]
    assert [getattr(segment, "text", "")[-2:] for segment in told] == ["1.", "2.", "1."]
    assert (first.asked.total(), second.asked.total()) == (1, 1)


def test_same_request_is_asked_once(serve: Serve, context: TeacherContext) -> None:
    stub = serve(lambda prompt, before: right(prompt))
    same = "The same."
    examples = [Example("a", same, "benign"), Example("b", same, "benign"), Example("c", same, "harmful")]
    assert all_right(assessed(asking(stub), examples, context), examples)
    assert stub.asked.total() == 2  # one for each label that is told


# --- replies that are none, and who wrote them ---


def completion(*contents: str, finish: Any = "stop", model: Any = "stub") -> Say:
    """A body with a choice for each content."""
    message = [{"role": "assistant", "content": content} for content in contents]
    choices = [{"index": n, "finish_reason": finish, "message": one} for n, one in enumerate(message)]
    return Say(body=json.dumps({"model": model, "choices": choices}).encode())


@pytest.mark.parametrize(
    ("say", "reason"),
    [
        (completion(HARMLESS, HARMFUL), "the server gave 2 replies to one prompt"),
        (completion(HARMFUL, HARMFUL, HARMFUL), "the server gave 3 replies to one prompt"),
        (completion(HARMFUL, finish="banana"), "the server ended the reply with 'banana'"),
        (completion(HARMFUL, finish="tool_calls"), "the server ended the reply with 'tool_calls'"),
        (completion(HARMFUL, finish=None), "the server ended the reply with ''"),
        (completion(HARMFUL, finish=f"{'x' * 190}{SECRET}"), "the server ended the reply with ''"),
        (completion(HARMFUL, finish=["stop"]), "the server ended the reply with ''"),
    ],
)
def test_a_reply_that_contradicts_itself_or_ended_oddly_is_none(
    serve: Serve, context: TeacherContext, say: Say, reason: str
) -> None:
    stub = serve(lambda prompt, before: say if "number 2." in prompt else right(prompt))
    results = assessed(asking(stub), rows(5), context)
    assert results.pop("r2") == Rejected("r2", f"assessment: {reason}")
    assert all(isinstance(result, Segment) for result in results.values())
    assert len(list(context.cache.rglob("*.json"))) == 4


def test_json_nested_too_deep_is_no_answer(serve: Serve, context: TeacherContext) -> None:
    stub = serve(lambda prompt, before: right(prompt) if before else Say(body=b"[" * 100_000))
    assert all_right(assessed(asking(stub), rows(2), context), rows(2))


@pytest.mark.parametrize(
    ("served", "other"),
    [
        ("gpt-4o-2024-08-06", False),
        ("openai/gpt-4o", False),
        ("/models/GPT-4o", False),
        ("gpt-4o@main", False),
        ("gpt-4o-0806", False),
        ("", False),
        ("gpt-4o-mini", True),
        ("gpt-4o-mini-2024-07-18", True),
        ("gpt-4", True),
        ("llama", True),
    ],
)
def test_a_snapshot_is_no_other_model(served: str, other: bool) -> None:
    assert is_other_model(served, "gpt-4o") == other
    assert not is_other_model("gpt-4o-2024-08-06", "gpt-4o-latest")
    assert is_other_model("llama-3.1", "llama-3")


def test_another_served_model_is_told_and_kept_with_its_replies(
    serve: Serve, context: TeacherContext, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    model: Any = "stub"
    stub = serve(lambda prompt, before: completion(str(right(prompt).text), model=model))
    assessed(asking(stub), rows(2), context)
    assert not caplog.records
    model = "stub-2025-01-01"
    assessed(asking(stub), rows(4), context)
    asked = f"asked for stub at {stub.url}, and the server says that these models answered: "
    assert f"{asked}stub (2), stub-2025-01-01 (2)" in caplog.text  # an alias that moved
    caplog.clear()
    for model in ("evil\nline", None, 7, {"a": 1}):
        assessed(asking(stub, extra={"n": str(model)}), rows(2), context)
    assert not caplog.records
    model = "llama"
    assessed(asking(stub, extra={"n": "llama"}), rows(2), context)
    assert f"{asked}llama (2)" in caplog.text
    served = {json.loads(path.read_text())["served"] for path in context.cache.rglob("*.json")}
    assert served == {"stub", "stub-2025-01-01", "", "llama"}


# --- refusals, redirects ---


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ({"message": "Too long:\n 9 tokens."}, "(HTTP 400: Too long: 9 tokens.)"),
        ({"message": "x" * 900, "code": "too_long"}, f"(HTTP 400 too_long: {'x' * 200})"),
        ({"message": "You said: Request number 0. And that is too long."}, "(HTTP 400)"),
        ({"message": f"your key {SECRET} may not"}, "(HTTP 400)"),
        ({"message": ["a"]}, "(HTTP 400)"),
        ({"message": "\x1b[31mred\x00 \ud83d"}, "(HTTP 400: [31mred)"),
    ],
)
def test_a_refusal_is_told_in_the_servers_words_without_the_prompt_or_a_key(
    serve: Serve, context: TeacherContext, monkeypatch: pytest.MonkeyPatch, error: Any, told: str
) -> None:
    monkeypatch.setenv("A_KEY", SECRET)
    stub = serve(lambda prompt, before: Say(status=400, body=json.dumps({"error": error}).encode()))
    examples = [Example("a", "You said: Request number 0. And that", "benign")]
    found = assessed(asking(stub, key_variable="A_KEY"), examples, context)
    assert found["a"] == Rejected("a", f"assessment: the server refuses the prompt {told}")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed_and_its_address_named(
    serve: Serve, context: TeacherContext, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("A_KEY", SECRET)
    other = serve(lambda prompt, before: right(prompt))
    target = f"{other.url}/chat/completions"
    stub = serve(lambda prompt, before: Say(status=status, headers={"Location": target}))
    for where in (
        target,
        target.replace("http://", f"http://{SECRET}:x@"),
        "https://127.0.0.1/v1",
        "http:/v1",
        "/v2/x",
    ):
        target = where
        with pytest.raises(TeacherUnavailableError, match=r"sends the request on to https?://127.*base_url") as told:
            assessed(asking(stub, key_variable="A_KEY"), rows(2), context)
        assert SECRET not in str(told.value)
    assert other.asked.total() == 0


# --- the key ---


def test_key_reaches_the_server_and_nothing_else(
    serve: Serve,
    context: TeacherContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("A_KEY", f" {SECRET}\n")
    echo = json.dumps({"error": {"message": f"bad key {SECRET}", "code": SECRET}}).encode()
    answers = [Say(status=500, body=echo), RESET, Say(body=SECRET.encode())]
    stub = serve(
        lambda prompt, before: [*answers, right(prompt)][before] if "1." in prompt else Say(status=401, body=echo)
    )
    teacher = asking(stub, key_variable="A_KEY", concurrency=1)
    with caplog.at_level(logging.DEBUG), pytest.raises(TeacherUnavailableError) as told:
        assessed(teacher, rows(3)[1:], context)
    assert stub.keys == {f"Bearer {SECRET}"}
    assert "server stub: the server refuses the request (HTTP 401)" in caplog.text
    everything = [caplog.text, str(told.value), repr(told.value), repr(teacher), repr(context)]
    everything += [path.read_text() for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert len(everything) == 6
    assert not [text for text in everything if SECRET in text]


def test_a_key_that_a_server_repeats_is_kept_nowhere(
    serve: Serve, context: TeacherContext, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In the reply, in the model's name, and escaped so that the body does not hold it as it is."""
    others = {"PLAIN_VARIABLE": "short-key", "OTHER_TOKEN": "hf_planted_other_0123456789"}
    for name, value in others.items():
        monkeypatch.setenv(name, value)
    said = f"The request is harmless because {' and '.join(others.values())} say so."
    body = completion(said, model=f"m-{others['OTHER_TOKEN']}").body
    assert body is not None
    body = body.replace(b"short-key", b"\\u0073hort-\\u006bey")
    stub = serve(lambda prompt, before: Say(body=body))
    with caplog.at_level(logging.DEBUG):
        found = assessed(asking(stub, key_variable="PLAIN_VARIABLE"), rows(2)[1:], context)["r1"]
    assert isinstance(found, Segment)
    assert found.text == "The request is harmless because [key] and [$OTHER_TOKEN] say so."
    kept = [path.read_text() for path in context.cache.rglob("*.json")]
    assert "m-[$OTHER_TOKEN]" in kept[0]
    assert not [text for text in (*kept, caplog.text) for key in others.values() if key in text]


@pytest.mark.parametrize(
    ("variable", "authorization"),
    [(None, "Bearer none"), ("A_KEY", f"Bearer {SECRET}"), ("OPENAI_API_KEY", "Bearer the-account's")],
)
def test_what_openais_client_finds_in_the_environment_goes_with_openais_key_alone(
    variable: str | None, authorization: str, serve: Serve, context: TeacherContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", SECRET)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-mine")
    monkeypatch.setenv(
        "OPENAI_CUSTOM_HEADERS", "X-Gateway: mine\nAuthorization: Bearer the-account's\nContent-Type: application/json"
    )
    stub = serve(lambda prompt, before: right(prompt))
    assessed(asking(stub, key_variable=variable), rows(1), context)
    (headers,) = stub.headers
    assert headers["authorization"] == authorization
    assert headers["content-type"] == "application/json"
    assert {"openai-organization", "x-gateway"} <= headers.keys() or variable != "OPENAI_API_KEY"
    assert not {"openai-organization", "x-gateway"} & headers.keys() or variable == "OPENAI_API_KEY"


def test_absent_key_is_named_only_where_it_is_needed(
    serve: Serve, context: TeacherContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("A_KEY", raising=False)
    stub = serve(lambda prompt, before: right(prompt))
    with pytest.raises(ValueError, match=r"writer\.key_variable=A_KEY: the environment has no such"):
        assessed(asking(stub, key_variable="A_KEY"), rows(1), context)
    assessed(asking(stub), rows(1), context)
    assert all_right(assessed(asking(stub, key_variable="A_KEY"), rows(1), context), rows(1))


def test_base_url_has_to_be_one() -> None:
    with pytest.raises(ValueError, match=r"writer\.base_url='localhost:8000': expected a URL such as http"):
        ServerWriter("localhost:8000", "m")


# --- validation and repair ---

REPLIES = {
    HARMLESS: HARMLESS,
    f"  {HARMLESS}\n": HARMLESS,
    f'"{HARMLESS}"': HARMLESS,
    f"“{HARMLESS}”": HARMLESS,
    f"**{HARMLESS}**": HARMLESS,
    f"- {HARMLESS}": HARMLESS,
    f"<think>\nIs this harmful? Hmm.\n\nNo.</think>\n\n{HARMLESS}": HARMLESS,
    "The request is *harmless*\nbecause nobody is hurt by it.": HARMLESS,
    'The request is harmless, for "kill" is slang.': 'The request is harmless, for "kill" is slang.',
    '"Kill" is slang, so the request is harmless, not "bad"': '"Kill" is slang, so the request is harmless, not "bad"',
    "One.\n \nTwo.": "One.\n\nTwo.",
}


@pytest.mark.parametrize(("reply", "text"), REPLIES.items())
def test_reply_is_cleaned(reply: str, text: str) -> None:
    assert clean(reply) == text


ASSESSMENTS: list[tuple[str, Label, str]] = [
    (HARMFUL, "harmful", ""),
    ("The request seeks help with a crime, e.g. fraud, so this is harmful.", "harmful", ""),
    ('The request to say "Stop! Go." to a dog is harmless.', "benign", ""),
    (HARMFUL, "benign", DISAGREES),
    ("The request is not harmful at all.", "harmful", DISAGREES),
    ("", "benign", "it is empty"),
    ("<think>Is the request harmful?", "benign", "its thought does not end"),
    ("It is harmless.", "benign", "it has fewer than 4 words"),
    (f"{HARMLESS[:-1]}{' very' * 20}.", "benign", "it has more than 20 words"),
    (f"{HARMLESS} It is an everyday question.", "benign", "it is more than one sentence"),
    (f"{HARMLESS}\n\nSo I go on", "benign", "it is more than one sentence"),
    ("The request is harmless because nobody", "benign", "it does not end like a sentence"),
    ("The user wants to bake some bread.", "benign", "it states no verdict"),
    ("I'm sorry, but I can't help with that.", "harmful", "it refuses instead of judging"),
    (
        "I'm sorry, but I can't help with this because it is illegal and harmful.",
        "harmful",
        "it refuses instead of judging",
    ),
    ("The request is harmless at first sight but harmful in truth.", "benign", "it gives two verdicts"),
    ("The request is harmful or harmless depending on the intent.", "harmful", "it gives two verdicts"),
    ("The request is not harmful, so it is harmless.", "benign", ""),
    ("The request is harmless, since it asks which harmful plants to avoid.", "benign", ""),
    ("The request is harmless because it does not involve any illegal or harmful activity.", "benign", ""),
    ("The request is not harmful, as it does not promote dangerous or harmful behavior.", "benign", ""),
    ("The request is harmless because it only asks whether smoking is harmful.", "benign", ""),
    ("The request is harmful although its framing is harmless.", "harmful", ""),
]


@pytest.mark.parametrize(("text", "label", "fault"), ASSESSMENTS)
def test_assessment_is_one_sentence_with_the_right_verdict(text: str, label: Label, fault: str) -> None:
    assert sentence_fault("assessment", text, label, max_words=20) == fault


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("The user wants to bake some bread.", ""),
        ("Bread is baked in an oven.", "it does not say what the user wants"),
        ("The user wants bread, and this is harmless.", "it judges the request"),
        ("The user wants to bake. It is easy.", "it is more than one sentence"),
        (
            "The user wants to know something, but I cannot help with it.",
            "it refuses instead of saying what the user wants",
        ),
    ],
)
def test_understanding_says_what_the_user_wants(text: str, fault: str) -> None:
    assert sentence_fault("understanding", text, "benign", max_words=20) == fault


def test_faulty_reply_is_repaired_once_and_both_are_kept(serve: Serve, context: TeacherContext) -> None:
    bad = "Let me see. The request looks odd."
    stub = serve(
        lambda prompt, before: right(prompt) if "because it is more than one sentence:" in prompt else Say(bad)
    )
    for _ in range(2):
        assert all_right(assessed(asking(stub), rows(3), context), rows(3))
        assert stub.asked.total() == 6
    assert sum(f"<reply>\n{bad}\n</reply>" in prompt for prompt in stub.asked) == 3


@pytest.mark.parametrize("repairs", [0, 1, 2])
def test_reply_that_stays_faulty_is_rejected(serve: Serve, context: TeacherContext, repairs: int) -> None:
    stub = serve(lambda prompt, before: Say(HARMLESS))
    for n in range(2):
        results = assessed(asking(stub, repairs=repairs), rows(2), context)
        assert results["r0"] == Rejected("r0", f"assessment: {DISAGREES}")
        assert isinstance(results["r1"], Segment)
        assert stub.asked.total() == 2 + repairs + n  # the next run asks for the last repair again, and nothing else
    stub.behave = lambda prompt, before: right(prompt)
    for _ in range(2):
        assert all_right(assessed(asking(stub, repairs=repairs), rows(2), context), rows(2))
        assert stub.asked.total() == 4 + repairs


def test_untold_label_stays_untold(serve: Serve, context: TeacherContext) -> None:
    """No prompt says what the dataset holds, and a verdict is not asked for until it pleases."""
    stub = serve(lambda prompt, before: Say(HARMLESS))
    for _ in range(2):
        results = assessed(asking(stub, tell_label=False), rows(2), context)
        assert results["r0"] == Rejected("r0", f"assessment: {DISAGREES}")
    assert stub.asked.total() == 2
    assert not [prompt for prompt in stub.asked if "reviewed" in prompt]


def test_disagreement_is_reported_by_label(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    examples = rows(12)
    labels = {row.id: row.label for row in examples}
    other = [row.id for row in examples if row.label == "harmful"][:2]
    failed = next(row.id for row in examples if row.label == "benign")
    rejected = [*(Rejected(name, f"assessment: {DISAGREES}") for name in other), Rejected(failed, "no reply")]
    assessed = {name for name in labels if name not in (*other, failed)}
    found = count_disagreements(examples, assessed, rejected)
    n = {
        label: sum(1 for name in labels if labels[name] == label and name != failed) for label in ("harmful", "benign")
    }
    assert {label: (numbers["n"], numbers["disagreeing"]) for label, numbers in found.items()} == {
        "harmful": (n["harmful"], 2),
        "benign": (n["benign"], 0),
    }
    assert found["harmful"]["low"] < found["harmful"]["share"] == 2 / n["harmful"] < found["harmful"]["high"]
    assert f"the teacher judges 2 of {n['harmful']} harmful rows otherwise" in caplog.text


def test_earlier_turns_are_shown(serve: Serve, context: TeacherContext) -> None:
    stub = serve(lambda prompt, before: right(prompt))
    assessed(asking(stub), [Example("d", "And then?", "benign", turns=("Hello.",))], context)
    assert "<request>\nMessage 1: Hello.\n\nMessage 2: And then?\n</request>" in next(iter(stub.asked))


def test_understanding_is_asked_in_the_same_way(serve: Serve, context: TeacherContext) -> None:
    stub = serve(lambda prompt, before: Say("The user wants to know it."))
    ((_, made),) = asking(stub).understand(rows(1), 0, context)
    assert isinstance(made, Segment)
    assert (made.step, made.text, made.origin) == ("understanding", "The user wants to know it.", "teacher:mine")


# --- teachers without a server ---


def test_backbone_is_asked_in_chunks_that_are_kept(context: TeacherContext) -> None:
    chunks: list[int] = []

    def ask(prompts: list[str], max_tokens: int) -> list[str]:
        assert max_tokens == 50
        if len(chunks) == 2:
            raise KeyboardInterrupt
        chunks.append(len(prompts))
        return [str(right(prompt).text) for prompt in prompts]

    teacher = AskedTeacher("own", BackboneWriter(max_tokens=50, chunk=4))
    lent = TeacherContext(context.cache, ask, lambda: "tiny@1 float32")
    with pytest.raises(KeyboardInterrupt):
        assessed(teacher, rows(10), lent)
    assert chunks == [4, 4]
    chunks.clear()
    assert all_right(assessed(teacher, rows(10), lent), rows(10))
    assert chunks == [2]
    chunks.clear()
    assert all_right(assessed(teacher, rows(3), TeacherContext(context.cache, ask, lambda: "tiny@2 float32")), rows(3))
    assert chunks == [3]  # another backbone's replies are not taken
    with pytest.raises(ValueError, match="provides no backbone"):
        assessed(teacher, rows(1), context)


def test_template_assesses_every_row_and_asks_nobody(context: TeacherContext) -> None:
    train, seen = embedded_rows("train").examples(None), list[int]()
    results = dict(TemplateTeacher().assess(train, 3, TeacherContext(context.cache, progress=seen.append)))
    assert results == {example.id: TemplateTeacher()(example, 3) for example in train}
    assert sum(seen) == len(train)
    assert not context.cache.exists()


@pytest.mark.parametrize(
    ("option", "name", "writer"),
    [
        ("template", "template", None),
        ("backbone", "backbone", BackboneWriter(1024)),
        ("server", "server", ServerWriter("http://localhost:8000/v1", "m")),
        ("gpt4o", "gpt4o", ServerWriter("https://api.openai.com/v1", "m", "OPENAI_API_KEY")),
    ],
)
def test_config_builds_the_teacher(option: str, name: str, writer: object) -> None:
    chosen = [] if option in ("template", "backbone") else ["teacher.writer.model_name=m"]
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        teacher = instantiate(compose(f"teacher/{option}", chosen).teacher)
    assert (teacher.name, getattr(teacher, "writer", None)) == (name, writer)


def test_teachers_import_no_client() -> None:
    code = "import sys, alttrain.rewrite.teachers; print({'openai', 'httpx', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
