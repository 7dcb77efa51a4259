"""SafeKey's losses on packed rows against a padded reference; their marks, their epochs, where their heads are kept."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import LORA, backbone
from torch.nn import functional

from alttrain import tokenization
from alttrain.backbone import Weights
from alttrain.backbone.weights import add_lora, load_model, load_tokenizer
from alttrain.records import Example, Segment
from alttrain.tokenization import Marks, Renderer
from alttrain.training import Hardware, ResponseLoss, SafeKeyLoss, SupervisedFineTuning
from alttrain.training.batches import BatchStream, pack
from alttrain.training.fit import fit
from alttrain.training.module import SFTModule

SAFEKEY = SafeKeyLoss(key_weight=0.2, head_weight=0.3, theta=0.4, last_epochs=2)
RECIPE = SupervisedFineTuning("t", 3, 1e-2, batch_size=4, warmup_steps=0, max_length=64, objective=SAFEKEY)


def rows(count: int = 9) -> list[tokenization.Sequence]:
    """Sequences of unlike lengths; every fourth has no marks."""
    made = []
    for n in range(count):
        prompt, response = [(7 * n + j) % 250 for j in range(2 + n % 5)], [(3 * n + j) % 250 for j in range(8 + n % 7)]
        marks = None if n % 4 == 3 else Marks(understood=1 + n % 3, key=4 + n % 4, harmful=n % 2 == 0)
        made.append(tokenization.Sequence(f"s{n}", prompt, response, marks))
    return made


def adapted(folder: Path) -> Any:
    model = add_lora(load_model(Weights(folder, "local"), torch.float32, "cpu"), LORA, seed=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    return model


def padded(model: Any, module: SFTModule, sequences: list[tokenization.Sequence]) -> torch.Tensor:
    """The objective by transformers on padded rows: the request is hidden from the key sentence by the mask alone."""
    longest = max(map(len, sequences))
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    seen, response = torch.zeros_like(ids), torch.zeros_like(ids)
    for n, sequence in enumerate(sequences):
        ids[n, : len(sequence)] = torch.tensor(sequence.ids)
        seen[n, : len(sequence)] = 1
        response[n, len(sequence.prompt) : len(sequence)] = 1
    positions = torch.arange(longest).expand_as(ids)

    def passed(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out = model(input_ids=ids, attention_mask=mask, position_ids=positions, output_hidden_states=True)
        losses = functional.cross_entropy(out.logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
        return losses, out.hidden_states[-1]

    losses, hidden = passed(seen)
    total = sum(losses[n][response[n, 1:] == 1].mean() for n in range(len(sequences))) / len(sequences)
    blind, _ = passed(seen * response)
    heads = module.heads
    assert heads is not None
    for n, sequence in enumerate(sequences):
        if sequence.marks is None:
            continue
        begins = len(sequence.prompt)
        key = blind[n, begins + sequence.marks.understood - 1 : begins + sequence.marks.key - 1].mean()
        due, end = torch.tensor([float(sequence.marks.harmful)]), begins + sequence.marks.understood
        alone = functional.binary_cross_entropy_with_logits(heads.alone(hidden[n, begins:end].mean(0)), due)
        whole = functional.binary_cross_entropy_with_logits(heads.whole(hidden[n, :end].mean(0)), due)
        head = SAFEKEY.theta * alone + (1 - SAFEKEY.theta) * whole
        total = total + (SAFEKEY.key_weight * key + SAFEKEY.head_weight * head) / len(sequences)
    return total  # type: ignore[return-value]


def gradients(module: SFTModule) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("multiple", [1, 64])
def test_losses_and_gradients_equal_the_padded_reference(tiny_folder: Path, multiple: int) -> None:
    model = adapted(tiny_folder)
    module = SFTModule(model, RECIPE, total_steps=4)
    loss = module.loss(pack(rows(), multiple, mean_over="examples", marks=True))
    loss.backward()
    packed = gradients(module)
    module.zero_grad()
    model.get_base_model().set_attn_implementation("eager")
    reference = padded(model, module, rows())
    reference.backward()
    expected = gradients(module)
    assert abs(loss.item() - reference.item()) < 1e-5
    assert {"heads.alone.weight", "heads.whole.weight"} < packed.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (packed[name] - gradient).abs().max() < 1e-5, name


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_key_sentences_whose_positions_go_on_do_not_see_each_other(tiny_folder: Path, kernel: Any) -> None:
    """The first key sentence ends at position 17, and the second begins at 18."""
    asked = [list(range(10)), list(range(20, 38))]
    marked = [
        tokenization.Sequence(f"s{n}", ids, list(range(40, 52)), Marks(4 - n, 8 - n, True))
        for n, ids in enumerate(asked)
    ]
    batch = pack(marked, mean_over="examples", marks=True)
    assert batch.marked is not None
    assert batch.marked.key.positions.tolist() == [[*range(10, 25)]]
    losses = []
    for name in ("packed", kernel):
        module = SFTModule(load_model(Weights(tiny_folder, "local"), torch.float32, "cpu", name), RECIPE, 4)
        losses.append(module.loss(replace(batch.marked.key, loss_scale=1.0)).item())
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


def test_without_marks_it_is_the_mean_over_examples(tiny_folder: Path) -> None:
    module = SFTModule(adapted(tiny_folder), RECIPE, total_steps=4)
    plain = SFTModule(module.model, replace(RECIPE, objective=ResponseLoss("examples")), total_steps=4)
    alone = [plain.loss(pack([row])).item() for row in rows()]
    batch = pack(rows(), mean_over="examples")
    assert module.loss(batch).item() == plain.loss(batch).item() == pytest.approx(sum(alone) / len(alone), abs=1e-5)
    unmarked = pack([replace(row, marks=None) for row in rows()], mean_over="examples", marks=True)
    assert unmarked.marked is not None
    assert unmarked.marked.share == 0
    assert module.loss(unmarked).item() == plain.loss(batch).item()


@pytest.mark.parametrize("objective", [SAFEKEY, ResponseLoss("examples"), ResponseLoss("tokens")])
def test_a_divided_step_is_the_whole_one(tiny_folder: Path, objective: Any) -> None:
    recipe = replace(RECIPE, epochs=2, batch_size=9, objective=objective)
    module = SFTModule(adapted(tiny_folder), recipe, total_steps=4)
    (whole, *_) = BatchStream(rows(), recipe, seed=0)
    parts = [
        part
        for device in range(2)
        for part in list(BatchStream(rows(), recipe, seed=0, devices=2, device=device, passes=3))[:3]
    ]
    assert len(parts) == 6
    divided = sum(module.loss(part).item() * part.loss_scale for part in parts) / len(parts)
    assert divided == pytest.approx(module.loss(whole).item(), abs=1e-5)


def test_it_begins_with_the_last_epochs() -> None:
    stream = BatchStream(rows(), RECIPE, seed=0)
    assert [batch.marked is not None for batch in stream] == [False] * 3 + [True] * 6
    assert [batch.marked is not None for batch in BatchStream(rows(), RECIPE, seed=0, start=2)] == [False] + [True] * 6


def test_heads_are_in_the_checkpoints_and_not_in_the_adapter(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed training ends with the bytes of an uninterrupted one, the heads' among them."""
    kept: dict[str, Any] = {}

    def trained(folder: Path) -> dict[str, torch.Tensor]:
        model = add_lora(load_model(Weights(tiny_folder, "local"), torch.float32, "cpu"), LORA, seed=0)
        hardware = Hardware(accelerator="cpu", precision="float32", checkpoint_every=5)
        return fit(model, rows(), RECIPE, hardware, 3, folder, False, False).weights

    step = SFTModule.training_step

    def watched(self: SFTModule, batch: Any, index: int) -> torch.Tensor:
        if self.global_step == kept.get("stop"):
            raise RuntimeError("killed")
        kept["module"] = self
        return step(self, batch, index)

    monkeypatch.setattr(SFTModule, "training_step", watched)
    whole = trained(tmp_path / "whole")
    heads = {name: p.detach().clone() for name, p in kept["module"].heads.named_parameters()}
    assert whole
    assert all("lora" in name for name in whole)
    kept["stop"] = 7
    with pytest.raises(RuntimeError, match="killed"):
        trained(tmp_path / "cut")
    saved = torch.load(tmp_path / "cut" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert {"heads.alone.weight", "heads.whole.weight"} < saved.keys()
    kept["stop"] = None
    resumed = trained(tmp_path / "cut")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert all(torch.equal(heads[name], p) for name, p in kept["module"].heads.named_parameters())


def example(key_sentence: str = "", **changes: Any) -> Example:
    thought = (
        Segment("understanding", "The user asks how."),
        Segment("assessment", "That would hurt people. It is unlawful."),
        Segment("refusal", "No."),
    )
    return replace(
        Example("e", "Q?", "harmful", thought=thought, answer="Sorry.", key_sentence=key_sentence), **changes
    )


@pytest.mark.parametrize(
    ("made", "before", "key"),
    [
        (example(), "The user asks how.\n\n", "That would hurt people."),
        (example("It is unlawful."), "The user asks how.\n\nThat would hurt people. ", "It is unlawful."),
        (
            example("Not in it.", thought=(Segment("reasoning", "The user asks how. That hurts."),)),
            None,
            None,
        ),
        (
            example("That hurts.", thought=(Segment("reasoning", "The user asks how. That hurts."),)),
            "The user asks how. ",
            "That hurts.",
        ),
        (example("The user asks how."), None, None),
    ],
)
def test_the_key_sentence_is_marked_in_tokens(tiny_folder: Path, made: Example, before: Any, key: Any) -> None:
    """A token is a byte here, so that the tokens are the characters."""
    renderer = Renderer(backbone(tiny_folder), load_tokenizer(tiny_folder))
    (sequence,) = renderer.mark([made], renderer.render([made]))
    if before is None:
        assert sequence.marks is None
        return
    assert sequence.marks is not None
    assert sequence.marks.harmful
    understood = renderer.decode(sequence.response[: sequence.marks.understood])
    assert understood.endswith(before)
    assert renderer.decode(sequence.response[sequence.marks.understood : sequence.marks.key]) == key
