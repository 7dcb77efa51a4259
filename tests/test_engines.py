"""Engines that are servers: what they are asked, that no prompt is lost, and that a started server always ends."""

import json
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
from hydra import compose, initialize_config_module
from processes import FORKS, has_ended
from stub_server import RESET, Say, Serve, Stub
from tiny import LORA, backbone

from alttrain.backbone import Rendered, Weights
from alttrain.backbone.weights import add_lora, load_model, load_tokenizer
from alttrain.config import RunError, register
from alttrain.generation import Auto, ChildServer, Decoding, InProcess, InProcessVllm, Server
from alttrain.generation.engine import Completion, Model, Prompt
from alttrain.generation.server import ELSEWHERE, OTHER_TOKENS
from alttrain.llm import GIVEN_UP, Failure
from alttrain.run.assembly import assemble
from alttrain.run.execution import execute
from alttrain.run.session import Session
from alttrain.tokenization import Renderer
from alttrain.training import Hardware

PATIENCE: dict[str, Any] = {"attempts": 4, "timeout_s": 0.5, "concurrency": 8}
GREEDY = Decoding(7)


@pytest.fixture
def renderer(tiny_folder: Path) -> Renderer:
    return Renderer(backbone(tiny_folder), load_tokenizer(tiny_folder))


def prompts(renderer: Renderer, count: int) -> list[Prompt]:
    texts = [renderer.prompt_text(f"Question {number}?", "open") for number in range(count)]
    return [Prompt(renderer.encode(text), text, f"p{n}#0") for n, text in enumerate(texts)]


def server(stub: Stub, **fields: Any) -> Server:
    return Server(**{"base_url": stub.url, "model_name": "m", **PATIENCE, **fields})


def model(renderer: Any = None, **fields: Any) -> Model:
    """The backbone of a run a-s0, or what the fields say it trained."""
    folder = Path("model")
    parts = {"adapter": None, "trained": None, "weights": lambda: folder, "decoder": None, "log": Path("server.log")}
    return Model("a-s0", renderer, **{**parts, **fields})


def write(
    config: Any, asked: Sequence[Prompt], renderer: Any, decoding: Decoding = GREEDY, **fields: Any
) -> dict[int, Any]:
    with config.start(model(renderer, **fields)) as engine:
        found = list(engine.generate(asked, decoding))
    assert len({number for number, _ in found}) == len(found)
    return dict(found)


def test_tokens_are_sent_as_they_are(serve: Serve, renderer: Renderer) -> None:
    stub = serve(lambda prompt, asked: Say("So.<|im_end|>"))
    asked = prompts(renderer, 3)
    engine = server(stub, extra={"skip_special_tokens": False})
    assert write(engine, asked, renderer) == dict.fromkeys(range(3), Completion("So.", "stop"))
    sent = {json.dumps(request.pop("prompt")): request for request in stub.requests}
    assert sent.keys() == {json.dumps(prompt.ids) for prompt in asked}
    assert {json.dumps(request, sort_keys=True) for request in sent.values()} == {
        '{"max_tokens": 7, "model": "m", "repetition_penalty": 1.0, "skip_special_tokens": false, '
        f'"stop_token_ids": [{renderer.end_id}], "temperature": 0.0}}'
    }


def test_sampling_is_seeded_by_the_prompts_name(serve: Serve, renderer: Renderer) -> None:
    stub = serve(lambda prompt, asked: Say("So.", finish="length"))
    decoding = Decoding(7, temperature=0.6, top_p=0.95, repetition_penalty=1.2, samples=2, seed=3)
    (one,) = prompts(renderer, 1)
    two = replace(one, name="p0#1")
    for _ in range(2):
        assert write(server(stub), [one, two], renderer, decoding)[1] == Completion("So.", "length")
    seeds = [request["seed"] for request in stub.requests]
    assert len(set(seeds)) == 2
    assert sorted(seeds[:2]) == sorted(seeds[2:])
    assert {(r["top_p"], r["repetition_penalty"], r["temperature"]) for r in stub.requests} == {(0.95, 1.2, 0.6)}
    assert {(r["top_k"], r["min_p"]) for r in stub.requests} == {(-1, 0.0)}  # not those of the model's own config


