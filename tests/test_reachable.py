"""What a run will ask is tried before anything loads: keys, servers, models on servers, and models on the hub."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from hydra import compose, initialize_config_module
from stub_server import Say, Serve, right
from tiny import backbone

from alttrain import hub, llm
from alttrain.backbone import source
from alttrain.config import RunError, register
from alttrain.evaluation.judges import HarmScore, LlamaGuard, Majority
from alttrain.rewrite.teachers import AskedTeacher, BackboneWriter, ServerWriter
from alttrain.run.execution import execute

WHERE = "protocol.judges.harmful_rate"
KEY = "ALTTRAIN_TEST_KEY"


def there(*model: object) -> str:
    return ""


def fault(writer: ServerWriter) -> str:
    with pytest.raises(ValueError, match=WHERE) as caught:
        HarmScore(writer).check(WHERE, there)
    return str(caught.value)


# --- servers ---


def test_a_key_that_is_not_set_is_named_with_its_config_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)
    assert fault(ServerWriter("http://127.0.0.1:9/v1", "m", key_variable=KEY)).startswith(
        f"{WHERE}.writer.key_variable={KEY}: the environment has no such variable; export it"
    )


@pytest.mark.parametrize("url", ["http://localhost:port/v1", "http://[::1/v1", "http://.../v1"])
def test_an_address_that_is_none_is_named(url: str) -> None:
    told = fault(ServerWriter(url, "m"))
    assert told.startswith(f"{WHERE}.writer.base_url={url}: no server answers there (")


def test_a_server_that_does_not_answer_is_named_with_its_address() -> None:
    assert fault(ServerWriter("http://127.0.0.1:9/v1", "m")) == (
        f"{WHERE}.writer.base_url=http://127.0.0.1:9/v1: no server answers there (ConnectError); start it, or set the "
        "address of one"
    )


def test_a_model_that_is_not_offered_is_named_with_those_that_are(serve: Serve) -> None:
    stub = serve(lambda prompt, asked: Say())
    stub.models = ["llama", "qwen"]
    told = fault(ServerWriter(stub.url, "m"))
    assert told.startswith(
        f"{WHERE}.writer.model_name=m: the server at {stub.url} does not offer it; it offers llama, "
    )
    HarmScore(ServerWriter(stub.url, "qwen")).check(WHERE, there)


def test_a_server_that_is_started_for_the_next_job_is_found(serve: Serve) -> None:
    """Also a model that it loads meanwhile. Within a job it is asked once, whatever it answered."""
    stub = serve(lambda prompt, asked: Say())
    stub.models = ["llama"]
    writer = ServerWriter(stub.url, "qwen")
    assert fault(writer) == fault(writer) != ""
    stub.models = ["qwen"]
    llm.forget_servers()
    HarmScore(writer).check(WHERE, there)
    HarmScore(writer).check(WHERE, there)
    assert stub.gets == ["/v1/models"] * 2
    absent, answer = ServerWriter("http://starting/v1", "m"), httpx.Response(404)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpx, "get", lambda url, **asked: (_ for _ in ()).throw(httpx.ConnectError("")))
        assert "no server answers there" in fault(absent)
        patch.setattr(httpx, "get", lambda url, **asked: answer)
        assert "no server answers there" in fault(absent)
        llm.forget_servers()
        HarmScore(absent).check(WHERE, there)


@pytest.mark.parametrize("value", ["sk-0123\u2019456789", "sk-0123\n456789"])
def test_a_key_that_no_request_can_hold_is_no_silent_server(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, value)
    told = fault(ServerWriter("http://127.0.0.1:9/v1", "m", key_variable=KEY))
    assert told.startswith(f"{WHERE}.writer.key_variable={KEY}: its value is no key")
    assert value not in told


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_refused_is_told_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(KEY, "planted-secret")
    monkeypatch.setattr(httpx, "get", lambda url, **asked: httpx.Response(status))
    told = fault(ServerWriter(f"http://refusing-{status}/v1", "m", key_variable=KEY))
    assert told == f"{WHERE}.writer.key_variable={KEY}: the server refuses the key in it (HTTP {status})"
    assert "planted-secret" not in told + caplog.text


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(404),
        httpx.Response(501, text="no such method"),
        httpx.Response(200, text="hello"),
        httpx.Response(200, json={"models": []}),
        httpx.Response(200, json={"data": []}),
        httpx.Response(200, json=[{"id": "m"}]),  # Together's form
    ],
)
def test_a_server_without_a_list_of_models_will_do(monkeypatch: pytest.MonkeyPatch, answer: httpx.Response) -> None:
    llm.forget_servers()
    monkeypatch.setattr(httpx, "get", lambda url, **asked: answer)
    HarmScore(ServerWriter("http://listless/v1", "m")).check(WHERE, there)


def test_deployments_that_azure_does_not_list_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpx, "get", lambda url, **asked: httpx.Response(200, json={"data": [{"id": "gpt-4o"}]}))
    HarmScore(ServerWriter("https://lab.openai.azure.com/openai/v1", "ours")).check(WHERE, there)


def test_a_server_is_asked_once_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def get(url: str, **unused: Any) -> httpx.Response:
        asked.append(url)
        return httpx.Response(404)

    monkeypatch.setattr(httpx, "get", get)
    for model in ("a", "b", "a"):
        HarmScore(ServerWriter("http://once/v1", model)).check(WHERE, there)
    AskedTeacher("t", ServerWriter("http://once/v1/", "a")).check("rewrite.teacher")
    assert asked == ["http://once/v1/models"]


def test_teachers_and_majorities_name_their_own_keys() -> None:
    with pytest.raises(ValueError, match=r"^rewrite\.teacher\.writer\.base_url="):
        AskedTeacher("t", ServerWriter("http://127.0.0.1:9/v1", "m")).check("rewrite.teacher")
    AskedTeacher("t", BackboneWriter(8)).check("rewrite.teacher")
    several = Majority({"first": LlamaGuard("m"), "second": HarmScore(ServerWriter("http://127.0.0.1:9/v1", "m"))}, 1)
    with pytest.raises(ValueError, match=rf"^{WHERE}\.judges\.second\.writer\.base_url="):
        several.check(WHERE, there)
    with pytest.raises(ValueError, match=rf"^{WHERE}\.judges\.first\.model=m: gone$"):
        several.check(WHERE, lambda *model: "gone")


# --- the hub ---


def absent(name: str, revision: str | None = None) -> str:
    return source.why_absent(replace(backbone(Path(name)), source=name, revision=revision, wheel=None))


def test_a_folder_is_at_hand_where_it_holds_a_model(tiny_folder: Path, tmp_path: Path) -> None:
    assert absent(str(tiny_folder)) == ""
    assert absent(str(tmp_path)) == absent("./gone") == "no folder with config.json and safetensors weights"
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    assert absent(str(tmp_path)).startswith("the folder holds no safetensors weights; other formats can hold code")


def test_offline_a_model_must_be_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert absent("lab/guard") == (
        "not in the hub's cache, and the hub cannot be asked (HF_HUB_OFFLINE is set); connect, or set it to a folder "
        "that holds the model"
    )


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (GatedRepoError, "gated on the hub: accept its licence there and log in with `hf auth login`, or set it to a"),
        (RepositoryNotFoundError, "the hub does not give it (RepositoryNotFoundError); check the id and the revision"),
        (httpx.ReadTimeout, "the hub does not give it (ReadTimeout); check the id and the revision"),
        (None, ""),
    ],
)
def test_the_hub_is_asked_for_a_files_head_alone(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception] | None, told: str
) -> None:
    asked: list[str] = []

    def head(url: str, **unused: Any) -> None:
        asked.append(url)
        if error is httpx.ReadTimeout:
            raise error("no")
        if error is not None:
            raise error("no", response=httpx.Response(404, request=httpx.Request("HEAD", url)))  # type: ignore[call-arg]

    monkeypatch.setattr(hub, "check_reachable", lambda: None)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", head)
    source._hub_fault.cache_clear()
    found = [absent("lab/guard", "v1") for _ in range(2)]
    assert found[0] == found[1]
    assert found[0].startswith(told) if told else found[0] == ""
    assert [url.partition("/lab/")[2] for url in asked] == ["guard/resolve/v1/config.json"]


def test_a_hub_that_falls_silent_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*unused: Any, **ignored: Any) -> str:
        raise httpx.ReadTimeout("timed out")

    monkeypatch.setattr(hub, "check_reachable", lambda: None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", silent)
    monkeypatch.setattr(source, "_cached", lambda backbone: None)
    far = replace(backbone(Path("lab/guard")), source="lab/guard", wheel=None)
    with pytest.raises(
        FileNotFoundError, match=r"not to be had from the hub \(ConnectionError: ReadTimeout: timed out\)"
    ):
        source.resolve(far)


# --- a run ---


def run(arguments: list[str]) -> Path:
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        config = compose("run", overrides=arguments)
    return execute(config).folder


@pytest.fixture
def plain(tiny_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments of a run without training, on harmful prompts alone."""
    monkeypatch.setenv("ALTTRAIN_CACHE", str(tmp_path / "cache"))
    register()
    dropped = ("training", "rewrite", "evaluation.benchmarks.embedded_benign", "evaluation.benchmarks.embedded_short")
    kept = [argument for argument in tiny_arguments if not argument.startswith(dropped)]
    others = ("embedded_benign", "embedded_short_answer")
    return [*kept, "method=no_train", *(f"~evaluation.benchmarks.{name}" for name in others)]


