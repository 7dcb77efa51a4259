"""Packed training against a padded reference; the adapter moves and the base does not; a resumed run ends the same."""

import itertools
import math
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from lightning_fabric.accelerators.mps import MPSAccelerator
from peft.tuners.lora.layer import Linear
from tiny import LORA
from transformers import AutoConfig, AutoModelForCausalLM, GptOssConfig, GptOssForCausalLM
from transformers.masking_utils import sliding_window_causal_mask_function

from alttrain import tokenization
from alttrain.backbone import Weights, attention
from alttrain.backbone.attention import PackedSequences, packed_attention
from alttrain.backbone.device import Device
from alttrain.backbone.fused import FusedLinear
from alttrain.backbone.weights import add_lora, load_model
from alttrain.records import DamagedError
from alttrain.training import Hardware, SupervisedFineTuning
from alttrain.training import fit as fitting
from alttrain.training.batches import BatchStream, pack
from alttrain.training.fit import TrainingResult, _AtomicCheckpoints, _first_step, _identity, fit, has_diverged
from alttrain.training.module import SFTModule, compile_for_training, recompute_layers

RECIPE = SupervisedFineTuning("t", epochs=2, learning_rate=1e-2, batch_size=4, warmup_steps=2, max_length=64)


def sequences(count: int = 10) -> list[tokenization.Sequence]:
    return [
        tokenization.Sequence(
            f"s{i}", [(i + j) % 250 for j in range(2 + i % 5)], [(3 * i + j) % 250 for j in range(1 + i % 7)]
        )
        for i in range(count)
    ]


def adapted(folder: Path) -> Any:
    return add_lora(load_model(Weights(folder, "local"), torch.float32, "cpu"), LORA, seed=0)


def fitted(
    folder: Path, run: Path, recipe: SupervisedFineTuning, every: int = 50, per_pass: int | None = None
) -> tuple[Any, TrainingResult]:
    model = adapted(folder)
    hardware = Hardware("cpu", "float32", log_every=1, checkpoint_every=every, examples_per_pass=per_pass)
    return model, fit(model, sequences(), recipe, hardware, 3, run, False, False)


def trained(folder: Path, run: Path, recipe: SupervisedFineTuning, every: int = 50) -> Any:
    return fitted(folder, run, recipe, every)[0]


def adapter_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@contextmanager
def killed_in_the_fourth_step() -> Iterator[None]:
    """A training in this context is killed there."""
    step = SFTModule.training_step

    def interrupted(self: SFTModule, batch: Any, index: int) -> torch.Tensor:
        if self.global_step == 3:
            raise RuntimeError("killed")
        return step(self, batch, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SFTModule, "training_step", interrupted)
        with pytest.raises(RuntimeError, match="killed"):
            yield


def test_pack_marks_what_predicts_the_response() -> None:
    short = tokenization.Sequence("a", [1, 2], [3, 4])
    long = tokenization.Sequence("b", [5, 6, 7], [8])
    batch = pack([short, long])
    assert batch.ids.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 0, 1, 2, 3]]
    assert batch.lengths == [4, 4]
    assert batch.logit_positions.tolist() == [1, 2, 6]
    assert batch.targets.tolist() == [3, 4, 8]


