"""Every published recipe and adapter holds its source's values, one by one: a later edit is noticed here."""

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from transformers import get_cosine_schedule_with_warmup

from alttrain.backbone import FullFineTuning, LoRA
from alttrain.config import RunError, register
from alttrain.run.assembly import Run, assemble
from alttrain.training import ResponseLoss, SafeKeyLoss, SupervisedFineTuning

CONF = Path(__file__).parents[1] / "conf"
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TOKENS, EXAMPLES = ResponseLoss("tokens"), ResponseLoss("examples")

# R1A = yeonjun-in/R1-Act: R1-Act_training_code.py, run_sft.sh. STAR = UCSC-VLAA/STAR-1: train/sft.py, run_sft.sh.
# SKY = eric-ai-lab/SafeKey: train/sft.py, run_sft.sh. STX = git-disl/Safety-Tax: train/sft.py, sft.sh, sft_cot.sh.
# TSF = seanie12/ThinkSafe: train.py, scripts. SFP = cryingInitial/SAFEPATH: sft_ours.py, scripts. S1 =
# simplescaling/s1: train/sft.py, sft.sh. HF = transformers' default, where the source leaves a value out.
R1A = {
    "epochs": 15, "max_steps": None, "learning_rate": 1e-5, "batch_size": 8, "warmup_steps": 5, "warmup_share": None,
    "max_length": 32768, "optimizer": "adamw_8bit", "weight_decay": 1e-4, "betas": [0.9, 0.95],
    "gradient_clip": 1.0, "objective": TOKENS,
}  # fmt: skip
STAR = {
    "epochs": 5, "max_steps": None, "learning_rate": 1e-5, "batch_size": 128, "warmup_steps": None,
    "warmup_share": 0.05, "max_length": 8192, "optimizer": "adamw", "weight_decay": 1e-4, "betas": [0.9, 0.95],
    "gradient_clip": None, "objective": EXAMPLES,
}  # fmt: skip
STX = {
    "epochs": 5, "max_steps": None, "learning_rate": 5e-5, "batch_size": 8, "warmup_steps": 0, "warmup_share": None,
    "max_length": 32768, "optimizer": "adamw", "weight_decay": 1e-4, "betas": [0.9, 0.95],
    "gradient_clip": 1.0, "objective": EXAMPLES,
}  # fmt: skip
TSF = {
    "epochs": 3, "max_steps": None, "learning_rate": 1e-5, "batch_size": 8, "warmup_steps": None, "warmup_share": 0.1,
    "max_length": 16384, "optimizer": "adamw", "weight_decay": 0.0, "betas": [0.9, 0.999],
    "gradient_clip": 1.0, "objective": TOKENS,
}  # fmt: skip
SFP = {
    "epochs": None, "max_steps": 100, "learning_rate": 1e-5, "batch_size": 4, "warmup_steps": 0, "warmup_share": None,
    "max_length": 8192, "optimizer": "adamw", "weight_decay": 1e-4, "betas": [0.9, 0.95],
    "gradient_clip": 1.0, "objective": EXAMPLES,
}  # fmt: skip
S1 = {
    "epochs": 5, "max_steps": None, "learning_rate": 1e-5, "batch_size": 16, "warmup_steps": None,
    "warmup_share": 0.05, "max_length": 32768, "optimizer": "adamw", "weight_decay": 1e-4, "betas": [0.9, 0.95],
    "gradient_clip": 1.0, "objective": EXAMPLES,
}  # fmt: skip
SAFEKEY = SafeKeyLoss(key_weight=0.2, head_weight=0.2, theta=0.5, last_epochs=2)
PUBLISHED: dict[str, dict[str, Any]] = {
    "r1_act": R1A,
    "alttrain": R1A,
    "star1": STAR,
    "safekey": STAR | {"objective": SAFEKEY},
    "direct_refusal": STX,
    "safechain": STAR | {"epochs": 2},
    "safechain_1k": STX,
    "thinksafe": TSF,
    "safepath_qwen": SFP,
    "safepath_llama": SFP | {"max_steps": 20},
    "s1": S1,
}
OURS = {"sft", "demo", "none"}
ADAPTERS = {
    "lora_r1_act": LoRA(16, 16, ALL_LINEAR, dropout=0.0),
    "qlora": LoRA(16, 16, ALL_LINEAR, dropout=0.0),
    "lora_thinksafe": LoRA(32, 16, ["q_proj", "v_proj"], dropout=0.05),
    "full": FullFineTuning("float32"),
    "full_bf16": FullFineTuning("bfloat16"),
}


@pytest.fixture(autouse=True, scope="module")
def _registered() -> None:
    register()


def run(*overrides: str) -> Run:
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        return assemble(compose("run", overrides=list(overrides)))


def recipe(*overrides: str) -> SupervisedFineTuning:
    training = run(*overrides).training
    assert isinstance(training, SupervisedFineTuning)
    return training