def judged_at(url: str) -> list[str]:
    writer = "protocol.judges.harmful_rate.writer"
    return [f"judge@{WHERE}=harm_score", f"{writer}.base_url={url}", f"{writer}.key_variable=null"]


def test_a_judge_that_cannot_be_asked_is_told_before_anything_is_generated(plain: list[str]) -> None:
    with pytest.raises(RunError, match=rf"^{WHERE}\.writer\.base_url=http://127\.0\.0\.1:9/v1: no server answers"):
        run([*plain, *judged_at("http://127.0.0.1:9/v1"), "stages=[generate,judge]"])
    folder = run([*plain, *judged_at("http://127.0.0.1:9/v1"), "stages=[generate]"])
    assert len(list(folder.glob("evaluation/*/generations.jsonl"))) == 1


def test_what_is_judged_is_not_asked_about_again(plain: list[str], serve: Serve) -> None:
    stub = serve(lambda prompt, asked: Say("5"))
    arguments = [*plain, *judged_at(stub.url), "stages=[generate,judge]"]
    folder = run(arguments)
    stub.shutdown()
    stub.server_close()
    assert run(arguments) == folder


def test_a_guard_that_is_nowhere_is_told_before_anything_is_generated(plain: list[str]) -> None:
    with pytest.raises(
        RunError, match=rf"^{WHERE}\.model=meta-llama/Llama-Guard-3-8B: not in the hub's cache, and the hub cannot be"
    ):
        run([*plain, f"judge@{WHERE}=llama_guard_3", "stages=[generate,judge]"])


