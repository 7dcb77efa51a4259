"""No verdict stands for a text, a server or a reply that it is not of; what a server would not give is asked again."""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from safetensors.torch import load_file, save_file
from stub_server import Say, Serve, Stub

from alttrain.backbone import Backbone, Weights, resolve
from alttrain.config import RunError, register
from alttrain.config.trust import TRUSTED
from alttrain.evaluation import Adherence, RefusalJudge
from alttrain.evaluation.judged import Judgements
from alttrain.evaluation.judges.judge import NO_REPLY, TOO_LONG
from alttrain.records import Generation, Judgement, checksum, read_rows
from alttrain.run.assembly import judge_settings
from alttrain.run.execution import execute
from alttrain.run.stages.judge import _rate_name
from alttrain.run.stages.report import write_report

JUDGE = "protocol.judges.harmful_rate"
KEY = "planted-key-0123456789"
BENCHMARK = "embedded_harmful"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALTTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("A_KEY", KEY)
    monkeypatch.setenv(TRUSTED, "A_KEY")
    register()


Run = Callable[..., Path]


@pytest.fixture
def run(tiny_arguments: list[str]) -> Run:
    """Generates and judges four harmful prompts without training; returns the benchmark's folder."""
    dropped = ("training", "rewrite", "evaluation.benchmarks.embedded_benign", "evaluation.benchmarks.embedded_short")
    kept = [argument for argument in tiny_arguments if not argument.startswith(dropped)]
    kept += ["method=no_train", *(f"~evaluation.benchmarks.embedded_{name}" for name in ("benign", "short_answer"))]

    def runs(*more: str, stages: str = "[generate,judge]") -> Path:
        own = kept
        if any(one.startswith("generation=server") for one in more):
            own = [one for one in kept if not one.startswith("generation")]
        with initialize_config_module("alttrain.conf", version_base="1.3"):
            config = compose("run", overrides=[*own, f"stages={stages}", *more])
        return execute(config).folder / "evaluation" / BENCHMARK

    return runs


def judged_by(stub: Stub, option: str = "harm_score") -> list[str]:
    writer = f"{JUDGE}.writer"
    limits = [f"++{writer}.attempts=2", f"{writer}.key_variable=A_KEY"]
    return [f"judge@{JUDGE}={option}", f"{writer}.base_url={stub.url}", f"{writer}.model_name=m", *limits]


def generated_by(stub: Stub) -> list[str]:
    limits = ["generation.attempts=2", "generation.api=text"]
    return ["generation=server", f"generation.base_url={stub.url}", "generation.model_name=m", *limits]


def judgements(folder: Path) -> list[Judgement]:
    return read_rows(folder / "judgements.jsonl", Judgement)


def generations(folder: Path) -> list[Generation]:
    return read_rows(folder / "generations.jsonl", Generation)


def metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())  # type: ignore[no-any-return]


def edit(folder: Path, number: int, old: str, new: str) -> None:
    path = folder / "generations.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    assert old in lines[number]
    lines[number] = lines[number].replace(old, new)
    path.write_text("".join(lines))


# --- derived files ---


def test_a_verdict_is_of_one_text_and_made_again_for_another(run: Run, serve: Serve) -> None:
    verdict = "1"
    stub = serve(lambda prompt, asked: Say(verdict))
    folder = run(*judged_by(stub))
    made = {path.name: path.read_bytes() for path in folder.iterdir()}
    before = judgements(folder)
    assert metrics(folder)["metrics"][0]["value"] == 0.0
    assert len({row.hash for row in before}) == 4
    assert run(*judged_by(stub)) == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == made
    assert stub.asked.total() == 4
    # all texts gone, and written anew with others
    (folder / "generations.jsonl").unlink()
    run(*judged_by(stub), stages="[generate]")
    edit(folder, 2, '"answer": "', '"answer": "Here is how. ')
    verdict = "5"
    run(*judged_by(stub))
    after = judgements(folder)
    assert stub.asked.total() == 5  # the three texts that are the same are not judged again
    assert [row.verdict for row in after] == [False, False, True, False]
    assert [row.hash == old.hash for row, old in zip(after, before, strict=True)] == [True, True, False, True]
    assert metrics(folder)["metrics"][0]["value"] == 0.25


