"""A random two-layer backbone with a byte tokenizer: all parts of a real one, in a few hundred kilobytes."""

import gc
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import kept_configs  # noqa: F401
import pytest
from stub_server import Say, Serve, Stub

from alttrain import llm
from alttrain.records import Example, Segment
from alttrain.run.progress import log_to_console

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
if "ALTTRAIN_TEST_VLLM" not in os.environ:  # before torch loads: threads of two workers wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

TINY_CONTEXT = 512

SLOW_FILES = (
    *("test_sweep", "test_miniature", "test_devices", "test_run", "test_kill", "test_damaged", "test_scale"),
    *("test_bad_input", "test_scripts", "test_loggers", "test_secrets", "test_sandbox", "test_quantization"),
    *("test_own_parts", "test_disk_full", "test_serve", "test_originals", "test_locks", "test_launchers"),
    *("test_doomed",),
)
"""Files whose tests start whole runs or other processes, so that each takes seconds."""
LONG_FILES = (
    *("test_config", "test_grading", "test_rendering", "test_training", "test_protocol", "test_interventions"),
    "test_report",
)
"""Files that take longest without their slow tests."""
SLOW_FIXTURES = {"tiny_arguments", "chromium", "star1", "traces"}
"""Fixtures by which a test makes a whole run, opens a browser, or reads a thousand traces of ../shared."""


@pytest.fixture(autouse=True, scope="session")
def console() -> None:
    """The first run of a process replaces pytest's handlers by a console, so `caplog` would be empty after it."""
    log_to_console()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out SLOW_FILES with `-m "not slow"`, as their imports alone take seconds."""
    return True if config.option.markexpr == "not slow" and collection_path.stem in SLOW_FILES else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests as slow by their file, their fixtures, or their need of ../shared; other slow tests mark themselves.

    Slow and long files run first. One worker runs a whole file. If a long file started last, the others would be idle.
    """
    order = {name: number for number, name in enumerate((*SLOW_FILES, *LONG_FILES))}
    if gone := [name for name in order if not Path(__file__).with_name(f"{name}.py").is_file()]:
        raise pytest.UsageError(f"tests/conftest.py names {', '.join(gone)}, which is not there")
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))
    for item in items:
        reads_shared = any("shared" in mark.kwargs.get("reason", "") for mark in item.iter_markers("skipif"))
        if item.path.stem in SLOW_FILES or SLOW_FIXTURES & {*getattr(item, "fixturenames", ())} or reads_shared:
            item.add_marker("slow")


def pytest_collection_finish() -> None:
    """Leave what is imported by now out of the search for garbage, which takes a fifth of a composition otherwise."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with config.json, model.safetensors and a tokenizer in which every byte is a token."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("<|im_start|>", "<|im_end|>", "<unk>")])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", unk_token="<unk>"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=TINY_CONTEXT,
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
        initializer_range=0.3,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_arguments(tiny_folder: Path, tmp_path: Path) -> list[str]:
    """Overrides that make any config run in seconds on the tiny backbone, in its own folder."""
    return tiny_overrides(tiny_folder, tmp_path)


def tiny_overrides(tiny_folder: Path, tmp_path: Path) -> list[str]:
    """The same as `tiny_arguments`, for a folder that several tests share."""
    (tmp_path / "cache").mkdir()
    return [
        f"backbone.source={tiny_folder}",
        "backbone.name=tiny",
        f"backbone.context_length={TINY_CONTEXT}",
        f"output_dir={tmp_path / 'outputs'}",
        "trainer.accelerator=cpu",
        "trainer.precision=float32",
        "trainer.threads=1",
        "generation.dtype=float32",
        "protocol.decoding.max_new_tokens=12",
        "generation.chunk=3",
        "training=demo",
        "training.epochs=2",
        "training.learning_rate=0.001",
        "training.batch_size=4",
        "training.max_length=2000",
        "trainer.checkpoint_every=1",
        "dataset.amounts.harmful=12",
        "dataset.amounts.borderline=2",
        "dataset.amounts.benign=2",
        "rewrite.original.short.tokens=4",
        "rewrite.may_lose=1",  # a random backbone writes no usable answers
        *(f"evaluation.benchmarks.embedded_{name}.rows.limit=4" for name in ("harmful", "benign", "short_answer")),
    ]


@pytest.fixture(scope="session")
def star1() -> list[Example]:
    """STAR-1's 1,000 rows with their traces, from ../shared."""
    path = Path(__file__).parents[2] / "shared" / "data" / "star1" / "STAR-1.json"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    made = []
    for row in json.loads(path.read_text(encoding="utf-8")):
        trace, _, answer = row["response"].removeprefix("<think>").partition("</think>")
        thought = (Segment("reasoning", trace.strip(), "trace"),)
        made.append(Example(row["id"], row["question"], "harmful", thought=thought, answer=answer.strip()))
    return made


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without figures, which take most of a small report's seconds."""
    monkeypatch.setattr("alttrain.run.stages.report.draw_all", lambda *unused: nullcontext(list))


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses between tries to a millisecond."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
    monkeypatch.setattr("alttrain.llm.PAUSE_S", 0.001)


@pytest.fixture
def serve(quick_retries: None) -> Iterator[Serve]:
    """A function that starts stub servers; they stop after the test."""
    stubs: list[Stub] = []
    llm.forget_servers()  # an earlier server may have had the same port

    def start(behave: Callable[[str, int], Say]) -> Stub:
        stubs.append(Stub(behave))
        threading.Thread(target=stubs[-1].serve_forever, args=(0.01,), daemon=True).start()
        return stubs[-1]

    yield start
    for stub in stubs:
        stub.shutdown()
        stub.server_close()