def test_a_goal_that_is_missing_is_told_before_anything_is_generated(plain: list[str], serve: Serve) -> None:
    stub = serve(lambda prompt, asked: Say("5"))
    with pytest.raises(RunError, match=r"benchmark embedded_harmful: judge harm_score holds .* 4 of 4 rows have none"):
        run([*plain, *judged_at(stub.url), f"{WHERE}.against=goal", "stages=[generate,judge]"])


def test_a_teacher_that_cannot_be_asked_is_told_until_it_has_taught(
    tiny_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Serve
) -> None:
    monkeypatch.setenv("ALTTRAIN_CACHE", str(tmp_path / "cache"))
    register()
    arguments = [*tiny_arguments, "teacher=server", "teacher.writer.model_name=m", "stages=[rewrite]"]
    nowhere = [*arguments, "teacher.writer.base_url=http://127.0.0.1:9/v1"]
    with pytest.raises(RunError, match=r"^teacher\.writer\.base_url=http://127\.0\.0\.1:9/v1: no server answers there"):
        run(nowhere)
    assert not (tmp_path / "outputs" / "runs").exists()
    stub = serve(lambda prompt, asked: right(prompt))
    taught = run([*arguments, f"teacher.writer.base_url={stub.url}"])
    assert run(nowhere) == taught