def test_transformers_serve_is_told_the_rest_of_the_decoding_in_its_own_field(serve: Serve, renderer: Renderer) -> None:
    stub = serve(lambda prompt, asked: Say("So."))
    asked = prompts(renderer, 1)
    for decoding in (GREEDY, Decoding(7, temperature=0.6, top_k=5, repetition_penalty=1.2)):
        write(server(stub, api="transformers"), asked, renderer, decoding)
    told = [json.loads(request["generation_config"]) for request in stub.requests]
    assert told == [
        {"do_sample": False, "repetition_penalty": 1.0, "top_k": 0},
        {"do_sample": True, "repetition_penalty": 1.2, "top_k": 5, "min_p": 0.0},
    ]
    assert all({"repetition_penalty", "top_k", "min_p"}.isdisjoint(request) for request in stub.requests)


def test_special_delimiters_that_a_server_would_leave_out_are_refused(
    serve: Serve, renderer: Renderer, tmp_path: Path
) -> None:
    template = replace(renderer.backbone.template, think_close="\n<|im_start|>answer\n")
    s1 = Renderer(replace(renderer.backbone, template=template), renderer.tokenizer)
    stub = serve(lambda prompt, asked: Say("So.<|im_end|>"))
    kept = {"skip_special_tokens": False}
    assert write(server(stub, extra=kept), prompts(s1, 1), s1)
    for asked in (server(stub), server(stub, api="transformers", extra=kept)):
        with pytest.raises(ValueError, match=r"the delimiter '<\|im_start\|>' between thought and answer is a special"):
            write(asked, prompts(s1, 1), s1)
    with pytest.raises(ValueError, match="the delimiter"):  # before it is started
        write(replace(child(), command=["no-such-server"]), prompts(s1, 1), s1, log=tmp_path / "server.log")


@pytest.mark.parametrize("adds", [True, False])
def test_text_has_one_beginning_token(serve: Serve, renderer: Renderer, adds: bool) -> None:
    """A server's tokenizer may put one in front; then the text goes without its own."""
    template = replace(renderer.backbone.template, bos="<|im_start|>")
    begun = Renderer(replace(renderer.backbone, template=template), renderer.tokenizer)
    tokenizer = SimpleNamespace(
        __call__=None, encode=renderer.tokenizer.encode, unk_token_id=None, added_tokens_decoder={}
    )

    class Adding:
        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

        def __call__(self, text: Any, **options: bool) -> Any:
            if options:
                return renderer.tokenizer(text, **options)
            ids = renderer.tokenizer.encode(text, add_special_tokens=False)
            return {"input_ids": [renderer.tokenizer.bos_token_id, *ids] if adds else ids}

    stub = serve(lambda prompt, asked: Say("So."))
    text = begun.prompt_text("Hi?", "open")
    asked = [Prompt(begun.encode(text), text, "p#0")]
    write(server(stub, api="text"), asked, Renderer(begun.backbone, Adding()))
    (request,) = stub.requests
    assert request["prompt"] == (text.removeprefix("<|im_start|>") if adds else text)


class SplitsBreaks(Renderer):
    """Reads line breaks as one token at the end of a text, and one by one before a word, as GPT-2's tokenizers do."""

    def encode(self, text: str) -> list[int]:
        return [hash(piece) for piece in re.findall(r"\s+(?!\S)|\s|\w+|[^\s\w]+", text)]


@pytest.mark.parametrize(
    ("answer", "ids", "found"),
    [
        ("\n\nSo.", "a </think>\n\nSo", Completion("So.", "stop")),
        ("\nSo.", "a </think>\n\nSo", Failure(ELSEWHERE, final=True)),
        ("So.", "b </think>\n\nSo", Failure(OTHER_TOKENS, final=True)),
    ],
)
def test_the_model_writes_the_white_space_that_a_text_would_give_as_another_token(
    answer: str, ids: str, found: Any, serve: Serve, renderer: Renderer
) -> None:
    stub = serve(lambda prompt, asked: Say(answer))
    splits = SplitsBreaks(renderer.backbone, renderer.tokenizer)
    begun = Prompt(splits.encode(ids)[:-1], Rendered("", "a", " </think>\n\n", ""), "p#0", 5)
    assert begun.ids != splits.encode(begun.text)
    plain = Prompt(splits.encode("a"), "a", "q#0", 5)
    written = write(server(stub, api="text"), [begun, plain], splits)
    assert written == {0: found, 1: Completion(answer, "stop")}
    sent = {request["prompt"]: request["max_tokens"] for request in stub.requests}
    assert sent == {"a": 5} | ({} if found == Failure(OTHER_TOKENS, final=True) else {"a </think>": 7})


