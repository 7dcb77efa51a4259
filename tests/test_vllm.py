"""vLLM itself, on a CPU: its greedy answers are the decoder's, with and without adapters, and no server is left over.
Interventions that change nothing give the same text.

`make test-vllm` installs vLLM in an environment of its own and runs this file. Elsewhere the tests skip.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module

from alttrain.config import register
from alttrain.dataset import embedded_rows
from alttrain.evaluation import Benchmark
from alttrain.evaluation.interventions import Begin, Cut, InterventionContext, Step
from alttrain.generation import ChildServer, Decoding, InProcessVllm, Server
from alttrain.generation.engine import Completion, Engine, Model, Prompt
from alttrain.llm import Failure
from alttrain.records import Example, Segment
from alttrain.run.asking import BeginningRow, Chunk, PreparedIntervention
from alttrain.run.assembly import assemble
from alttrain.run.session import Session

pytestmark = pytest.mark.skipif("ALTTRAIN_TEST_VLLM" not in os.environ, reason="only `make test-vllm` runs these tests")

SERVED = ["--dtype", "float32", "--max-model-len", "1024", "--enforce-eager"]
GREEDY = Decoding(48)
PROMPTS = 12
"""Prompts whose answers are compared. One may differ: two tokens can be equally likely within float32's rounding."""
THOUGHT = ("The user wants an explanation.", "This is harmless, because it harms nobody.", "So I will explain it.")
CHANGE_NOTHING = {
    "cut at all of it": Cut(share=1.0),
    "assessment by itself": Step(step="assessment", how="same"),
    "nothing": Begin(),
}


@pytest.fixture(scope="module", autouse=True)
def _on_a_cpu() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "True")
        yield


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    register()
    arguments = ["experiment=demo", "method=demo_alttrain", "hydra.mode=RUN", "generation.dtype=float32"]
    arguments.append(f"output_dir={tmp_path_factory.mktemp('outputs')}")
    with initialize_config_module(config_module="alttrain.conf", version_base="1.3"):
        return Session(assemble(compose("run", overrides=arguments)))


@pytest.fixture(scope="module")
def prompts(session: Session) -> list[Prompt]:
    rows = embedded_rows("evaluation_benign").examples(None)[:PROMPTS]
    texts = [session.renderer.prompt_text(row.prompt, "open") for row in rows]
    return [Prompt(session.renderer.encode(text), text, f"p{n}#0") for n, text in enumerate(texts)]


def adapter(session: Session, folder: Path, seed: int) -> Path:
    """Save an adapter with random weights, large enough to change most answers."""
    import torch

    from alttrain.backbone.weights import save_trained

    model = session.run.adapter.attach(session.model("float32"), session.run.seed)
    generator = torch.Generator().manual_seed(seed)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, weight in weights.items():
        if "lora_B" in name:
            weight.normal_(std=0.003, generator=generator)
    save_trained(model, weights, session.renderer.tokenizer, session.run.backbone, "A card.", folder)
    return folder


def thinking(session: Session, folder: Path) -> Path:
    """Train an adapter until the model thinks `THOUGHT` at every prompt, and answers."""
    import torch

    from alttrain.backbone.weights import save_trained

    torch.manual_seed(0)
    model = session.run.adapter.attach(session.model("float32", "sdpa"), session.run.seed)
    weights = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.AdamW(weights.values(), lr=1e-3)
    thought = tuple(Segment("reasoning", text, "rule") for text in THOUGHT)
    asked = ("What is rust?", "Why does ice float?", "How do I learn to swim?", "Write a line about autumn.")
    rows = [Example(text, text, "benign", "c", thought=thought, answer=f"You asked: {text}") for text in asked]
    for one in session.renderer.render(rows) * 12:
        ids, hidden = torch.tensor([one.prompt + one.response]), torch.full((1, len(one.prompt)), -100)
        labels = torch.cat([hidden, torch.tensor([one.response])], 1)
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    save_trained(model, weights, session.renderer.tokenizer, session.run.backbone, "A card.", folder)
    return folder


