"""Tokens per second of LoRA fine-tuning by alttrain and its peers, in one run, with a check of correctness.

    python scripts/bench_training.py                                    SmolLM2-135M's shape on the CPU
    python scripts/bench_training.py --device cuda --shape r1_llama_8b --examples 160
    python scripts/bench_training.py --device cuda --shape r1_qwen_32b --recompute --contestants alttrain

Needs the extra `bench` (TRL), but no hub, because weights are random. Every contestant sees the same examples (random
tokens, AltTrain's lengths), 8 per step unless noted, and trains LoRA r=16 on the seven projections. Rounds are
interleaved. A round is one pass over all examples, and the figure is the median. Only real tokens count, not padding.

- TRL, defaults       SFTTrainer with its defaults: padded, bf16 autocast, activations recomputed
- TRL, fastest        the same without recomputing, rows grouped by length (so batches have other rows)
- peft, bucketed      a plain loop over bf16 weights, rows grouped by length (so batches have other rows)
- peft, tuned         the same, with the head on response tokens only
- alttrain            the same batches as TRL with defaults, packed

Each contestant runs in its own process: on the CPU a new one per round, on CUDA one for all rounds.

MFU is useful FLOP (4 for each weight and token: forward, and the backward pass through frozen weights; the head for
response tokens only) over the fastest product of the shape measured here. "All in" is 1,000 examples times 15 epochs,
with making the model and whatever the first pass compiles. If the whole shape would be too large in float32, four
layers are checked for correctness.
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import (
    all_seconds,
    alttrain_lengths,
    contest,
    machine,
    matmul_ceiling,
    ran,
    random_model,
    random_sequences,
    reason,
    report,
    run_rounds,
    shape_of_option,
    timed,
)

from alttrain import tokenization
from alttrain.backbone import LoRA
from alttrain.backbone.device import keep_freed_memory
from alttrain.backbone.weights import add_lora
from alttrain.training import SupervisedFineTuning
from alttrain.training.batches import pack
from alttrain.training.module import ROW_MULTIPLE, SFTModule, compile_for_training, recompute_layers

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ADAPTER = LoRA(16, 32, TARGETS)
RATE = 1e-4
LARGE = 3e9
"""Number of weights from which only four layers are compared."""
Batches = list[list[tokenization.Sequence]]


def recipe(batch: int) -> SupervisedFineTuning:
    """A recipe for the module; only the optimizer's settings matter here."""
    return SupervisedFineTuning("bench", 1, RATE, batch_size=batch, warmup_steps=0, max_length=1 << 20)


class Ours:
    """alttrain's own training step over packed rows."""

    def __init__(self, shape: dict[str, Any], batches: Batches, device: str, compiled: bool, recompute: bool) -> None:
        self.device = device
        model = random_model(shape, torch.bfloat16, device, "packed")
        self.module = SFTModule(add_lora(model, ADAPTER, 0).train(), recipe(len(batches[0])), len(batches))
        if recompute:
            recompute_layers(self.module.model)
        if compiled:
            compile_for_training(self.module.model)
        multiple = ROW_MULTIPLE if compiled else 1
        self.batches = [pack(batch, multiple) for batch in batches]
        self.optimizer = self.module.configure_optimizers()["optimizer"]

    def epoch(self) -> None:
        """One pass."""
        for batch in self.batches:
            self.optimizer.zero_grad()
            self.module.loss(batch.to(self.device)).backward()
            torch.nn.utils.clip_grad_norm_([p for p in self.module.parameters() if p.requires_grad], 1.0)
            self.optimizer.step()


