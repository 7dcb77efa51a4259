"""A method is a whole treatment: what a run changes of it, of its protocol and of its benchmarks is known by key."""

import pytest
from hydra import compose, initialize_config_module

from alttrain.config import Changes, changes, register, run_name


def changed(*overrides: str) -> tuple[str, Changes]:
    """The run's name and what it changes."""
    register()
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        config = compose("run", list(overrides))
    return run_name(config), changes(config)  # outside of the context, as a stage asks


def test_a_method_as_it_is_changes_nothing() -> None:
    name, found = changed("method=demo_alttrain", "seed=3", "output_dir=x", "data_dir=y", "trainer.threads=1")
    assert name == "smollm2_135m-demo_alttrain-s3"
    assert found.treatment == {}
    assert all(not own for own in found.evaluation.values())


@pytest.mark.parametrize(
    ("override", "key", "published", "own"),
    [
        ("training.epochs=3", "training.epochs", 1, 3),
        ("adapter.alpha=16", "adapter.alpha", 32, 16),
        ("dataset.amounts.benign=5", "dataset.amounts.benign", 260, 5),
        ("backbone.quantization=nf4", "backbone.quantization", "none", "nf4"),
        ("backbone.template.think_close=x", "backbone.template.think_close", "\n</think>\n\n", "x"),
        ("method.system_prompt=Hello", "method.system_prompt", None, "Hello"),
        ("teacher=backbone", "rewrite.teacher.name", "template", "backbone"),
    ],
)
def test_an_overridden_part_is_in_the_name(override: str, key: str, published: object, own: object) -> None:
    name, found = changed("method=demo_alttrain", override)
    assert found.treatment[key] == (published, own)
    assert name.startswith("smollm2_135m-demo_alttrain-changed_")
    other = changed("method=demo_alttrain", override, "training.learning_rate=0.5")[0]
    assert name != other != "smollm2_135m-demo_alttrain-s0"


def test_how_a_teachers_server_is_asked_is_no_change() -> None:
    known = ["method=demo_alttrain", "teacher=server", "teacher.writer.model_name=m"]
    moved = ["teacher.writer.base_url=http://elsewhere/v1", "teacher.writer.concurrency=2"]
    assert changed(*known) == changed(*known, *moved)


def test_a_method_that_trains_nothing_is_the_same_on_any_data() -> None:
    name, found = changed("method=no_train", "dataset=gsm8k")
    assert (name, found.treatment) == ("smollm2_135m-no_train-s0", {})
    assert changed("method=no_train", "training.thought=empty")[1].treatment == {
        "training.thought": ("absent", "empty")
    }


def test_a_changed_protocol_or_benchmark_is_told_by_benchmark() -> None:
    limit = "evaluation.benchmarks.embedded_benign.rows.limit=4"
    evaluation = changed("method=no_train", limit, "protocol.decoding.max_new_tokens=9")[1].evaluation
    cap = {"protocol.decoding.max_new_tokens": (1024, 9)}
    assert evaluation["embedded_benign"] == cap | {"benchmark.rows.limit": (None, 4)}
    assert evaluation["embedded_harmful"] == cap


def test_a_free_composition_has_no_method_to_change() -> None:
    assert changed("training.epochs=3")[1].treatment == {}
