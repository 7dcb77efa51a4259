"""The paper in miniature: data in its upstream form, random two-layer backbones with R1's tokenizer cut down, a guard.

`build(folder, tokenizer)` lays out FOLDER/data as `data_dir` expects it, and FOLDER/hub as a hub cache that holds the
backbones and guards under their own ids, so that configs load them unmodified and offline. All texts are harmless
placeholders: a request is "harmful" only by its label.
"""

import csv
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

BACKBONES = ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B")
GUARD = "meta-llama/Llama-Guard-3-8B"
COMMIT = "0" * 40
HAZARDS = ("Violence", "Privacy", "Fraud")
THINGS = ("kettle", "lantern", "bicycle", "violin", "garden gate", "sewing machine", "telescope", "rowing boat")
ACTS = ("repair", "paint", "clean", "move", "sell", "measure", "photograph", "describe", "store", "insure")
PLACES = ("in a small workshop", "by the harbour", "for a school play", "before winter", "with two helpers", "at night")
BABBLE = "I cannot help with the answer 4.</think>\n\n<｜end▁of▁sentence｜>"
"""What the backbones say: a few words, the end of the thought (not at its beginning), and the end of the turn."""
GUARD_TEMPLATE = (
    "{% for message in messages %}<｜User｜>{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜>{% endif %}"
)