def test_an_adapter_is_a_model_of_its_own_and_loaded_where_told(
    serve: Serve, renderer: Renderer, tmp_path: Path
) -> None:
    stub = serve(lambda prompt, asked: Say("So."))
    stub.models = ["m"]
    write(server(stub, adapter_name="lora-{run}"), prompts(renderer, 1), renderer, adapter=tmp_path)
    write(server(stub, adapter_name="lora-{run}"), prompts(renderer, 1), renderer, trained=tmp_path)
    write(server(stub, adapter_name="lora-{run}"), prompts(renderer, 1), renderer)
    assert [request["model"] for request in stub.requests] == ["lora-a-s0", "lora-a-s0", "m"]
    loads: list[dict[str, Any]] = []
    stub.on_load = lambda request: loads.append(request) or 200  # type: ignore[attr-defined]
    write(server(stub, loads_adapters=True), [], renderer, adapter=tmp_path)
    name = loads[0]["lora_name"]
    assert re.fullmatch("a-s0-[0-9a-f]{8}", name)
    assert loads == [{"lora_name": name, "lora_path": str(tmp_path)}]
    stub.models = ["m", name, "a-s0"]
    write(server(stub, loads_adapters=True), prompts(renderer, 1), renderer, adapter=tmp_path)
    assert len(loads) == 1
    assert stub.requests[-1]["model"] == name
    (tmp_path / "adapter_model.safetensors").write_bytes(b"trained again")  # in the folder that the server has read
    write(server(stub, loads_adapters=True), prompts(renderer, 1), renderer, adapter=tmp_path)
    assert stub.requests[-1]["model"] == loads[1]["lora_name"] != name
    stub.models, stub.on_load = [], lambda request: 400  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"loads_adapters=true: .*HTTP 400.*VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
        write(server(stub, loads_adapters=True), [], renderer, adapter=tmp_path)


@pytest.mark.parametrize("api", ["tokens", "text", "transformers"])
def test_a_request_says_what_the_protocol_says_whatever_is_extra(serve: Serve, renderer: Renderer, api: str) -> None:
    stub = serve(lambda prompt, asked: Say("So."))
    other: dict[str, Any] = {"temperature": 1.0, "max_tokens": 9, "stop": ["."], "n": 1, "top_k": 5}
    for name, value in {**other, "repeat_penalty": 1.1, "model": "another", "n_predict": 9, "mirostat": 2}.items():
        with pytest.raises(ValueError, match=rf"extra\.{name}=.*set protocol\.decoding"):
            server(stub, api=api, extra={name: value})
    kept = {"top_k": 0, "repeat_penalty": None, "cache_prompt": True}
    for top_k in (None, 20):
        write(
            server(stub, api=api, extra=kept),
            prompts(renderer, 1),
            renderer,
            Decoding(7, temperature=0.6, top_k=top_k, repetition_penalty=1.2),
        )
    for request, top_k in zip(stub.requests, (0, 20), strict=True):
        said = request | json.loads(request.get("generation_config", "{}"))
        assert (said["top_k"], said["repeat_penalty"], said["cache_prompt"]) == (top_k, 1.2, True)
        assert said["repetition_penalty"] == 1.2
        assert request.get("stop_token_ids") == ([renderer.end_id] if api == "tokens" else None)


@pytest.mark.parametrize(("engine", "where"), [("server", ""), ("vllm", "server."), ("transformers_serve", "server.")])
def test_another_decoding_in_extra_is_refused_when_composing(
    tiny_arguments: list[str], engine: str, where: str
) -> None:
    arguments = [one for one in tiny_arguments if not one.startswith("generation")]
    register()
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        config = compose(
            "run", overrides=[*arguments, f"generation={engine}", f"+generation.{where}extra.temperature=1"]
        )
    with pytest.raises(RunError, match=r"generation: .*extra\.temperature=1: .*set protocol\.decoding"):
        assemble(config)