def test_every_epoch_sees_every_example_once_in_a_new_order() -> None:
    recipe = replace(RECIPE, epochs=3)
    stream = BatchStream(sequences(10), recipe, seed=5)
    assert (stream.steps_per_epoch, len(stream)) == (3, 9)
    epochs = [[i for step in range(e * 3, e * 3 + 3) for i in stream.members(step)] for e in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert epochs[0] != [i for step in range(3) for i in BatchStream(sequences(10), recipe, seed=6).members(step)]


def test_packed_loss_and_gradients_equal_the_padded_reference(tiny_folder: Path) -> None:
    """With fused LoRA layers; the reference has peft's own, and transformers' attention."""
    model = adapted(tiny_folder)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    module = SFTModule(model, RECIPE, total_steps=4)
    rows = sequences(8)
    loss = module.loss(pack(rows))
    loss.backward()
    packed = gradients(model)
    model.zero_grad()
    fused = [module for module in model.modules() if isinstance(module, FusedLinear)]
    for module_ in fused:
        module_.__class__ = Linear
    assert len(fused) == 2 * len(LORA.target_modules)
    model.get_base_model().set_attn_implementation("eager")
    reference = padded_reference(model, rows)
    reference.backward()
    assert abs(loss.item() - reference.item()) < 1e-5
    assert len(packed) == 2 * 2 * len(LORA.target_modules)
    for name, parameter in model.named_parameters():
        if name in packed:
            assert (packed[name] - parameter.grad).abs().max() < 1e-5, name


def test_what_drops_out_is_decided_by_seed_and_pass(tiny_folder: Path) -> None:
    model = add_lora(load_model(Weights(tiny_folder, "local"), torch.float32, "cpu"), replace(LORA, dropout=0.5), 0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    one, other = (SFTModule(model.train(), RECIPE, total_steps=4, passes=9, seed=seed) for seed in (0, 1))
    losses = [module.training_step(pack(sequences()), index).item() for module in (one, other) for index in (0, 1, 0)]
    assert losses[0] == losses[2]
    assert len(set(losses)) == 4


@pytest.mark.parametrize(("step", "expected"), [(0, 1 / 3), (1, 2 / 3), (2, 1.0), (6, 0.5), (10, 0.0)])
def test_warmup_then_cosine(tiny_folder: Path, step: int, expected: float) -> None:
    module = SFTModule(torch.nn.Linear(1, 1), RECIPE, total_steps=10)
    assert math.isclose(module.factor(step), expected, abs_tol=1e-9)


def test_the_optimizer_is_the_recipes(tiny_folder: Path) -> None:
    """With weight decay, and with LoRA+'s own rate for B."""
    recipe = replace(RECIPE, weight_decay=0.1, betas=(0.8, 0.9), b_ratio=8.0)
    module = SFTModule(adapted(tiny_folder), recipe, total_steps=10)
    configured = module.configure_optimizers()
    groups = configured["optimizer"].param_groups
    names = {parameter: name for name, parameter in module.named_parameters()}
    kinds = [{names[parameter].split(".")[-3] for parameter in group["params"]} for group in groups]
    assert kinds == [{"lora_A"}, {"lora_B"}]
    assert sum(len(group["params"]) for group in groups) == len(adapter_of(module.model))
    assert [group["initial_lr"] for group in groups] == [1e-2, 8e-2]
    assert [(group["weight_decay"], group["betas"]) for group in groups] == 2 * [(0.1, (0.8, 0.9))]
    assert configured["lr_scheduler"]["interval"] == "step"


@pytest.mark.parametrize("clip", [1e-3, None])
def test_gradients_are_clipped_to_the_recipes_norm(
    clip: float | None, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[float] = []

    def seen(self: SFTModule, optimizer: Any) -> None:  # before the next step
        norms.append(math.hypot(*(float(p.grad.norm()) for p in self.parameters() if p.grad is not None)))

    monkeypatch.setattr(SFTModule, "on_before_zero_grad", seen)
    trained(tiny_folder, tmp_path, replace(RECIPE, epochs=None, max_steps=3, gradient_clip=clip))
    assert len(norms) == 3
    assert all(norm == pytest.approx(clip, rel=1e-3) if clip else norm > 0.01 for norm in norms[1:]), norms


def test_adapter_moves_and_base_does_not(tiny_folder: Path, tmp_path: Path) -> None:
    before, model = adapted(tiny_folder), trained(tiny_folder, tmp_path, RECIPE)
    old, new = dict(before.named_parameters()), dict(model.named_parameters())
    for name, parameter in new.items():
        assert torch.equal(parameter, old[name]) != parameter.requires_grad, name
    first = SFTModule(before, RECIPE, 6).loss(pack(sequences()))
    assert SFTModule(model, RECIPE, 6).loss(pack(sequences())) < first


@pytest.fixture(scope="module")
def whole(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The adapter that the recipe makes in one go."""
    return adapter_of(trained(tiny_folder, tmp_path_factory.mktemp("whole"), RECIPE))


def test_same_seed_same_bytes(whole: dict[str, torch.Tensor], tiny_folder: Path, tmp_path: Path) -> None:
    again = adapter_of(trained(tiny_folder, tmp_path, RECIPE))
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_resumed_training_ends_with_the_bytes_of_an_uninterrupted_one(
    whole: dict[str, torch.Tensor], tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with killed_in_the_fourth_step():  # one step after the checkpoint: that step is lost and made again
        trained(tiny_folder, tmp_path / "cut", RECIPE, 2)
    checkpoint = torch.load(tmp_path / "cut" / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2
    assert all("lora" in name for name in checkpoint["state_dict"])
    assert 0 < checkpoint["seconds"] < 1000
    slow = checkpoint | {"seconds": 1000.0}
    _AtomicCheckpoints(checkpoint["made_from"]).save_checkpoint(slow, tmp_path / "cut" / "checkpoints" / "last.ckpt")
    seen, step = list[int](), SFTModule.training_step

    def watched(self: SFTModule, batch: Any, index: int) -> torch.Tensor:
        seen.append(self.global_step)
        return step(self, batch, index)

    monkeypatch.setattr(SFTModule, "training_step", watched)
    model, result = fitted(tiny_folder, tmp_path / "cut", RECIPE, 2)
    resumed = adapter_of(model)
    assert seen == [2, 3, 4, 5]
    assert result.record["seconds"] > 1000  # of both processes
    assert result.record["devices"] == 1
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_ctrl_c_saves_the_step_under_way_and_gives_the_signal_back(
    whole: dict[str, torch.Tensor], tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGINT)
    step = SFTModule.training_step

    def interrupted(self: SFTModule, batch: Any, index: int) -> torch.Tensor:
        if self.global_step == 3:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch, index)

    monkeypatch.setattr(SFTModule, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained(tiny_folder, tmp_path / "cut", RECIPE)
    assert signal.getsignal(signal.SIGINT) is before
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 4
    monkeypatch.setattr(SFTModule, "training_step", step)
    resumed = adapter_of(trained(tiny_folder, tmp_path / "cut", RECIPE))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_ctrl_c_in_a_first_pass_stops_after_the_whole_step(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = adapter_of(fitted(tiny_folder, tmp_path / "whole", RECIPE, 50, 2)[0])
    step = SFTModule.training_step

    def interrupted(self: SFTModule, batch: Any, index: int) -> torch.Tensor:
        if index == 6:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch, index)

    monkeypatch.setattr(SFTModule, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fitted(tiny_folder, tmp_path / "cut", RECIPE, 50, 2)
    monkeypatch.undo()
    assert torch.load(tmp_path / "cut" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4
    resumed = adapter_of(fitted(tiny_folder, tmp_path / "cut", RECIPE, 50, 2)[0])
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize(("before", "after"), [(None, 2), (2, None)])
def test_a_resumed_training_may_divide_its_steps_into_other_passes(
    before: int | None, after: int | None, whole: dict[str, torch.Tensor], tiny_folder: Path, tmp_path: Path
) -> None:
    """As after a lack of memory. Each step still has its whole batch."""
    with killed_in_the_fourth_step():
        fitted(tiny_folder, tmp_path, RECIPE, 1, before)
    resumed = adapter_of(fitted(tiny_folder, tmp_path, RECIPE, 1, after)[0])
    assert max(float((whole[name] - resumed[name]).abs().max()) for name in whole) < 1e-4


def test_apples_gpu_is_not_trained_on(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning would choose it, and nothing else here uses it."""
    monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: True))
    hardware = Hardware(precision="float32", compiled="off")
    recipe = replace(RECIPE, epochs=None, max_steps=1)
    assert fit(adapted(tiny_folder), sequences(), recipe, hardware, 3, tmp_path, [], False).record["steps"] == 1


@pytest.fixture(scope="module")
def cut(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """The checkpoint of a training that was killed, and what the training makes where it is not."""
    folder = tmp_path_factory.mktemp("cut")
    whole = adapter_of(trained(tiny_folder, folder / "whole", RECIPE, 2))
    with killed_in_the_fourth_step():
        trained(tiny_folder, folder / "killed", RECIPE, 2)
    return folder / "killed" / "checkpoints" / "last.ckpt", whole


def with_nan(found: dict[str, Any]) -> None:
    next(iter(found["state_dict"].values()))[0, 0] = math.nan


SPOILED: dict[str, Any] = {
    "one number that is none": with_nan,
    "another step": lambda found: found.update(global_step=4),
    "another rate": lambda found: found["lr_schedulers"][0].update(base_lrs=[9.0, 9.0]),
    "no moments": lambda found: found["optimizer_states"][0]["state"].clear(),
    "an older one": lambda found: found.pop("checksum"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SPOILED, "foreign", "truncated", "a flipped bit", "empty", "of other examples"])
def test_a_checkpoint_that_cannot_be_trusted_is_told_and_not_gone_on_from(
    name: str, cut: tuple[Path, dict[str, torch.Tensor]], tiny_folder: Path, tmp_path: Path, caplog: Any
) -> None:
    last, content = tmp_path / "checkpoints" / "last.ckpt", bytearray(cut[0].read_bytes())
    last.parent.mkdir()
    if name in SPOILED:
        found = torch.load(cut[0], weights_only=True)
        SPOILED[name](found)
        torch.save(found, last)
    elif name == "foreign":
        torch.save({"state_dict": {}}, last)
    elif name == "of other examples":
        _AtomicCheckpoints("other").save_checkpoint(torch.load(cut[0], weights_only=True), last)
    else:
        weight = next(iter(torch.load(cut[0], weights_only=True)["state_dict"].values()))
        content[content.index(weight.numpy().tobytes())] ^= 255  # others may be padding
        last.write_bytes({"truncated": content[: len(content) // 2], "a flipped bit": content, "empty": b""}[name])
    model = trained(tiny_folder, tmp_path, RECIPE, 2)
    assert all(torch.equal(cut[1][name], weight) for name, weight in adapter_of(model).items())
    told = [record.message for record in caplog.records if record.name == "alttrain.training.fit"]
    assert len(told) == 1
    assert re.search(r"cannot go on from .*last\.ckpt \(.*\); it begins anew", told[0])


def test_precision_and_base_are_part_of_a_trainings_identity() -> None:
    module = SFTModule(torch.nn.Linear(1, 1), RECIPE, total_steps=1)
    made = {_identity(module, [], 0, bfloat16, base) for bfloat16 in (True, False) for base in ("one", "other")}
    assert len(made) == 4


def test_a_folder_in_place_of_a_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").mkdir()
    with pytest.raises(DamagedError, match=r"last\.ckpt: is no regular file; remove it"):
        _first_step(tmp_path / "last.ckpt", "made")


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_training_that_diverges_ends_at_that_step_and_saves_nothing_of_it(
    what: str, clip: float | None, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = SFTModule.loss

    def diverging(self: SFTModule, batch: Any) -> torch.Tensor:
        found = loss(self, batch)
        if self.global_step == 3 and what == "loss":
            return found * math.inf
        if self.global_step == 3:  # of the last layer's B, as by an overflow in the backward pass
            found.register_hook(lambda gradient: gradient * math.inf)
        return found

    monkeypatch.setattr(SFTModule, "loss", diverging)
    at = r"diverged at step 4 of 6: loss [\w.]+, gradient norm (nan|inf), learning rate 0\.0\d+; .*learning_rate below"
    with pytest.raises(ValueError, match=at):
        trained(tiny_folder, tmp_path, replace(RECIPE, gradient_clip=clip), 1)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 3
    assert all(weight.isfinite().all() for weight in saved["state_dict"].values())


def test_a_training_that_ends_worse_than_it_began_is_marked_and_warned_of(
    tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its losses stay finite, so it is no error; one that was interrupted is judged by all of its steps."""
    loss, recipe = SFTModule.loss, replace(RECIPE, epochs=None, max_steps=6)
    monkeypatch.setattr(SFTModule, "loss", lambda self, batch: loss(self, batch) * (1 + self.global_step))
    assert fitted(tiny_folder, tmp_path, recipe, 3)[1].record["diverged"] is True
    assert "diverged: its last losses are above 1.5 times its first ones" in caplog.text
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert len(saved["losses"]) == 6
    assert fitted(tiny_folder, tmp_path, recipe, 3)[1].record["diverged"] is True  # goes on after the last step
    monkeypatch.undo()
    assert "diverged" not in fitted(tiny_folder, tmp_path / "other", recipe)[1].record


@pytest.mark.parametrize(
    ("losses", "worse"),
    [
        ([1.0] * 10 + [9.0] * 5 + [1.5] * 10, False),
        ([1.0] * 10 + [9.0] * 5 + [1.51] * 10, True),
        ([1.0, 1.6], True),
        ([1.0, 5.0, 1.4], False),
        ([3.0], False),
        ([], False),
    ],
)
def test_the_last_ten_losses_are_held_against_the_first_ten(losses: list[float], worse: bool) -> None:
    assert has_diverged(losses) == worse


def test_a_step_is_told_once_its_checkpoint_is_written(tiny_folder: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []

    @contextmanager
    def bar(label: str, total: int, done: int) -> Iterator[Any]:
        last = tmp_path / "checkpoints" / "last.ckpt"
        yield lambda steps, note: told.append((steps, torch.load(last, weights_only=True)["global_step"]))

    hardware = Hardware(accelerator="cpu", precision="float32", log_every=1, checkpoint_every=1)
    fit(adapted(tiny_folder), sequences(), RECIPE, hardware, 3, tmp_path, False, False, bar)  # type: ignore[arg-type]
    assert told == [(1, step) for step in range(1, RECIPE.steps(len(sequences())) + 1)]


def test_a_model_goes_on_training_after_its_samples(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In evaluation mode nothing would drop out any more."""
    step, modes, model = SFTModule.training_step, list[bool](), adapted(tiny_folder)

    def watched(self: SFTModule, batch: Any, index: int) -> torch.Tensor:
        modes.append(model.training)
        return step(self, batch, index)

    monkeypatch.setattr(SFTModule, "training_step", watched)
    hardware, recipe = Hardware("cpu", "float32", samples_every=2), replace(RECIPE, epochs=None, max_steps=3)
    sample = lambda step: modes.append(model.training)  # noqa: E731
    fit(model, sequences(), recipe, hardware, 3, tmp_path, False, False, samples=sample)  # type: ignore[arg-type]
    assert modes == [True, False, True, False, True]


@pytest.mark.parametrize(("devices", "per_pass", "passes"), [(1, None, 1), (1, 2, 3), (2, 2, 2), (2, 3, 1), (8, 2, 1)])
def test_a_steps_five_examples_are_divided_into_passes(devices: int, per_pass: int | None, passes: int) -> None:
    assert Hardware(devices=devices, examples_per_pass=per_pass).passes(5) == passes


@pytest.mark.parametrize("every", [1, 100])
def test_weights_that_are_not_finite_are_never_saved(
    every: int, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last step no loss would tell."""

    def overflowing(self: SFTModule, *given: Any, **named: Any) -> None:
        pl.LightningModule.optimizer_step(self, *given, **named)
        if self.global_step == 1:  # the second is not counted yet
            next(p for p in self.parameters() if p.requires_grad).data[0, 0] = math.inf

    monkeypatch.setattr(SFTModule, "optimizer_step", overflowing)
    with pytest.raises(ValueError, match=r"diverged at step 2 of 2: loss [\d.]+, .*lora_A.* not finite, learning rate"):
        trained(tiny_folder, tmp_path, replace(RECIPE, epochs=None, max_steps=2), every)
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert not last.exists() or torch.load(last, weights_only=True)["global_step"] == 1


def padded_reference(model: Any, rows: list[tokenization.Sequence]) -> torch.Tensor:
    """The loss of a padded batch, by transformers."""
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full((len(rows), longest), -100)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)], labels[index, : len(row)] = torch.tensor(row.ids), torch.tensor(row.labels)
        mask[index, : len(row)] = 1
    loss: torch.Tensor = model(input_ids=ids, labels=labels, attention_mask=mask, use_cache=False).loss
    return loss


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_gpt_osss_gradients_equal_the_padded_reference(tmp_path: Path) -> None:
    """With sinks and windows, and masks that tell the sequences of a row apart: its own do not."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8, "num_local_experts": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 4, "initializer_range": 0.3}
    config = GptOssConfig(vocab_size=250, pad_token_id=0, num_experts_per_tok=2, **sizes, **heads)
    GptOssForCausalLM(config).save_pretrained(tmp_path)
    model = load_model(Weights(tmp_path, "local"), torch.float32, "cpu", "eager").requires_grad_(True)
    rows = sequences(8)
    loss = SFTModule(model, RECIPE, total_steps=4).loss(pack(rows))
    loss.backward()
    packed = gradients(model)
    model.zero_grad()
    reference = padded_reference(model, rows)
    reference.backward()
    assert abs(loss.item() - reference.item()) < 1e-5
    assert any(name.endswith("sinks") for name in packed)
    for name, expected in gradients(model).items():
        torch.testing.assert_close(packed[name], expected, atol=1e-5, rtol=1e-4, msg=name)


def test_a_whole_models_gradients_equal_the_padded_reference(tiny_folder: Path) -> None:
    """The head's among them, which the chunked loss makes itself."""
    model = load_model(Weights(tiny_folder, "local"), torch.float32, "cpu").requires_grad_(True)
    rows = sequences(8)
    loss = SFTModule(model, RECIPE, total_steps=4).loss(pack(rows))
    (2 * loss).backward()
    packed = gradients(model)
    model.zero_grad()
    model.set_attn_implementation("eager")  # type: ignore[operator]
    reference = padded_reference(model, rows)
    (2 * reference).backward()
    expected = gradients(model)
    assert abs(loss.item() - reference.item()) < 1e-5
    assert packed.keys() == expected.keys() == dict(model.named_parameters()).keys()
    for name, gradient in expected.items():
        assert (packed[name] - gradient).abs().max() < 1e-5, name


def test_a_filled_row_and_recomputed_activations_change_nothing(tiny_folder: Path) -> None:
    model = adapted(tiny_folder).train()
    module, rows = SFTModule(model, RECIPE, total_steps=4), sequences(8)
    plain = module.loss(pack(rows))
    plain.backward()
    expected = gradients(model)
    filled = pack(rows, multiple=64)
    assert filled.ids.shape[1] % 64 == 0
    assert sum(filled.lengths) == filled.ids.shape[1]
    assert len(filled.targets) == len(pack(rows).targets)
    assert filled.tokens == pack(rows).tokens == sum(map(len, rows))
    recompute_layers(model)
    model.zero_grad()
    loss = module.loss(filled)
    loss.backward()
    assert abs(loss.item() - plain.item()) < 1e-6
    for name, gradient in gradients(model).items():
        assert (expected[name] - gradient).abs().max() < 1e-6, name


def test_the_tokens_of_a_step_are_those_of_its_examples(tiny_folder: Path) -> None:
    """Without the padding of compiled rows, and without an example that stands in where a device has none."""
    module, rows = SFTModule(adapted(tiny_folder), RECIPE, total_steps=4, passes=3), sequences()
    for index, scale in enumerate((1.0, 0.0)):
        batch = pack(rows, multiple=64, loss_scale=scale)
        assert batch.ids.numel() > batch.tokens
        module.training_step(batch, index)
        assert module._step_tokens == sum(map(len, rows))


@torch.library.custom_op("alttrain_tests::varlen", mutates_args=())
def varlen(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, starts: torch.Tensor, longest: int) -> torch.Tensor:
    """What CUDA's kernel computes: causal attention of each sequence, (tokens, heads, size)."""
    ends = starts.tolist()
    parts = [slice(a, b) for a, b in itertools.pairwise(ends) if b > a]
    assert max(part.stop - part.start for part in parts) <= longest
    heads = [tuple(t[part].transpose(0, 1) for t in (q, k, v)) for part in parts]
    mixed = [torch.nn.functional.scaled_dot_product_attention(*three, is_causal=True) for three in heads]
    return torch.cat([part.transpose(0, 1) for part in mixed])


@varlen.register_fake
def _(q: torch.Tensor, *unused: Any) -> torch.Tensor:
    return torch.empty_like(q)


def _save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])


def _back(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    q, k, v, starts = ctx.saved_tensors
    made = []
    with torch.enable_grad():
        three = [t.detach().requires_grad_() for t in (q, k, v)]
        for a, b in itertools.pairwise(starts.tolist()):
            if b > a:
                heads = [t[a:b].transpose(0, 1) for t in three]
                made.append(torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=True).transpose(0, 1))
        return (*torch.autograd.grad(torch.cat(made), three, gradient), None, None)


varlen.register_autograd(_back, setup_context=_save)


@pytest.mark.slow
def test_compiled_layers_share_whole_programs_and_train_the_same(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on CUDA, with its attention kernel stood in for: one unbroken program for each row length, for all layers."""

    def kernel(q: Any, k: Any, v: Any, starts: Any, _: Any, longest: int, __: int, window_size: Any) -> torch.Tensor:
        assert window_size == (-1, 0)
        return varlen(q, k, v, starts, longest)  # type: ignore[no-any-return]

    def on_cuda(lengths: Any, device: Any, at_most: int = 0) -> PackedSequences:
        return packed(lengths, torch.device("cuda"), at_most)

    packed = PackedSequences.training
    monkeypatch.setattr(attention, "HAS_VARLEN", True)
    monkeypatch.setattr(attention, "HALF", (torch.float32,))  # so that rounding hides nothing
    monkeypatch.setattr(attention, "varlen", SimpleNamespace(varlen_attn=kernel))
    monkeypatch.setattr(torch.Tensor, "to", to_cpu(torch.Tensor.to))
    described = AutoConfig.from_pretrained(tiny_folder, num_hidden_layers=4)
    AutoModelForCausalLM.from_config(described).save_pretrained(tmp_path)
    model = add_lora(load_model(Weights(tmp_path, "local"), torch.float32, "cpu"), LORA, seed=0).train()
    long = tokenization.Sequence("long", [*range(30)], [*range(20)])
    batches = [pack(rows, multiple=32) for rows in (sequences(8), sequences(4), sequences(8), [long])]
    module = SFTModule(model, replace(RECIPE, batch_size=8), total_steps=4)
    expected = [module.loss(batch) for batch in batches]
    sum(expected).backward()  # type: ignore[union-attr]
    plain = gradients(model)
    model.zero_grad()
    monkeypatch.setattr(PackedSequences, "training", on_cuda)
    programs: list[tuple[int, ...]] = []

    def watched(graph: Any, inputs: list[Any]) -> Any:
        programs.append(max((tuple(i.shape) for i in inputs if hasattr(i, "shape")), key=math.prod))
        return graph

    compiled = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, **_: compiled(function, dynamic=False, fullgraph=True, backend=watched)
    )
    compile_for_training(model)
    losses = [module.loss(batch) for batch in batches]
    sum(losses).backward()  # type: ignore[union-attr]
    assert [batch.ids.shape[1] for batch in batches] == [64, 32, 64, 64]
    assert len(programs) == 2
    for one, other in zip(expected, losses, strict=True):
        assert abs(one.item() - other.item()) < 1e-5
    for name, gradient in gradients(model).items():
        assert (plain[name] - gradient).abs().max() < 1e-5, name


def test_the_gpus_kernel_gets_the_window_that_transformers_means(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window of 4 tokens is the token itself and the three before it."""
    windows: list[tuple[int, int]] = []

    def kernel(q: torch.Tensor, *unused: Any, window_size: tuple[int, int]) -> torch.Tensor:
        windows.append(window_size)
        return q

    monkeypatch.setattr(attention, "HALF", (torch.float32,))
    monkeypatch.setattr(attention, "varlen", SimpleNamespace(varlen_attn=kernel))
    packed = PackedSequences([7], boundaries=torch.tensor([0, 7], dtype=torch.int32), longest=7)
    q, k, v = torch.zeros(3, 1, 2, 7, 8)
    for window in (None, 4):
        packed_attention(None, q, k, v, None, packed=packed, sliding_window=window)
    sees = sliding_window_causal_mask_function(4)
    seen = [earlier for earlier in range(7) if sees(0, 0, torch.tensor(6), torch.tensor(earlier))]
    assert seen == [3, 4, 5, 6]
    assert windows == [(-1, 0), (len(seen) - 1, 0)]


def test_layers_are_compiled_where_the_program_is_the_same_for_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, bfloat16, has_kernel in itertools.product(("cpu", "H100"), (False, True), (False, True)):
        monkeypatch.setattr(fitting, "detect_device", lambda accelerator, name=name: Device(name, None))
        monkeypatch.setattr(attention, "HAS_VARLEN", has_kernel)
        assert fitting._compiles(Hardware(), bfloat16) == (name == "H100" and bfloat16 and has_kernel)
        assert fitting._compiles(Hardware(compiled="on"), bfloat16)
        assert not fitting._compiles(Hardware(compiled="off"), bfloat16)


def to_cpu(to: Any) -> Any:
    """Tensor.to that stays on the CPU when sent to CUDA."""

    def moved(self: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        if arguments and isinstance(arguments[0], torch.device) and arguments[0].type == "cuda":
            return self
        return to(self, *arguments, **options)

    return moved


def test_rotated_queries_of_mixed_precision_are_attended_to_in_its_dtype() -> None:
    """Autocast rotates queries and keys in float32 and leaves the values in bfloat16."""
    shape = (1, 2, 7, 8)
    q, k, v = (torch.randn(shape, requires_grad=True) for _ in range(3))
    packed = PackedSequences.training([4, 3], torch.device("cpu"))
    mixed, _ = packed_attention(None, q, k, v.bfloat16(), None, packed=packed)
    mixed.sum().backward()
    whole, _ = packed_attention(None, q.detach(), k.detach(), v.detach(), None, packed=packed)
    assert mixed.dtype == torch.bfloat16
    assert q.grad is not None
    torch.testing.assert_close(mixed.float(), whole, atol=0.05, rtol=0.05)