@pytest.fixture(scope="module")
def adapters(session: Session, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return [thinking(session, folder / "1"), adapter(session, folder / "2", 2)]


@pytest.fixture(scope="module")
def expected(session: Session, prompts: list[Prompt], adapters: list[Path]) -> dict[Path | None, dict[int, Any]]:
    """The decoder's greedy answers, of the backbone (None) and of each adapter."""
    found: dict[Path | None, dict[int, Any]] = {}
    for trained in (None, *adapters):
        with session.engine(trained) as engine:
            found[trained] = dict(engine.generate(prompts, GREEDY))
    assert len({str(answers) for answers in found.values()}) == 3
    return found


def child(**fields: Any) -> ChildServer:
    with initialize_config_module(config_module="alttrain.conf", version_base="1.3"):
        arguments = ["experiment=demo", "method=no_train", "hydra.mode=RUN", "generation=vllm"]
        engine = assemble(compose("run", overrides=arguments)).generation
    assert isinstance(engine, ChildServer)
    return replace(engine, command=[*engine.command, *SERVED], **fields)


def described(session: Session, trained: Path | None, log: Path, name: str = "a-s0") -> Model:
    return Model(name, session.renderer, trained, None, lambda: session.weights.folder, lambda asked: None, log)


def same(found: dict[int, Any], expected: dict[int, Any]) -> bool:
    assert found.keys() == expected.keys()
    return len([number for number, answer in expected.items() if found[number] != answer]) <= 1


def changed(session: Session, engine: Engine) -> list[str]:
    """Name each text that becomes another one under an intervention that changes nothing."""
    benchmark = next(one for one in session.run.benchmarks if one.name == "embedded_benign")
    rows = benchmark.examples[:PROMPTS]

    def texts(under: Benchmark, begun: PreparedIntervention | None) -> dict[int, Any]:
        chunk = Chunk(session, engine, [(under, row, 0) for row in rows], {under.name: begun})
        return dict(chunk.answers(lambda count: None))

    own = texts(benchmark, None)
    assert len({one.answer for one in own.values() if one.finish == "stop"}) > 1
    given = InterventionContext(session.run.backbone.template, "open", {(one.id, 0): one for one in own.values()})
    found = []
    for name, intervention in CHANGE_NOTHING.items():
        beginnings = {}
        for number, row in enumerate(rows):
            begun = intervention.begin(row, own[number], given)
            assert begun is not None, own[number].text
            beginnings[row.id, 0] = BeginningRow(**vars(begun), id=row.id, message=row.prompt)
        again = texts(
            benchmark.with_intervention(name, intervention), PreparedIntervention(intervention, given, beginnings)
        )
        found += [f"{name} {one.id}" for number, one in own.items() if again[number].text != one.text]
    return found


@pytest.mark.parametrize("place", [None, 0])
def test_a_started_server_answers_as_the_decoder(
    session: Session,
    prompts: list[Prompt],
    adapters: list[Path],
    expected: dict[Path | None, dict[int, Any]],
    tmp_path: Path,
    place: int | None,
) -> None:
    trained = None if place is None else adapters[place]
    before = servers()
    with child().start(described(session, trained, tmp_path / "server.log")) as engine:
        assert same(dict(engine.generate(prompts, GREEDY)), expected[trained])
    assert not servers() - before


def test_vllm_in_this_process_answers_as_the_decoder(
    session: Session,
    prompts: list[Prompt],
    adapters: list[Path],
    expected: dict[Path | None, dict[int, Any]],
    tmp_path: Path,
) -> None:
    config = InProcessVllm(options={"dtype": "float32", "max_model_len": 1024, "enforce_eager": True})
    with config.start(described(session, adapters[0], tmp_path / "server.log")) as engine:
        assert same(dict(engine.generate(prompts, GREEDY)), expected[adapters[0]])
        assert changed(session, engine) == []


@pytest.fixture(scope="module")
def served(session: Session, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that loads adapters when asked, as a user would start it by hand."""
    log = tmp_path_factory.mktemp("served") / "server.log"
    started = child(with_adapter=["--enable-lora", "--max-lora-rank", "64", "--max-loras", "2"])
    started = replace(started, command=[*started.command, *started.with_adapter])
    with started.start(described(session, None, log)) as engine:
        yield replace(engine.server, loads_adapters=True)


def test_one_server_serves_the_backbone_and_several_adapters(
    session: Session,
    served: Server,
    prompts: list[Prompt],
    adapters: list[Path],
    expected: dict[Path | None, dict[int, Any]],
    tmp_path: Path,
) -> None:
    for trained in (*adapters, None, adapters[0]):
        model = described(session, trained, tmp_path / "log", f"run-{trained and trained.name}")
        with served.start(model) as engine:
            assert same(dict(engine.generate(prompts, GREEDY)), expected[trained])


def test_interventions_that_change_nothing_give_the_same_text(
    session: Session, served: Server, adapters: list[Path], tmp_path: Path
) -> None:
    with served.start(described(session, adapters[0], tmp_path / "log", "run-thinking")) as engine:
        assert changed(session, engine) == []


def test_samples_depend_on_the_seed_and_the_sample_alone(
    session: Session, served: Server, prompts: list[Prompt], tmp_path: Path
) -> None:
    decoding = Decoding(24, temperature=1.0, top_p=0.95, top_k=50, samples=2, seed=3)
    asked = [replace(prompts[0], name=f"p0#{sample}") for sample in range(4)]
    with served.start(described(session, None, tmp_path / "log")) as engine:
        first: dict[int, Any] = dict(engine.generate(asked, decoding))
        again = dict(engine.generate(asked[::-1], decoding))
        other = dict(engine.generate(asked, replace(decoding, seed=4)))
    assert len({answer.text for answer in first.values()}) > 1
    assert [again[3 - number] for number in range(4)] == [first[number] for number in range(4)]
    assert first != other


def test_an_answer_ends_with_the_familys_end_or_at_the_cap(
    session: Session, served: Server, prompts: list[Prompt], tmp_path: Path
) -> None:
    with served.start(described(session, None, tmp_path / "log")) as engine:
        answers: dict[int, Any] = dict(engine.generate([*prompts, replace(prompts[0], cap=3)], Decoding(200)))
    assert answers[len(prompts)].finish == "length"
    ended = [answer for answer in answers.values() if answer.finish == "stop"]
    assert ended
    assert not any("<|im_end|>" in answer.text for answer in answers.values())


def test_a_server_that_dies_leaves_prompts_open_and_invents_no_answer(
    session: Session, prompts: list[Prompt], expected: dict[Path | None, dict[int, Any]], tmp_path: Path
) -> None:
    config = child()
    config = replace(config, server=replace(config.server, attempts=2, concurrency=2))
    found: dict[int, Any] = {}
    before = servers()
    with config.start(described(session, None, tmp_path / "server.log")) as engine:
        for number, answer in engine.generate(prompts, GREEDY):
            found[number] = answer
            for pid in servers() - before:
                os.kill(pid, signal.SIGKILL)
    written = {number: answer for number, answer in found.items() if isinstance(answer, Completion)}
    failed = [answer for answer in found.values() if isinstance(answer, Failure)]
    assert written
    assert len(written) < len(prompts)
    assert same(written, {number: expected[None][number] for number in written})
    assert not any(answer.final for answer in failed)


def test_no_server_outlives_a_killed_run(tmp_path: Path) -> None:
    output = tmp_path / "outputs"
    before = servers()
    program = [sys.executable, "-m", "alttrain", "experiment=demo", "hydra.mode=RUN", "method=no_train"]
    words = ["vllm", "serve", "{model}", "--port", "{port}", "--served-model-name", "{name}", *SERVED]
    command = ",".join(f"'{word}'" for word in words)
    program += ["generation=vllm", f"generation.command=[{command}]", "trusted=[vllm]", f"output_dir={output}"]
    with subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        until = time.monotonic() + 300
        while time.monotonic() < until and not list(output.glob("runs/*/evaluation/*/generations.jsonl")):
            assert run.poll() is None
            time.sleep(0.2)
        assert servers() - before
        run.kill()
    until = time.monotonic() + 30
    while time.monotonic() < until and (left := servers() - before):
        time.sleep(0.2)
    assert not left


def servers() -> set[int]:
    """Return the ids of vLLM's running processes."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            state = path.with_name("stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if ("vllm serve" in line or "VLLM::" in line) and state != "Z":
            found.add(int(path.parent.name))
    return found


def test_a_served_models_probabilities_are_those_of_this_process(
    session: Session, prompts: list[Prompt], tmp_path: Path
) -> None:
    from alttrain.generation.scorer import ServedScorer, load_scorer

    folder, asked = session.weights.folder, [prompt.ids for prompt in prompts]
    own = load_scorer(folder, "float32", "cpu")
    [(order, logs)] = own.log_probabilities(asked)
    tokens = sorted({int(token) for token in logs.argmax(-1)})
    expected = dict(own.next_token(asked, tokens))
    engine = child(server=Server("http://localhost/v1", "guard"))
    with engine.start(described(session, None, tmp_path / "server.log")) as started:
        scorer = ServedScorer(started.server, folder)
        found, written = dict(scorer.next_token(asked, tokens)), dict(scorer.write(asked, 8))
    assert len(order) == len(found) == PROMPTS
    for number, masses in expected.items():
        listed = [(own, its) for own, its in zip(masses, found[number], strict=True) if its]
        assert listed
        assert all(its == pytest.approx(own, rel=0.01) for own, its in listed)
        assert all(own < 0.05 for own, its in zip(masses, found[number], strict=True) if not its)
    assert sum(written[number] == text for number, text in own.write(asked, 8)) >= PROMPTS - 1