HOSTILE: list[Say] = [
    Say(status=500),
    Say(status=429, headers={"Retry-After": "0"}),
    RESET,
    Say(body=b"not json"),
    Say(body=b'{"choices": []}'),
    Say(body=b'{"choices": [{"text": "a", "finish_reason": "stop"}, {"text": "b", "finish_reason": "stop"}]}'),
    Say(body=b'{"choices": [{"text": null, "finish_reason": "stop"}]}'),
    Say("late", delay=1.0),
    Say("cut short", missing_bytes=40),
    Say("odd", finish="tool_calls"),
]


def test_a_hostile_server_loses_no_prompt(serve: Serve, renderer: Renderer) -> None:
    """Each prompt meets two faults before its answer; every one ends answered."""
    count = 40

    def behave(prompt: str, asked: int) -> Say:
        number = len(stub.asked)
        return HOSTILE[(number * 3 + asked) % len(HOSTILE)] if asked < 2 else Say(f"So {prompt[-9:]}")

    stub = serve(behave)
    found = write(server(stub), prompts(renderer, count), renderer)
    assert sorted(found) == list(range(count))
    assert all(isinstance(answer, Completion) for answer in found.values())


def test_what_is_not_answered_has_its_reason(serve: Serve, renderer: Renderer) -> None:
    asked = prompts(renderer, 6)
    refused, broken = json.dumps(asked[2].ids), json.dumps(asked[4].ids)
    stub = serve(
        lambda prompt, _: Say(status=400) if prompt == refused else Say(status=500) if prompt == broken else Say("So.")
    )
    found = write(server(stub, concurrency=2), asked, renderer)
    assert found[2] == Failure("the server refuses the prompt (HTTP 400)", final=True)
    assert found[4] == Failure("the server answers HTTP 500", final=False)
    assert [number for number, answer in found.items() if isinstance(answer, Completion)] != []


def test_a_server_that_refuses_all_is_given_up_and_no_prompt_is_settled(serve: Serve, renderer: Renderer) -> None:
    stub = serve(lambda prompt, _: Say(status=400))
    advanced: list[int] = []
    with server(stub, concurrency=4).start(model(renderer)) as engine:
        found = list(engine.generate(prompts(renderer, 60), GREEDY, advanced.append))
    refused, unsent = Failure("the server refuses the prompt (HTTP 400)", False), Failure(GIVEN_UP, False)
    sent = len(stub.requests)
    assert 16 <= sent <= 32  # a busy machine tells of some late
    assert [answer for _, answer in found] == [refused] * sent + [unsent] * (60 - sent)
    assert sorted(number for number, _ in found) == list(range(60))
    assert sum(advanced) == sent


# --- a server that is started ---

