"""Cut the tokenizers of ../shared/tokenizers down to the small ones of tests/fixtures/tokenizers.

    python scripts/build_tokenizers.py

A small tokenizer keeps every added token, the chat template, the normaliser, the pre-tokenizer and the decoder. Of the
vocabulary it keeps the 256 bytes, the tokens that our own texts need, and short runs of punctuation and blanks, with
all merges that produce them. Ids are those of the full tokenizer, so our own texts have the same ids in both.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT.parent / "shared" / "tokenizers"
TARGET = ROOT / "tests" / "fixtures" / "tokenizers"
WORDS = {"qwen3": "", "r1_distill_qwen": "", "gpt_oss": "developer\nanalysis\nfinal\n"}
"""The tokenizers, and more words that their family's template writes. One that is not in `SOURCE` is left as it is."""
LONGEST_RUN = 3
"""Characters of the longest run of punctuation and blanks that is kept."""
ROLES = "system\nuser\nassistant\nthink\nanswer\n"
"""The words that templates write between special tokens."""


def texts() -> Iterator[str]:
    """Our own English: the packaged prompts, and the thoughts and answers of the adherence cases."""
    yield ROLES
    files = [ROOT / "tests" / "adherence_cases.jsonl"]
    files += [ROOT / "alttrain" / "dataset" / "embedded" / f"evaluation_{kind}.jsonl" for kind in ("benign", "harmful")]
    for path in files:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            yield from (row[key] for key in ("prompt", "thought", "answer") if key in row)


def cut(full: dict[str, Any], said: list[str]) -> dict[str, Any]:
    """The content of a tokenizer.json with the vocabulary and the merges that the texts need.

    Raises ValueError if a text has other ids than before.
    """
    model, whole = full["model"], Tokenizer.from_str(json.dumps(full))
    pairs = [pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]]
    parts: dict[str, set[str]] = {}
    for pair in pairs:  # gpt-oss's has all the pairs that give a token
        parts.setdefault("".join(pair), set()).update(pair)
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    marks = {symbol for symbol in alphabet if symbol in "ĠĊĉ" or (symbol.isascii() and not symbol.isalnum())}
    runs = {token for token in parts if len(token) <= LONGEST_RUN and set(token) <= marks}
    used = {token for encoding in whole.encode_batch(said) for token in encoding.tokens}
    wanted, kept = [*(runs | used)], set(alphabet)
    while wanted:
        token = wanted.pop()
        if token not in kept and token in model["vocab"]:
            kept.add(token)
            wanted += parts[token]
    added = {token["content"]: token["id"] for token in full["added_tokens"]}
    vocabulary = {token: model["vocab"][token] for token in kept} | added  # added tokens keep their ids by being in it
    merges = [pair for pair in pairs if "".join(pair) in kept]
    ordered = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    small = full | {"model": model | {"vocab": ordered, "merges": merges}}
    made = Tokenizer.from_str(json.dumps(small))
    changed = [text for text in said if made.encode(text).ids != whole.encode(text).ids]
    if changed:
        raise ValueError(f"{len(changed)} texts have other ids than in the full tokenizer, such as {changed[0]!r}")
    return small


def build(target: Path, source: Path = SOURCE) -> None:
    """Write the small tokenizers."""
    said = [*texts()]
    for name, words in WORDS.items():
        if not (source / name).is_dir():
            continue
        small = cut(json.loads((source / name / "tokenizer.json").read_text(encoding="utf-8")), [*said, words])
        folder = target / name
        folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps(small, ensure_ascii=False, separators=(",", ":"))
        (folder / "tokenizer.json").write_text(content + "\n", encoding="utf-8")
        config = (source / name / "tokenizer_config.json").read_text(encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(config.rstrip("\n") + "\n", encoding="utf-8")
        print(f"{name}: {len(small['model']['vocab'])} tokens, {len(small['model']['merges'])} merges")


if __name__ == "__main__":
    build(TARGET)