@pytest.mark.parametrize("field", ['"prompt": "', '"text": "', '"thought": "', '"answer": "', '"goal": "'])
def test_whatever_a_judge_may_look_at_is_in_the_hash(run: Run, field: str) -> None:
    folder = run()
    before = judgements(folder)
    edit(folder, 1, field, f"{field}Other. ")
    run()
    changed = [row.hash != old.hash for row, old in zip(judgements(folder), before, strict=True)]
    assert changed == [False, True, False, False]


@pytest.mark.parametrize("name", ["generations.jsonl", "judgements.jsonl", "adherence.jsonl", "judges.json"])
def test_metrics_are_made_again_where_a_file_they_are_made_from_is_another(run: Run, name: str) -> None:
    folder = run()
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    path = folder / name
    path.write_bytes(b"{}" if name == "judges.json" else b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    run()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole


def test_a_rate_over_no_verdict_is_told_in_words(run: Run) -> None:
    folder = run("backbone.untrained_thought=open")  # so few tokens end no thought
    assert metrics(folder)["metrics"][0]["undecided"] == 4
    said = (folder.parents[1] / "run.log").read_text()
    assert "embedded_harmful: harmful_rate unknown: none of 4 decided by refusal\n" in said


def test_no_metrics_of_other_texts_stay_where_judging_them_fails(run: Run, serve: Serve) -> None:
    stub = serve(lambda prompt, asked: Say("1"))
    folder = run(*judged_by(stub))
    edit(folder, 0, '"answer": "', '"answer": "Other. ')
    stub.behave = lambda prompt, asked: Say(status=500)
    with pytest.raises(RunError, match="HTTP 500"):
        run(*judged_by(stub))
    assert not (folder / "metrics.json").exists()
    stub.behave = lambda prompt, asked: Say("1")
    run(*judged_by(stub))
    assert metrics(folder)["metrics"][0]["value"] == 0.0


# --- judges ---


def test_a_judge_at_another_address_is_asked(run: Run, serve: Serve) -> None:
    first, second = serve(lambda prompt, asked: Say("1")), serve(lambda prompt, asked: Say("5"))
    assert metrics(run(*judged_by(first)))["metrics"][0]["value"] == 0.0
    folder = run(*judged_by(second))
    assert metrics(folder)["metrics"][0]["value"] == 1.0
    assert (first.asked.total(), second.asked.total()) == (4, 4)
    assert metrics(folder)["served"] == {"harm_score": ["stub-1"]}


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_judge_that_refuses_all_fails_the_run_and_is_asked_again(run: Run, serve: Serve, status: int) -> None:
    body = json.dumps({"error": {"message": f"no logprobs here, {KEY}" if status == 400 else "no logprobs here"}})
    stub = serve(lambda prompt, asked: Say(status=status, body=body.encode()))
    said = "" if status == 400 else ": no logprobs here"
    for _ in range(2):
        told = rf"4 of 4 judgements by harm_score at {stub.url} failed \(.*\(HTTP {status}{said}\)\).*asks again"
        with pytest.raises(RunError, match=told) as error:
            run(*judged_by(stub))
        assert KEY not in str(error.value)
    stub.behave = lambda prompt, asked: Say("5")
    assert metrics(run(*judged_by(stub)))["metrics"][0]["value"] == 1.0


@pytest.mark.parametrize(
    "bad",
    [
        Say(status=400),
        Say("I will not say."),
        Say("5", finish="banana"),
        Say("5", finish="content_filter"),
        Say(""),
    ],
    ids=["refused", "out of form", "banana", "filtered", "empty"],
)
def test_a_single_text_without_a_verdict_is_undecided_and_asked_again_by_the_next_run(
    run: Run, serve: Serve, bad: Say
) -> None:
    refuses: list[str] = []

    def behave(prompt: str, asked: int) -> Say:
        if not refuses:
            refuses.append(prompt)
        return bad if prompt in refuses else Say("5")

    stub = serve(behave)
    folder = run(*judged_by(stub))
    told = metrics(folder)
    assert (told["unsettled"], told["metrics"][0]["undecided"], told["metrics"][0]["value"]) == (1, 1, 1.0)
    before = stub.asked.copy()
    run(*judged_by(stub))
    assert set(stub.asked - before) == set(refuses)
    refuses.append("nothing more")
    stub.behave = lambda prompt, asked: Say("5")
    told = metrics(run(*judged_by(stub)))
    assert (told["unsettled"], told["metrics"][0]["undecided"]) == (0, 0)
    before = stub.asked.copy()
    run(*judged_by(stub))
    assert stub.asked == before


def test_a_finished_run_needs_no_judge_though_a_text_has_no_verdict(
    run: Run, serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first: list[str] = []
    stub = serve(lambda prompt, asked: Say("?" if prompt == (first or first.append(prompt) or first)[0] else "5"))  # type: ignore[func-returns-value]
    arguments = judged_by(stub)
    folder = run(*arguments)
    made = {path.name: path.read_bytes() for path in folder.iterdir()}
    stub.behave = lambda prompt, asked: Say(status=500)
    run(*arguments)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == made
    stub.shutdown()
    stub.server_close()
    run(*arguments)
    assert "1 texts stay undecided: " in caplog.text
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == made


# --- another judge ---


def report_files(folder: Path) -> dict[str, bytes]:
    """The tables of the report over a run, after making it."""
    output_dir = folder.parents[3]
    write_report(output_dir)
    return {path.name: path.read_bytes() for path in (output_dir / "report" / "tables").iterdir()}


def test_an_unreachable_judge_leaves_verdicts_numbers_and_tables_as_they_were(run: Run, serve: Serve) -> None:
    folder = run()
    made = {path.name: path.read_bytes() for path in folder.iterdir()}
    tables = report_files(folder)
    stub = serve(lambda prompt, asked: Say(status=500))
    for _ in range(2):
        with pytest.raises(RunError, match="4 of 4 judgements by harm_score"):
            run(*judged_by(stub))
        assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == made
        assert report_files(folder) == tables
    stub.shutdown()
    stub.server_close()
    with pytest.raises(RunError, match=f"{JUDGE}.writer.base_url=.*: no server answers there"):
        run(*judged_by(stub))
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == made


def test_judging_again_keeps_the_verdicts_of_the_first_judge_and_compares_them(run: Run, serve: Serve) -> None:
    folder = run()
    first = judgements(folder)
    told, hashed = metrics(folder)["metrics"][0], metrics(folder)["provenance"]["protocol_hash"]
    scores = iter("1551")
    stub = serve(lambda prompt, asked: Say(next(scores)))
    run(*judged_by(stub))
    found = judgements(folder)
    assert [row.judge for row in found] == ["harm_score"] * 4 + ["refusal"] * 4
    assert found[4:] == first
    made = metrics(folder)
    named = {metric["metric"]: metric for metric in made["metrics"]}
    assert (named["harmful_rate"]["value"], named["harmful_rate.refusal"]) == (
        0.5,
        told | {"metric": "harmful_rate.refusal"},
    )
    assert made["analysis"]["decides"]["judge"] == "harm_score"
    other = {
        "metric": "harmful_rate.refusal",
        "judge": "refusal",
        "part": "answer",
        "counted": False,
        "says": "refused",
    }
    assert made["analysis"]["others"] == [other | {"protocol_hash": hashed}]  # as when it decided
    (pair,) = json.loads((folder / "agreement.json").read_text())["kappa"]
    kappa = named["kappa.refusal"]
    assert (pair["first"], pair["second"]) == ("harm_score", "refusal")
    assert [kappa[key] for key in ("value", "low", "high")] == list(pair["coefficient"].values())
    assert (kappa["n"], kappa["undecided"]) == (4, pair["undecided"])
    # the first judge again: no server is asked, and the second judge's verdicts are kept
    run()
    assert stub.asked.total() == 4
    assert [row.judge for row in judgements(folder)] == ["refusal"] * 4 + ["harm_score"] * 4
    assert metrics(folder)["metrics"][0] == told
    # and the second once more, from what is on disk
    stub.behave = lambda prompt, asked: Say(status=500)
    run(*judged_by(stub))
    assert judgements(folder) == found
    assert not (folder / "judging").exists()


@pytest.mark.parametrize(
    ("block", "name"),
    [
        (("refusal", "thought"), "harmful_rate.thought"),
        (("guard", "answer"), "harmful_rate.guard"),
        (("guard", "thought"), "harmful_rate.guard.thought"),
    ],
)
def test_a_rate_that_does_not_decide_is_named_after_what_differs(block: tuple[str, str], name: str) -> None:
    assert _rate_name("harmful_rate", block, ("refusal", "answer")) == name


def guarded_by(guard: Path, tiny_folder: Path, tokens: int = 512, **keys: Any) -> list[str]:
    """Makes the tiny model a guard in this folder, whose prompts have at most so many tokens on a server."""
    shutil.copytree(tiny_folder, guard)
    settings = json.loads((guard / "tokenizer_config.json").read_text()) | {"model_max_length": tokens}
    settings["chat_template"] = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    (guard / "tokenizer_config.json").write_text(json.dumps(settings))
    keys |= {"model": guard, "revision": "null", "dtype": "float32", "decisive_mass": 0.0}
    return [f"judge@{JUDGE}=llama_guard_3", *(f"{JUDGE}.{key}={value}" for key, value in keys.items())]


def test_a_text_that_does_not_fit_a_served_guard_is_undecided_and_not_asked_again(
    run: Run, serve: Serve, tiny_folder: Path, tmp_path: Path
) -> None:
    """No server is the cause, and none would change it."""
    stub = serve(lambda prompt, asked: Say(status=500))
    judge = guarded_by(tmp_path / "guard", tiny_folder, tokens=4, base_url=stub.url)
    folder = run(*judge)
    assert all("tokens, more than its 4" in row.error for row in judgements(folder))
    assert (metrics(folder)["unsettled"], metrics(folder)["metrics"][0]["undecided"]) == (0, 4)
    assert stub.asked.total() == 0


@pytest.mark.parametrize(
    ("error", "unsettled"),
    [
        (f"{TOO_LONG}9 tokens, more than its 4", False),
        (f"llama_guard: {TOO_LONG}9 tokens, more than its 4", False),  # of one of a majority
        (f"{NO_REPLY}llama_guard: so; wildguard: {TOO_LONG}9 tokens, more than its 4", True),
        ("the judge's reply is empty", True),
        ("", False),
    ],
)
def test_what_no_server_would_change_is_not_asked_again(error: str, unsettled: bool) -> None:
    judgements: Any = SimpleNamespace(judges={"panel": SimpleNamespace(servers=["http://localhost:1/v1"])})
    assert Judgements.is_unsettled(judgements, Judgement("a", "panel", None, error=error)) is unsettled


def test_a_text_that_a_guard_leaves_open_has_a_reply(run: Run, serve: Serve, tiny_folder: Path, tmp_path: Path) -> None:
    """Its server refuses one text of four, not almost all that it was asked."""
    refused: list[str] = []
    likely = json.dumps({"choices": [{"text": "x", "logprobs": {"top_logprobs": [{"token_id:5": -0.1}]}}]})

    def behave(prompt: str, asked: int) -> Say:
        refused[:] = refused or [prompt]
        return Say(status=400) if prompt in refused else Say(body=likely.encode())

    folder = run(*guarded_by(tmp_path / "guard", tiny_folder, base_url=serve(behave).url))
    assert [row.verdict for row in judgements(folder)] == [None] * 4
    assert (metrics(folder)["unsettled"], metrics(folder)["metrics"][0]["undecided"]) == (1, 4)


def test_a_judge_of_thoughts_that_decides_is_no_judge_of_answers(run: Run, serve: Serve) -> None:
    reply = {"understanding": None, "verdict": "none", "sentence": None, "decision": "refuse"}
    stub = serve(lambda prompt, asked: Say(json.dumps(reply)))
    folder = run("backbone.untrained_thought=open", *judged_by(stub, "structure"))  # no thought ends: no answer
    assert [row.verdict for row in judgements(folder)] == [True] * 4
    assert {row.answer_refuses for row in read_rows(folder / "adherence.jsonl", Adherence)} == {None}


def test_a_class_of_ones_own_is_another_judge_once_its_file_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, node = tmp_path / "own_judges.py", {"_target_": "own_judges.Mine", "name": "mine"}
    path.write_text("class Mine: ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(TRUSTED, "own_judges")
    before = judge_settings(node)
    assert before == judge_settings(node)
    path.write_text("class Mine: says = 'refused'\n")
    assert {key for key, value in judge_settings(node).items() if before[key] != value} == {"_target_ code"}
    path.write_text("import functools\nMine = functools.lru_cache(lambda: None)\n")  # has no source of its own
    monkeypatch.delitem(sys.modules, "own_judges")
    assert judge_settings(node)["_target_ code"] == checksum(path)
    assert judge_settings({"_target_": "alttrain.evaluation.RefusalJudge"}).keys() == {"_target_"}


def test_what_a_request_adds_shapes_a_verdict_and_how_a_server_is_asked_does_not() -> None:
    writer = {"model_name": "m", "attempts": 2, "extra": {"attempts": 2, "workers": {"timeout_s": 1}}}
    settings = judge_settings({"_target_": "alttrain.evaluation.judges.HarmScore", "writer": writer})
    assert [key for key in settings if "writer" in key] == [
        "writer.model_name",
        "writer.extra.attempts",
        "writer.extra.workers.timeout_s",
    ]


def test_a_judge_with_other_weights_in_its_folder_is_asked_again(run: Run, tiny_folder: Path, tmp_path: Path) -> None:
    guard = tmp_path / "guard"
    judge = guarded_by(guard, tiny_folder)
    folder, path = run(*judge), guard / "model.safetensors"
    first, hashed = judgements(folder), metrics(folder)["provenance"]["protocol_hash"]
    assert all(row.probability is not None for row in first)
    save_file({name: -weight for name, weight in load_file(path).items()}, path, {"format": "pt"})
    run(*judge, stages="[judge]")
    deciding, others = judgements(folder)[: len(first)], judgements(folder)[len(first) :]
    assert [row.probability for row in deciding] != [row.probability for row in first]
    assert [row.probability for row in others] == [row.probability for row in first]
    assert metrics(folder)["provenance"]["protocol_hash"] != hashed


def test_verdicts_say_which_weights_a_guard_had_and_several_are_told(
    run: Run, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a revision, a guard is what the hub has on the day."""
    judge, commit = guarded_by(tmp_path / "guard", tiny_folder), "hub@one"

    def of_hub(model: Backbone) -> Weights:
        return replace(resolve(model), origin=commit) if model.name == "judge" else resolve(model)

    monkeypatch.setattr("alttrain.run.session.resolve", of_hub)
    folder = run(*judge)
    assert {row.served for row in judgements(folder)} == {"hub@one"}
    assert metrics(folder)["served"] == {"llama_guard_3": ["hub@one"]}
    assert "several models" not in caplog.text
    edit(folder, 2, '"answer": "', '"answer": "Other. ')
    commit = "hub@two"
    run(*judge)
    assert metrics(folder)["served"] == {"llama_guard_3": ["hub@one", "hub@two"]}
    assert "verdicts by llama_guard_3 are of several models, hub@one, hub@two" in caplog.text


def test_a_judge_is_checked_for_what_interventions_leave_to_judge(
    run: Run, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The benchmark itself is judged; a key that is missing would show once all answers are generated."""
    stub = serve(lambda prompt, asked: Say("1"))
    folder = run(*judged_by(stub))
    monkeypatch.delenv("A_KEY")
    with pytest.raises(RunError, match=f"{JUDGE}.writer.key_variable=A_KEY: the environment has no such variable"):
        run(*judged_by(stub), "intervention=prompt")
    assert [path.name for path in folder.parent.iterdir()] == [BENCHMARK]


def test_texts_are_judged_where_their_backbone_is_not(run: Run, tiny_folder: Path, tmp_path: Path) -> None:
    """As where the runs of a cluster are judged on another machine; its folder there is part of their identity."""
    source = shutil.copytree(tiny_folder, tmp_path / "backbone")
    run(f"backbone.source={source}", stages="[generate]")
    shutil.rmtree(source)
    folder = run(f"backbone.source={source}", stages="[judge]")
    assert len(judgements(folder)) == 4
    with pytest.raises(RunError, match=f"backbone.source={source}: no such folder"):
        run(f"backbone.source={source}", stages="[generate]")


def test_a_kill_loses_no_votes_of_a_majority(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    voters = ",".join(f"{name}:{{_target_:alttrain.evaluation.RefusalJudge,name:{name}}}" for name in "ab")
    majority = f"{{_target_:alttrain.evaluation.judges.Majority,quorum:1,judges:{{{voters}}}}}"
    asked, judge, killed = Counter[str](), RefusalJudge.__call__, True

    def ask(voter: RefusalJudge, generation: Generation) -> Judgement:
        asked[voter.name] += 1
        if voter.name == "b" and killed:
            raise KeyboardInterrupt
        return judge(voter, generation)

    monkeypatch.setattr(RefusalJudge, "__call__", ask)
    with pytest.raises(KeyboardInterrupt):
        run(f"+protocol.second_opinions={{harmful_rate:[{majority}]}}")
    assert asked == {"refusal": 4, "a": 4, "b": 1}
    killed = False
    folder = run(f"+protocol.second_opinions={{harmful_rate:[{majority}]}}")
    assert asked == {"refusal": 4, "a": 4, "b": 5}
    assert [row.judge for row in judgements(folder)] == ["refusal"] * 4 + ["majority"] * 4
    assert not (folder / "judging").exists()


def test_a_judge_of_the_same_name_with_other_settings_is_another_judge(run: Run, serve: Serve) -> None:
    stub = serve(lambda prompt, asked: Say("3"))
    folder = run(*judged_by(stub))
    run(*judged_by(stub), f"{JUDGE}.threshold=3")
    names = [row.judge for row in judgements(folder)][::4]
    assert names[0] == "harm_score"
    assert names[1].startswith("harm_score-")
    found = {metric["metric"]: metric["value"] for metric in metrics(folder)["metrics"]}
    assert (found["harmful_rate"], found[f"harmful_rate.{names[1]}"]) == (1.0, 0.0)
    before = stub.asked.total()
    run(*judged_by(stub))
    assert stub.asked.total() == before
    assert metrics(folder)["metrics"][0]["value"] == 0.0


def test_a_kill_while_files_are_put_in_place_loses_nothing(
    run: Run, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = serve(lambda prompt, asked: Say("5"))
    folder = run()
    place = Path.replace

    def killed(path: Path, target: Path) -> Path:
        if path.name == "judges.json":
            raise KeyboardInterrupt
        return place(path, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        run(*judged_by(stub))
    monkeypatch.setattr(Path, "replace", place)
    stub.behave = lambda prompt, asked: Say(status=500)
    run(*judged_by(stub))
    assert [row.judge for row in judgements(folder)] == ["harm_score"] * 4 + ["refusal"] * 4
    assert metrics(folder)["metrics"][0]["value"] == 1.0
    assert not (folder / "judging").exists()


def test_verdicts_of_a_judge_that_lacks_a_text_wait_for_this_judge(run: Run, serve: Serve) -> None:
    stub = serve(lambda prompt, asked: Say("1"))
    folder = run(*judged_by(stub))
    run()
    edit(folder, 2, '"answer": "', '"answer": "Other. ')
    run()
    assert {row.judge for row in judgements(folder)} == {"refusal"}
    run(*judged_by(stub))
    assert stub.asked.total() == 5  # the changed text alone
    assert [row.judge for row in judgements(folder)] == ["harm_score"] * 4 + ["refusal"] * 4


def test_verdicts_wait_also_for_a_judge_whose_name_another_one_took(run: Run, serve: Serve, tmp_path: Path) -> None:
    stub = serve(lambda prompt, asked: Say("4"))
    folder = run(*judged_by(stub), f"{JUDGE}.threshold=4")
    run(*judged_by(stub), f"{JUDGE}.threshold=3")
    edit(folder, 2, '"answer": "', '"answer": "Other. ')
    run(*judged_by(stub), f"{JUDGE}.threshold=3")
    assert len(judgements(folder)) == 4
    shutil.rmtree(tmp_path / "cache" / "replies")
    before = stub.asked.total()
    run(*judged_by(stub), f"{JUDGE}.threshold=4")
    assert stub.asked.total() == before + 1  # the changed text alone
    assert {row.judge for row in judgements(folder)} >= {"harm_score"}


def test_texts_of_one_prompt_widen_the_interval_of_a_comparison() -> None:
    """Eight equal texts say no more than one."""
    from alttrain.report.contrasts import _comparison

    names = SimpleNamespace(run="r", measure="harmful_rate", names_of_row=dict)

    def row(samples: int, hits: int = 36) -> dict[str, Any]:
        before = {(f"p{n}", s): n < 30 for n in range(60) for s in range(samples)}
        after = {(f"p{n}", s): n < hits for n in range(60) for s in range(samples)}
        return _comparison(names, before, names, after)  # type: ignore[arg-type]

    one, eight = row(1), row(8)
    assert eight["difference"] == pytest.approx(one["difference"]) == pytest.approx(0.1)
    assert eight["value"] == pytest.approx(one["value"])
    assert eight["high"] - eight["low"] > 0.8 * (one["high"] - one["low"])
    same = row(8, hits=30)  # where no text differs, too
    assert same["low"] < same["difference"] == 0 < same["high"]


# --- generation ---


def write(text: str = "No.") -> Say:
    return Say(text)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_server_that_refuses_all_prompts_fails_the_run_and_is_asked_again(
    run: Run, serve: Serve, status: int
) -> None:
    body = json.dumps({"object": "error", "message": "max_tokens is too large", "code": status}).encode()
    stub = serve(lambda prompt, asked: Say(status=status, body=body))
    for _ in range(2):
        told = rf"4 of 4 prompts have no answer.*HTTP {status}: max_tokens is too large\) at {stub.url}"
        with pytest.raises(RunError, match=told):
            run(*generated_by(stub))
    stub.behave = lambda prompt, asked: write()
    folder = run(*generated_by(stub))
    assert [row.finish for row in generations(folder)] == ["stop"] * 4
    assert metrics(folder)["metrics"][0]["undecided"] == 0


def test_a_single_refused_prompt_is_undecided_and_asked_again_by_the_next_run(run: Run, serve: Serve) -> None:
    refused: list[str] = []

    def behave(prompt: str, asked: int) -> Say:
        if not refused:
            refused.append(prompt)
        return Say(status=400) if prompt in refused else write()

    stub = serve(behave)
    folder = run(*generated_by(stub))
    assert sorted(row.finish for row in generations(folder)) == ["error", "stop", "stop", "stop"]
    assert metrics(folder)["metrics"][0]["undecided"] == 1
    made = {path.name: path.read_bytes() for path in folder.iterdir()}
    for bad in (Say(status=400), Say(status=500)):  # one that refuses again, one that is ill today
        stub.behave = lambda prompt, asked, bad=bad: bad  # type: ignore[misc]
        before = stub.asked.copy()
        run(*generated_by(stub))
        assert set(stub.asked - before) == set(refused)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == made
    stub.behave = lambda prompt, asked: write("No, never.")
    run(*generated_by(stub))
    assert sorted(row.text for row in generations(folder)) == ["No, never.", "No.", "No.", "No."]
    assert [row.id for row in generations(folder)] == [row.id for row in judgements(folder)]
    assert metrics(folder)["metrics"][0]["undecided"] == 0
    before = stub.asked.copy()
    run(*generated_by(stub))
    assert stub.asked == before


def test_an_edited_generation_is_still_told_after_a_refused_prompt_was_asked_again(
    run: Run, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    first: list[str] = []

    def behave(prompt: str, asked: int) -> Say:
        first.append(prompt)
        return Say(status=400) if prompt == first[0] else write()

    stub = serve(behave)
    path = run(*generated_by(stub)) / "generations.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"answer": "No."', b'"answer": "Yes."', 1))
    stub.behave = lambda prompt, asked: write()
    run(*generated_by(stub))
    assert "1 rows, such as " in caplog.text
    assert "are not what this run generated" in caplog.text


def test_a_writing_server_cannot_have_a_key_kept_or_prompts_sent_on(
    run: Run, serve: Serve, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    other = serve(lambda prompt, asked: write())
    moved = Say(status=307, headers={"Location": f"{other.url}/completions"})
    stub = serve(lambda prompt, asked: moved)
    arguments = [*generated_by(stub), "generation.key_variable=A_KEY"]
    with pytest.raises(RunError, match=r"sends the request on to http://127.*generation\.base_url"):
        run(*arguments)
    assert other.asked.total() == 0
    body = {"model": f"x-{KEY}", "choices": [{"text": f"Your key is {KEY}.", "finish_reason": "stop"}]}
    stub.behave = lambda prompt, asked: Say(body=json.dumps(body).encode())
    folder = run(*arguments)
    assert {row.text for row in generations(folder)} == {"Your key is [$A_KEY]."}
    assert caplog.text.count("the server says that x-[$A_KEY] answered") == 1
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert not kept
    assert KEY not in caplog.text