CHILD = """
import http.server, json, sys, time

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        served = {"m": "the backbone"} | dict(word.split("=", 1) for word in sys.argv[2:] if "=" in word)
        text = served.get(request["model"])
        body = json.dumps({"choices": [{"text": text, "finish_reason": "stop"}]}).encode()
        self.send_response(200 if text else 404); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *a): pass

print("pid", __import__("os").getpid(), flush=True)
if "dies" in sys.argv:
    sys.exit("no weights there")
if "hangs" in sys.argv:
    time.sleep(60)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def child(*more: str, **fields: Any) -> ChildServer:
    asked = Server("http://unused", "m", **PATIENCE)
    words = [sys.executable, "-c", CHILD, "{port}"]
    return ChildServer(asked, words, [*more, "{run}={adapter}"], **{"start_s": 20.0, **fields})


def child_gone(output: Path) -> bool:
    return has_ended(int(output.read_text().split("pid ")[1].split()[0]))


def test_a_started_server_answers_and_ends(renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "other.example")
    for name in ("http_proxy", "all_proxy"):  # of a cluster, which does not know this machine's ports
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    output = tmp_path / "server.log"
    found = write(child(), prompts(renderer, 2), renderer, adapter=tmp_path, log=output)
    assert found == dict.fromkeys(range(2), Completion(str(tmp_path), "stop"))  # what serves the adapter's name
    assert child_gone(output)
    assert os.environ["no_proxy"] == "other.example"
    for trained in (None, tmp_path):  # a trained model has the backbone's name on a server of its own
        found = write(child(), prompts(renderer, 1), renderer, trained=trained, log=output)
        assert found == {0: Completion("the backbone", "stop")}
    named = replace(child(), server=Server("http://unused", "{model}", **PATIENCE))
    named = replace(named, command=[*named.command, "{name}=named"])
    assert write(named, prompts(renderer, 1), renderer, log=output) == {0: Completion("named", "stop")}
    with pytest.raises(RuntimeError, match="stage"), child().start(model(renderer, log=output)):
        raise RuntimeError("stage")
    assert child_gone(output)
    assert os.environ["no_proxy"] == "other.example"  # for what is asked next in this process


def test_a_server_that_does_not_come_up_is_told_with_its_last_lines(renderer: Renderer, tmp_path: Path) -> None:
    output = tmp_path / "dead.log"
    with (
        pytest.raises(ValueError, match=r"(?s)ended with 1 before it was ready:.*no weights there"),
        child("dies").start(model(renderer, adapter=tmp_path, log=output)),
    ):
        pass
    output = tmp_path / "hanging.log"
    with (
        pytest.raises(ValueError, match=r"start_s=1: the server was not ready"),
        child("hangs", start_s=1.0).start(model(renderer, adapter=tmp_path, log=output)),
    ):
        pass
    assert child_gone(output)
    absent = replace(child(), command=["no-such-server"])
    with (
        pytest.raises(ValueError, match=r"'no-such-server' cannot be started .*generation=server"),
        absent.start(model(renderer, log=output)),
    ):
        pass
    with pytest.raises(ValueError, match="'no-such-server' cannot be started"):
        absent.check(None, gpu=False)
    child().check(None, gpu=False)


def serve_on(folder: Path, log: Path, up: Path) -> None:
    """In a process of its own: a server that would stay a minute."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is born deaf to it
    with child().start(model(Renderer(backbone(folder), load_tokenizer(folder)), log=log)):
        up.touch()
        time.sleep(60)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_server_does_not_outlive_a_killed_run(tiny_folder: Path, tmp_path: Path, number: int) -> None:
    output, up = tmp_path / "server.log", tmp_path / "up"
    process = FORKS.Process(target=serve_on, args=(tiny_folder, output, up))
    process.start()
    while process.is_alive() and not up.exists():
        time.sleep(0.02)
    os.kill(process.pid, number)
    process.join(30)
    assert process.exitcode
    assert child_gone(output)


# --- in this process ---


def test_an_adapter_is_read_once_and_shapes_what_is_written(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted = add_lora(load_model(Weights(tiny_folder, "local"), torch.float32, "cpu"), LORA, seed=0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    adapted.save_pretrained(tmp_path / "adapter")
    read, load = list[Path](), safetensors.torch.load_file
    monkeypatch.setenv("ALTTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("safetensors.torch.load_file", lambda path, *more: read.append(Path(path)) or load(path, *more))
    parts = {"name": "a-s0", "folder": tmp_path, "output_dir": tmp_path, "hardware": Hardware(accelerator="cpu")}
    parts["config"] = {"generation": {}}
    session = Session(SimpleNamespace(**parts, generation=InProcess(dtype="float32"), backbone=backbone(tiny_folder)))  # type: ignore[arg-type]
    written = []
    for trained in (None, tmp_path / "adapter"):
        with session.engine(trained) as engine:
            written.append(dict(engine.generate(prompts(session.renderer, 2), GREEDY)))
    assert written[0] != written[1]
    assert read.count(tmp_path / "adapter" / "adapter_model.safetensors") == 1


# --- vLLM in this process ---


def test_vllm_is_given_tokens_and_the_adapter(
    renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = {}

    class LLM:
        def __init__(self, **options: Any) -> None:
            told["options"] = options

        def generate(self, asked: list[Any], sampling: list[Any], lora_request: Any, use_tqdm: bool) -> list[Any]:
            told.update(asked=asked, sampling=sampling, adapter=lora_request)
            written = renderer.encode("So.")
            ends = [("stop", [*written, renderer.end_id]), ("length", written)]
            return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids, finish_reason=why)]) for why, ids in ends]

    vllm, lora = ModuleType("vllm"), ModuleType("vllm.lora.request")
    vllm.LLM, vllm.SamplingParams = LLM, SimpleNamespace  # type: ignore[attr-defined]
    lora.LoRARequest = lambda *names: names  # type: ignore[attr-defined]
    for name, module in {"vllm": vllm, "vllm.lora": ModuleType("vllm.lora"), "vllm.lora.request": lora}.items():
        monkeypatch.setitem(sys.modules, name, module)
    engine = InProcessVllm(options={"tensor_parallel_size": 2})
    asked = prompts(renderer, 2)
    assert write(engine, asked, renderer, adapter=tmp_path) == {
        0: Completion("So.", "stop"),
        1: Completion("So.", "length"),
    }
    assert told["asked"] == [{"prompt_token_ids": prompt.ids} for prompt in asked]
    assert told["adapter"] == ("adapter", 1, str(tmp_path))
    assert (told["options"]["tensor_parallel_size"], told["options"]["trust_remote_code"]) == (2, False)
    common = {"repetition_penalty": 1.0, "stop_token_ids": [renderer.end_id], "skip_special_tokens": False}
    greedy = {"max_tokens": 7, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "seed": None}
    assert [vars(each) for each in told["sampling"]] == 2 * [common | greedy]
    decoding = Decoding(7, temperature=0.6, top_p=0.95, top_k=5, repetition_penalty=1.2, seed=3)
    write(engine, asked, renderer, decoding)
    sampled = {"max_tokens": 7, "temperature": 0.6, "top_p": 0.95, "top_k": 5, "repetition_penalty": 1.2}
    seeds = [{"seed": decoding.seed_of(prompt.name)} for prompt in asked]
    assert [vars(each) for each in told["sampling"]] == [common | sampled | seed for seed in seeds]