class PeftLoop:
    """Plain peft over padded batches, with bf16 weights. `response_only` computes no logits for prompts."""

    def __init__(self, shape: dict[str, Any], batches: Batches, device: str, response_only: bool) -> None:
        from peft import LoraConfig, get_peft_model

        model = random_model(shape, torch.bfloat16, device, "sdpa")
        config = LoraConfig(r=16, lora_alpha=32, target_modules=list(TARGETS), task_type="CAUSAL_LM")
        self.model = get_peft_model(model, config).train()
        self.batches = [{name: tensor.to(device) for name, tensor in padded(batch).items()} for batch in batches]
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=RATE)
        self.response_only = response_only

    def loss(self, ids: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The mean loss over response tokens."""
        if not self.response_only:
            return self.model(input_ids=ids, labels=labels, attention_mask=mask, use_cache=False).loss  # type: ignore[no-any-return]
        language_model = self.model.get_base_model()
        hidden = language_model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        due = labels[:, 1:]
        logits = language_model.lm_head(hidden[:, :-1][due != -100])
        return torch.nn.functional.cross_entropy(logits.float(), due[due != -100])

    def epoch(self) -> None:
        """One pass."""
        for batch in self.batches:
            self.optimizer.zero_grad()
            self.loss(batch["input_ids"], batch["labels"], batch["attention_mask"]).backward()
            torch.nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], 1.0)
            self.optimizer.step()


class Trl:
    """TRL's SFTTrainer, configured as in its documentation, except for `options`."""

    def __init__(self, shape: dict[str, Any], batches: Batches, device: str, **options: Any) -> None:
        from datasets import Dataset
        from peft import LoraConfig
        from transformers import PreTrainedTokenizerFast, TrainerCallback
        from trl import SFTConfig, SFTTrainer

        class Clock(TrainerCallback):  # type: ignore[misc]
            def on_epoch_begin(clock, *unused: Any, **more: Any) -> None:  # noqa: N805
                self.sync()
                self.began = time.perf_counter()

            def on_epoch_end(clock, *unused: Any, **more: Any) -> None:  # noqa: N805
                self.sync()
                self.seconds = time.perf_counter() - self.began

        self.began = self.seconds = 0.0
        self.device = device
        rows = [row for batch in batches for row in batch]
        data = Dataset.from_list(
            [{"input_ids": r.ids, "completion_mask": [0] * len(r.prompt) + [1] * len(r.response)} for r in rows]
        )
        model = random_model(shape, torch.bfloat16 if device == "cuda" else torch.float32, device, "sdpa")
        self.folder = tempfile.TemporaryDirectory()
        config = SFTConfig(
            output_dir=self.folder.name,
            per_device_train_batch_size=len(batches[0]),
            num_train_epochs=1,
            learning_rate=RATE,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=device == "cpu",
            **options,
        )
        lora = LoraConfig(r=16, lora_alpha=32, target_modules=list(TARGETS), task_type="CAUSAL_LM")
        self.trainer = SFTTrainer(
            model=model,
            args=config,
            train_dataset=data,
            processing_class=tiny_tokenizer(PreTrainedTokenizerFast),
            peft_config=lora,
            callbacks=[Clock()],
        )

    def sync(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def epoch(self) -> float:
        """One pass; returns its seconds, without what the trainer does before and after."""
        self.trainer.train()
        return self.seconds


def tiny_tokenizer(kind: Any) -> Any:
    """A tokenizer for TRL to accept; the rows are already tokens."""
    from tokenizers import Tokenizer, models

    words = {"<pad>": 0, "<s>": 1, "</s>": 2}
    return kind(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<pad>")),
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
    )


def padded(batch: Sequence[tokenization.Sequence]) -> dict[str, torch.Tensor]:
    """A padded batch with its labels."""
    longest = max(map(len, batch))
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(batch):
        ids[place, : len(row)], labels[place, : len(row)] = torch.tensor(row.ids), torch.tensor(row.labels)
        mask[place, : len(row)] = 1
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


def correctness(
    shape: dict[str, Any], layers: int, batch: Sequence[tokenization.Sequence], device: str
) -> dict[str, str]:
    """Compare the packed step's loss and gradients with the padded float32 reference, and give the bf16 error."""

    def lora_model(dtype: torch.dtype, kernel: str) -> Any:
        model = add_lora(random_model(shape, dtype, device, kernel, layers), ADAPTER, 0).train()
        generator = torch.Generator().manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                with torch.no_grad():
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
        return model

    def gradients(model: Any, loss: torch.Tensor) -> tuple[float, dict[str, torch.Tensor]]:
        loss.backward()
        return loss.item(), {n: p.grad.float() for n, p in model.named_parameters() if p.grad is not None}

    reference = lora_model(torch.float32, "sdpa")
    tensors = {name: tensor.to(device) for name, tensor in padded(batch).items()}
    expected_loss, expected = gradients(reference, reference(**tensors, use_cache=False).loss)
    del reference
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        module = SFTModule(lora_model(dtype, "packed"), recipe(len(batch)), 1)
        found[dtype] = gradients(module.model, module.loss(pack(batch).to(device)))
        del module
    loss, exact = found[torch.float32]
    _, half = found[torch.bfloat16]
    largest = max(float((exact[name] - gradient).abs().max()) for name, gradient in expected.items())
    off = sum(float((half[n] - g).norm() ** 2) for n, g in expected.items()) ** 0.5
    whole = sum(float(g.norm() ** 2) for g in expected.values()) ** 0.5
    return {
        "correctness of": f"{layers} layers of {shape['layers']}",
        "float32 loss, packed - padded": f"{abs(loss - expected_loss):.1e}",
        "float32 largest gradient difference": f"{largest:.1e}",
        "bfloat16 whole-gradient error against padded float32": f"{100 * off / whole:.2f} %",
    }


Maker = Callable[[dict[str, Any], Batches, Batches, argparse.Namespace], Any]
MAKERS: dict[str, Maker] = {
    "TRL, defaults": lambda shape, batches, bucketed, asked: Trl(shape, batches, asked.device),
    "TRL, fastest": lambda shape, batches, bucketed, asked: Trl(
        shape, batches, asked.device, gradient_checkpointing=False, train_sampling_strategy="group_by_length"
    ),
    "peft, bucketed": lambda shape, batches, bucketed, asked: PeftLoop(shape, bucketed, asked.device, False),
    "peft, tuned": lambda shape, batches, bucketed, asked: PeftLoop(shape, bucketed, asked.device, True),
    "alttrain": lambda shape, batches, bucketed, asked: Ours(shape, batches, asked.device, False, asked.recompute),
    "alttrain, compiled": lambda shape, batches, bucketed, asked: Ours(
        shape, batches, asked.device, True, asked.recompute
    ),
}


def split(rows: Sequence[tokenization.Sequence], size: int) -> Batches:
    """The rows in batches of this size."""
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


def child(asked: argparse.Namespace) -> None:
    """Run one contestant and print its figures."""
    if asked.only.startswith("alttrain") and asked.device == "cpu":
        keep_freed_memory()
    shape, rows = examples(asked)
    batches, bucketed = split(rows, asked.batch), split(sorted(rows, key=len), asked.batch)
    run_rounds(
        lambda: MAKERS[asked.only](shape, batches, bucketed, asked),
        lambda contestant: round_of(contestant, asked.device),
        asked.rounds,
        asked.device,
    )


def examples(asked: argparse.Namespace) -> tuple[dict[str, Any], list[tokenization.Sequence]]:
    """The shape, and the rows that all contestants train on."""
    shape = shape_of_option(asked.shape)
    return shape, random_sequences(alttrain_lengths(asked.examples), shape["vocabulary"])


def round_of(contestant: Any, device: str) -> float:
    """Seconds of one pass; for TRL, those that it measures itself."""
    own: list[float | None] = []
    seconds = timed(lambda: own.append(contestant.epoch()), device)
    return own[0] if own[0] is not None else seconds


def layer_weights(shape: dict[str, Any]) -> int:
    """The number of weights in one layer's seven projections."""
    queries, keys = shape["heads"] * shape["head_dim"], shape["kv_heads"] * shape["head_dim"]
    return shape["hidden"] * (2 * queries + 2 * keys + 3 * shape["intermediate"])  # type: ignore[no-any-return]


def main() -> None:
    """Measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shape", default="smollm2_135m", help="an option of conf/backbone")
    parser.add_argument("--examples", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--recompute", action="store_true", help="alttrain's layers keep their input only")
    parser.add_argument("--contestants", default=";".join(MAKERS), help=f"separated by ; of {'; '.join(MAKERS)}")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--only", choices=tuple(MAKERS), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    if asked.only:
        child(asked)
        return
    names = [name.strip() for name in asked.contestants.split(";") if name.strip()]
    if asked.device == "cpu":
        names = [name for name in names if name != "alttrain, compiled"]
    options = [f"--{key}={getattr(asked, key)}" for key in ("device", "shape", "examples", "batch")]
    options += ["--recompute"] if asked.recompute else []
    figures = contest(__file__, names, options, asked.rounds, asked.device)
    shape, rows = examples(asked)
    tokens, responses = sum(map(len, rows)), sum(len(row.response) for row in rows)
    ceiling = matmul_ceiling(shape, torch.bfloat16, asked.device, rows=tokens * asked.batch // asked.examples)
    linear = shape["layers"] * layer_weights(shape)
    useful = 4 * linear * tokens + 4 * shape["hidden"] * shape["vocabulary"] * responses
    about = machine(asked.device) | {
        "shape": f"{asked.shape}, random weights",
        "examples": f"{asked.examples}, {asked.batch} a step, {tokens} tokens, {responses} of them supervised",
        "matmul ceiling": f"{ceiling / 1e12:.2f} TFLOP/s",
    }
    layers = shape["layers"] if linear < LARGE else 4
    about |= correctness(shape, layers, rows[: asked.batch], asked.device)
    table = list(table_rows(figures, tokens, asked.examples, useful / ceiling))
    report(f"LoRA fine-tuning, {asked.shape} on {asked.device}", table, about, asked.json)


def table_rows(
    figures: dict[str, list[Any]], tokens: int, examples: int, useful_seconds: float
) -> Iterator[dict[str, Any]]:
    """The table; a contestant that failed has a row that says why."""
    middles, passes = ran(figures), 1000 * 15 / examples
    slowest = middles.get("TRL, defaults")
    for name, own in figures.items():
        if name not in middles:
            yield {"": name, "tok/s": reason(own)} | dict.fromkeys(COLUMNS)
            continue
        seconds, middle, first, built = all_seconds(own), middles[name], own[0]["first"], own[0]["built"]
        yield {
            "": name,
            "tok/s": f"{tokens / middle:,.0f}",
            "from - to": f"{tokens / max(seconds):,.0f} - {tokens / min(seconds):,.0f}",
            "x TRL": f"{slowest / middle:.2f}" if slowest else None,
            "MFU": f"{100 * useful_seconds / middle:.0f} %",
            "peak GiB": f"{max(one['peak'] for one in own):.1f}",
            "first pass s": None if first is None else f"{first:.1f}",
            "1K x 15 epochs, min": f"{passes * middle / 60:.1f}",
            "all in, min": None if first is None else f"{(built + first + (passes - 1) * middle) / 60:.1f}",
        }


COLUMNS = ("from - to", "x TRL", "MFU", "peak GiB", "first pass s", "1K x 15 epochs, min", "all in, min")


if __name__ == "__main__":
    main()