def test_every_file_is_held_against_a_source_or_ours() -> None:
    assert {path.stem for path in (CONF / "training").glob("*.yaml")} == PUBLISHED.keys() | OURS


def test_every_recipe_is_its_sources() -> None:
    """Every value that is another is listed."""
    ours = {"schedule": "cosine_from_zero", "b_ratio": 1, "thought": "open"}
    wrong = []
    for name, published in PUBLISHED.items():
        made = recipe(f"training={name}", "backbone=r1_llama_8b", "adapter=full")
        expected = {"name": name, **published, **ours}
        found = {key: getattr(made, key) for key in expected}
        wrong += [f"training={name}: {key}={found[key]!r}, not {expected[key]!r}" for key in expected
                  if found[key] != expected[key]]  # fmt: skip
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", ["r1_act", "alttrain"])
def test_r1_acts_batch_is_by_backbone_unless_given(name: str) -> None:
    for backbone, size in {"r1_qwen_1_5b": 16, "r1_qwen_7b": 8, "s1_14b": 8}.items():
        assert recipe(f"training={name}", f"backbone={backbone}").batch_size == size
    assert recipe(f"training={name}", "backbone=r1_qwen_1_5b", "training.batch_size=4").batch_size == 4
    given = "+training.batch_size_of.r1_qwen_7b=12"
    assert recipe(f"training={name}", "backbone=r1_qwen_7b", given).batch_size == 12


def test_every_adapter_is_its_sources() -> None:
    made = {name: run(f"adapter={name}", "backbone=r1_qwen_7b") for name in ADAPTERS}
    assert {name: one.adapter for name, one in made.items()} == ADAPTERS
    quantised = dict.fromkeys(ADAPTERS, "none") | {"qlora": "nf4"}
    assert {name: one.backbone.quantization for name, one in made.items()} == quantised


@pytest.mark.slow
def test_every_schedule_is_transformers_own() -> None:
    """Step for step, the first one's factor among them: zero where there is a warm-up."""
    import torch

    from alttrain.training.module import SFTModule

    for name in PUBLISHED:
        made = recipe(f"training={name}", "adapter=full", "training/objective=response")
        for examples in (40, 1000):
            steps = made.steps(examples)
            optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
            theirs = get_cosine_schedule_with_warmup(optimizer, made.warmup(steps), steps)
            ours, factors = SFTModule(torch.nn.Linear(1, 1), made, steps), []
            for _ in range(steps):
                factors.append(theirs.get_last_lr()[0])
                optimizer.step()
                theirs.step()
            found = [ours.factor(step) for step in range(steps)]
            assert found == pytest.approx(factors, abs=1e-12), f"training={name}, {examples} examples"
            assert found[0] == (0.0 if made.warmup(steps) else 1.0), name


@pytest.mark.parametrize(
    ("name", "examples", "steps", "warmup"),
    [
        ("r1_act", 959, 1800, 5),  # R1A: 120 an epoch
        ("star1", 1000, 40, 2),  # STAR: 39 and 1, since its batches go on over the epochs' ends
        ("safekey", 1915, 75, 4),  # SKY: about 74 and 3
        ("direct_refusal", 1000, 625, 0),  # STX: 125 an epoch
        ("safepath_qwen", 400, 100, 0),  # SFP
        ("safepath_llama", 80, 20, 0),  # SFP
        ("s1", 1000, 315, 16),  # S1
    ],
)
def test_steps_on_the_published_data(name: str, examples: int, steps: int, warmup: int) -> None:
    made = recipe(f"training={name}", "backbone=r1_llama_8b", "adapter=full")
    assert (made.steps(examples), made.warmup(steps)) == (steps, warmup)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["training.max_steps=3"],
            r"training\.epochs=15 and training\.max_steps=3: give one of them, and ",
        ),
        (["training.epochs=null"], r"training\.epochs=None and training\.max_steps=None: give one of them"),
        (["training.warmup_share=0.1"], r"training\.warmup_steps=5 and training\.warmup_share=0\.1: give one of them"),
        (["training.warmup_steps=null"], r"training\.warmup_steps=None and training\.warmup_share=None"),
        (["training=safekey", "training.epochs=null", "training.max_steps=3"], r"give training\.epochs, not max_steps"),
        (
            ["training.optimizer=adamw_8bit", "trainer.devices=2", "trainer.strategy=fsdp"],
            r"training\.optimizer=adamw_8bit does not train shards: choose another, or trainer\.strategy=ddp",
        ),
        (["adapter=full", "backbone.quantization=nf4"], r"adapter=full with backbone\.quantization=nf4"),
    ],
)
def test_what_contradicts_itself_is_told(overrides: list[str], message: str) -> None:
    with pytest.raises(RunError, match=message):
        run(*overrides)