def test_vllm_that_is_not_there_is_told(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ValueError, match=r"pip install 'alttrain\[vllm\]'"):
        write(InProcessVllm(), [], renderer)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'alttrain\[vllm\]'"):
        InProcessVllm().check(None, gpu=True)


# --- before anything starts ---


NO_ORIGINALS = ("dataset.amounts.benign=0", "dataset.amounts.borderline=0")


@pytest.mark.parametrize("more", [[], [*NO_ORIGINALS, "teacher=backbone"]], ids=["originals", "teacher"])
def test_an_engine_that_the_rewrite_needs_is_refused_before_weights_load(
    more: list[str], tiny_arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alttrain.run.session.resolve", lambda backbone: pytest.fail("weights were fetched"))
    monkeypatch.setattr(ChildServer, "_program", lambda self: "no-such-server")
    arguments = [one for one in tiny_arguments if not one.startswith("generation")]
    arguments += ["generation=vllm", "stages=[rewrite]", *more]
    register()
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        config = compose("run", overrides=arguments)
        with pytest.raises(RunError, match=r"generation\.command: 'vllm' cannot be started"):
            execute(config)


@pytest.mark.parametrize(
    ("accelerator", "gpu", "installed", "choice"),
    [
        ("auto", True, True, "vllm"),
        ("cpu", True, True, "in_process"),
        ("auto", False, True, "in_process"),
        ("gpu", True, False, "in_process"),
    ],
)
def test_auto_is_vllm_where_a_gpu_and_vllm_are(
    accelerator: str, gpu: bool, installed: bool, choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alttrain.generation.engine.has_gpu_driver", lambda: gpu)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if installed else None)
    assert Auto(InProcess(), InProcessVllm()).choice(accelerator) == choice


def test_a_run_knows_the_engine_that_auto_takes(tiny_arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alttrain.generation.engine.has_gpu_driver", lambda: False)
    arguments = [one for one in tiny_arguments if not one.startswith("generation")]
    register()
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        run = assemble(compose("run", overrides=[*arguments, "generation=auto", "generation.in_process.slots=5"]))
    assert run.generation == InProcess(slots=5)
    assert run.config["generation"]["slots"] == 5
    assert run.evaluation_fingerprint(run.benchmarks[0])["generation.chunk"] == 128


def test_a_server_without_its_key_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ValueError, match=r"generation\.key_variable=NO_SUCH_KEY"):
        Server("http://localhost/v1", "m", key_variable="NO_SUCH_KEY").check(None, gpu=False)