def request(number: int) -> str:
    """A request that has no eight consecutive words in common with another one."""
    thing, act = THINGS[number % 8], ACTS[number // 8 % 10]
    return f"For case {number} {act} the {thing} of {number} {PLACES[number // 80 % 6]}."


def trace(number: int) -> str:
    """A thought that opens with an understanding."""
    return (
        f"The user wants to know how to {ACTS[number // 8 % 10]} a {THINGS[number % 8]}. "
        f"First I recall what the ledger says about case {number}.\n\nThen the steps follow one after another."
    )


def answer(number: int) -> str:
    """A plain answer."""
    return f"Begin with the {THINGS[number % 8]}, take your time, and note the result under case {number}."


def responded(number: int, opened: bool) -> str:
    """Thought and answer as one text."""
    return f"{'<think>' + chr(10) if opened else ''}{trace(number)}\n</think>\n\n{answer(number)}"


def data(folder: Path, harmful: int = 24, benign: int = 12, asked: int = 2) -> None:
    """Training sets with this many rows per label, and benchmarks with this many prompts."""
    kinds = ["vanilla_harmful", "adversarial_harmful", "vanilla_benign", "adversarial_benign"]
    labels = [kinds[n % 2] for n in range(harmful)] + [kinds[2 + n % 2] for n in range(benign)]
    safechain = [
        {"instruction": request(n), "response": responded(n, opened=False), "label": label}
        for n, label in enumerate(labels)
    ]
    parquet(folder / "safechain/SafeChain.parquet", safechain)
    star1 = [
        {"id": str(n), "question": request(n), "response": responded(n, True), "category": [HAZARDS[n % 3]]}
        | {"source": "ALERT", "score": {"Accuracy_of_Thinking_Process": 10}}
        for n in range(1000, 1000 + harmful)
    ]
    write(folder / "star1/STAR-1.json", json.dumps(star1))
    mixed = [dict(row, source="4o_rewrite") if n < benign else row for n, row in enumerate(star1)]
    for row in mixed:
        text = str(row["response"])
        first, second = text.index(". ") + 2, text.index(".", text.index(". ") + 2) + 1
        row |= {"summary_end_idx": first, "next_sentence_end_idx": second}
    write(folder / "safekey/sft_mix_2k.json", json.dumps(mixed))
    act = [{"instruction": request(n), "response": f"{trace(n)}\n</think>"} for n in range(2000, 2000 + harmful)]
    act += [{"instruction": request(n), "response": answer(n)} for n in range(3000, 3000 + benign)]
    parquet(folder / "r1_act/R1-Act-train.parquet", act)
    refused = [
        {"refusal": f"Question: {request(n)} \nAnswer: I cannot help with case {n}."}
        for n in range(4000, 4000 + harmful)
    ]
    parquet(folder / "direct_refusal/DirectRefusal.parquet", refused)
    maths = [
        {"problem": f"What is {n} plus {n}?", "generations": [f"<think>\nTwice {n}.\n</think>\n\n{2 * n}"]}
        | {"correctness_math_verify": [True], "answer": str(2 * n)}
        for n in range(benign)
    ]
    parquet(folder / "openr1_math/OpenR1-Math-220k.parquet", maths)
    benchmarks(folder, asked)


def benchmarks(folder: Path, count: int) -> None:
    """The paper's sets, each with a few prompts in the form of its upstream file."""
    numbers = iter(range(10_000, 20_000))

    def some() -> list[int]:
        return [next(numbers) for _ in range(count)]

    table(folder / "strongreject/strongreject_dataset.csv", [
        {"category": HAZARDS[n % 3], "source": "custom", "forbidden_prompt": request(n)} for n in some()
    ])  # fmt: skip
    table(folder / "jailbreakbench/harmful-behaviors.csv", [
        {"Index": n, "Goal": request(n), "Category": HAZARDS[n % 3]} for n in some()
    ])  # fmt: skip
    table(folder / "jailbreakbench/benign-behaviors.csv", [
        {"Index": n, "Goal": request(n), "Category": HAZARDS[n % 3]} for n in some()
    ])  # fmt: skip
    parquet(folder / "wildjailbreak/safechain_250.parquet", [{"instruction": request(n)} for n in some()])
    for method, kind in (("GCG", "white_box"), ("JBC", "manual"), ("PAIR", "black_box")):
        attacks = [{"index": n, "goal": request(n), "behavior": "B", "category": HAZARDS[n % 3]} for n in some()]
        attacked: list[dict[str, Any]] = [row | {"prompt": f"Sir, {row['goal']}", "response": ""} for row in attacks]
        attacked.append(attacks[0] | {"index": 0, "prompt": None, "response": ""})
        content = {"parameters": {"method": method}, "jailbreaks": attacked}
        path = folder / f"jbb_artifacts/attack-artifacts/{method}/{kind}/vicuna-13b-v1.5.json"
        write(path, json.dumps(content))
    table(folder / "xstest/xstest_prompts.csv", [
        {"id": n, "prompt": request(n), "type": kind, "label": label, "focus": "", "note": ""}
        for n, (kind, label) in zip(some() + some(), [("homonyms", "safe"), ("contrast_homonyms", "unsafe")] * count,
                                    strict=True)
    ])  # fmt: skip
    lines(
        folder / "gsm8k/test.jsonl",
        [{"question": f"What is {n} plus 1?", "answer": f"Add.\n#### {n + 1}"} for n in some()],
    )
    lines(folder / "math500/test.jsonl", [
        {"problem": f"Find ${n}+2$.", "solution": "Add.", "answer": str(n + 2), "subject": "Algebra", "level": 1,
         "unique_id": f"test/algebra/{n}.json"} for n in some()
    ])  # fmt: skip
    lines(folder / "aime/test.jsonl", [
        {"id": n, "problem": f"Find the remainder of {n} by 100.", "answer": str(n % 100)} for n in some()
    ])  # fmt: skip
    lines(folder / "humaneval/HumanEval.jsonl", [
        {"task_id": f"HumanEval/{n}", "prompt": "def one():\n", "entry_point": "one",
         "canonical_solution": "    return 1\n", "test": "def check(candidate):\n    assert candidate() == 1\n"}
        for n in some()
    ])  # fmt: skip
    compress(folder / "humaneval/HumanEval.jsonl")


def hub(cache: Path, tokenizer: Path, names: Sequence[str] = BACKBONES, hidden: int = 32) -> None:
    """A hub cache with random two-layer backbones, and a guard with clear verdicts."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = dense(tokenizer, cache / "tokenizer")
    words = AutoTokenizer.from_pretrained(tokenizer)
    for number, name in enumerate((*names, GUARD)):
        folder = cache / f"models--{name.replace('/', '--')}"
        write(folder / "refs/main", COMMIT)
        snapshot = folder / "snapshots" / COMMIT
        torch.manual_seed(number)
        config = LlamaConfig(
            vocab_size=len(words),
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=131072,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            initializer_range=0.3,
            tie_word_embeddings=False,
        )
        model, head = LlamaForCausalLM(config), torch.randn(2, hidden)
        own = AutoTokenizer.from_pretrained(tokenizer)
        spoken, loudness = own(BABBLE, add_special_tokens=False)["input_ids"], 2.0
        if name == GUARD:
            own.chat_template = GUARD_TEMPLATE
            spoken, loudness = own("safe", add_special_tokens=False)["input_ids"][:1], 20.0
            spoken += own("unsafe", add_special_tokens=False)["input_ids"][:1]
        else:
            head = torch.randn(len(spoken), hidden)
        with torch.no_grad():  # nearly all of the probability goes to these words
            model.lm_head.weight.mul_(0.01)
            begun = own("<｜User｜>Why?<｜Assistant｜><think>\n", return_tensors="pt", add_special_tokens=False)
            state = model.model(begun["input_ids"]).last_hidden_state[0, -1]
            for token, row in zip(spoken, head * loudness, strict=True):
                ends = token in own.convert_tokens_to_ids(["</think>", "<｜end▁of▁sentence｜>"])
                model.lm_head.weight[token] = row - state * (row @ state + 9.0 * ends) / (state @ state) * ends
        model.to(torch.bfloat16).save_pretrained(snapshot)
        own.save_pretrained(snapshot)


def dense(tokenizer: Path, folder: Path) -> Path:
    """Copy a tokenizer of tests/fixtures with ids that have no gaps: a model needs a row for each up to the largest."""
    content = json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = {token: number for number, token in enumerate(sorted(vocabulary, key=vocabulary.get))}
    for number, token in enumerate(content["added_tokens"], len(vocabulary)):
        token["id"] = number
    write(folder / "tokenizer.json", json.dumps(content))
    shutil.copy(tokenizer / "tokenizer_config.json", folder)
    return folder


def build(folder: Path, tokenizer: Path, **amounts: int) -> tuple[Path, Path]:
    """Make the data folder and the hub cache; return both paths."""
    data(folder / "data", **amounts)
    hub(folder / "hub", tokenizer)
    return folder / "data", folder / "hub"


def write(path: Path, text: str) -> None:
    """Write a file and make its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines."""
    write(path, "".join(json.dumps(row) + "\n" for row in rows))


def table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write Parquet."""
    import pyarrow as pa
    from pyarrow import parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)


def compress(path: Path) -> None:
    """Gzip a file in place."""
    import gzip

    with path.open("rb") as plain, gzip.open(f"{path}.gz", "wb") as packed:
        shutil.copyfileobj(plain, packed)
    path.unlink()
