"""Slot decoding against transformers' own generation, prompt by prompt, and what sampling draws."""

import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import backbone

from alttrain.backbone import Weights
from alttrain.backbone.attention import SlotCache
from alttrain.backbone.weights import load_model, load_tokenizer
from alttrain.generation import Decoding, decoder
from alttrain.generation.decoder import LIKELIEST, OWN_TOKENS, Decoder, Sampler, draw, likeliest
from alttrain.generation.engine import CachedEngine, Completion, LocalEngine, Prompt
from alttrain.llm import Failure
from alttrain.tokenization import Renderer

PROMPTS = [[(7 * row + 3 * column) % 250 for column in range(1 + (row * 5) % 23)] for row in range(11)]
NEW = 20


def reference(
    folder: Path, end: int, repetition_penalty: float = 1.0, prompts: list[list[int]] = PROMPTS
) -> list[list[int]]:
    """What transformers writes for each prompt alone."""
    model = type(load_model(Weights(folder, "local"), torch.float32, "cpu")).from_pretrained(folder).eval()
    written = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW,
            do_sample=False,
            repetition_penalty=repetition_penalty,
            eos_token_id=[end, model.generation_config.eos_token_id],
            pad_token_id=end,
        )
        written.append(out[0, len(prompt) :].tolist())
    return written


def asked(prompts: Sequence[list[int]] = PROMPTS, names: Sequence[str] = (), caps: Sequence[int] = ()) -> list[Prompt]:
    """Prompts of these tokens, named by their index unless there are names."""
    each = itertools.zip_longest(prompts, names, caps)
    return [Prompt(ids, "", str(number) if name is None else name, cap) for number, (ids, name, cap) in enumerate(each)]


def common_token(written: list[list[int]]) -> int:
    """A token the model writes often, to stand for the end: then rows end at different times."""
    tokens = list(itertools.chain(*(row[2:] for row in written)))
    return max(set(tokens), key=tokens.count)


@pytest.mark.parametrize("slots", [1, 3, 64])
@pytest.mark.parametrize("penalty", [1.0, pytest.param(1.3, marks=pytest.mark.slow)])
def test_equals_transformers_one_by_one(tiny_folder: Path, slots: int, penalty: float) -> None:
    end = common_token(reference(tiny_folder, 257, penalty))
    expected = reference(tiny_folder, end, penalty)
    assert len({len(row) for row in expected}) > 2
    model = load_model(Weights(tiny_folder, "local"), torch.float32, "cpu")
    ended: list[int] = []
    decoding = Decoding(NEW, repetition_penalty=penalty)
    written = Decoder(model, end, slots, "cpu").generate(asked(), decoding, ended.append)
    assert written == expected
    assert sum(ended) == len(PROMPTS)


def test_a_text_also_ends_with_the_models_other_end_tokens_and_without_them(tiny_folder: Path) -> None:
    model = load_model(Weights(tiny_folder, "local"), torch.float32, "cpu")
    written = Decoder(model, 257, 4, "cpu").generate(asked(), Decoding(NEW))
    model.generation_config.eos_token_id = [257, common_token(written)]
    renderer = Renderer(backbone(tiny_folder), load_tokenizer(tiny_folder))
    found = dict(LocalEngine(Decoder(model, 257, 4, "cpu"), renderer).generate(asked(), Decoding(NEW)))
    for number, tokens in enumerate(written):
        first = next((place for place, token in enumerate(tokens) if token in (257, common_token(written))), None)
        text = renderer.tokenizer.decode(tokens[:first], skip_special_tokens=False)
        assert found[number] == Completion(text, "length" if first is None else "stop")


def test_nothing_to_do(tiny_folder: Path) -> None:
    model = load_model(Weights(tiny_folder, "local"), torch.float32, "cpu")
    assert Decoder(model, 257, 4, "cpu").generate([], Decoding(NEW)) == []


def test_what_is_drawn_depends_on_seed_and_name_alone(tiny_folder: Path) -> None:
    """Not on the slots, the order or the neighbours; the penalty's memory moves with its sequence."""
    model = load_model(Weights(tiny_folder, "local"), torch.float32, "cpu")
    names = [f"row {number}" for number in range(len(PROMPTS))]

    def sampled(slots: int, order: list[int], seed: int = 0) -> dict[str, list[int]]:
        decoding = Decoding(NEW, temperature=0.9, top_p=0.95, repetition_penalty=1.1, seed=seed)
        chosen = [names[index] for index in order]
        end = 40  # a token that is drawn now and then, so that rows end at different times
        written = Decoder(model, end, slots, "cpu").generate(asked([PROMPTS[i] for i in order], chosen), decoding)
        return dict(zip(chosen, written, strict=True))

    everything = list(range(len(PROMPTS)))
    whole = sampled(64, everything)
    assert sampled(2, everything[::-1]) == whole
    assert sampled(1, [4]) == {"row 4": whole["row 4"]}
    assert sampled(64, everything, seed=1) != whole
    same = Decoder(model, 257, 64, "cpu").generate(asked([PROMPTS[0]] * 2), Decoding(NEW, temperature=0.9))
    assert same[0] != same[1]


@pytest.mark.parametrize("narrowed", [{"top_p": 1e-6}, {"top_k": 1}])
def test_with_one_token_to_draw_from_a_text_is_the_greedy_one(tiny: Any, narrowed: dict[str, Any]) -> None:
    decoder, prompts = Decoder(tiny, 257, 8, "cpu"), asked(PROMPTS[:4])
    drawn = decoder.generate(prompts, Decoding(NEW, temperature=5.0, **narrowed))
    assert drawn == decoder.generate(prompts, Decoding(NEW))
    assert drawn != decoder.generate(prompts, Decoding(NEW, temperature=5.0))


def test_draw_follows_the_distribution_within_the_nucleus() -> None:
    probabilities = torch.tensor([0.1, 0.5, 0.05, 0.35])
    draws = (torch.arange(1000) + 0.5) / 1000
    logits = probabilities.log().expand(1000, -1)
    counts = torch.bincount(draw(logits, 1.0, draws), minlength=4)
    assert counts.tolist() == [100, 500, 50, 350]
    counts = torch.bincount(draw(logits, 0.8, draws), minlength=4)  # 0.5 + 0.35 reach it
    assert counts.tolist() == [0, 588, 0, 412]
    assert draw(logits[:1], 0.5, torch.tensor([0.999999])).tolist() == [1]
    assert draw(logits[:2], 1.0, torch.tensor([0.0, 0.99999999])).tolist() == [0, 3]


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999])
def test_what_is_drawn_is_what_a_sorted_vocabulary_has(top_p: float) -> None:
    """Peaked and flat rows together, many probabilities equal, and nuclei larger than what is looked at first."""
    source = torch.Generator().manual_seed(0)
    sharpness = torch.tensor([0.0, 0.01, 0.5, 1.0, 2.0, 4.0]).repeat(50)[:, None]
    logits = (torch.randn((300, 1000), generator=source) * sharpness).bfloat16().float()
    draws = torch.rand(300, generator=source)
    ordered, tokens = logits.softmax(-1).sort(dim=-1, descending=True, stable=True)
    expected, sizes = [], []
    for row, number in enumerate(draws):
        reached = ordered[row].cumsum(-1)
        sizes.append(int((reached - ordered[row] < top_p).sum()))
        place = int((reached[: sizes[-1]] <= number * reached[sizes[-1] - 1]).sum())
        expected.append(int(tokens[row, min(place, sizes[-1] - 1)]))
    assert min(sizes) < LIKELIEST < max(sizes)
    assert draw(logits, top_p, draws).tolist() == expected
    assert [int(draw(logits[n : n + 1], top_p, draws[n : n + 1])) for n in range(300)] == expected  # row by row


@pytest.fixture
def tiny(tiny_folder: Path) -> Any:
    return load_model(Weights(tiny_folder, "local"), torch.float32, "cpu")


@pytest.mark.slow
@pytest.mark.parametrize(("room", "slots"), [(8 * 43, 8), (100, 2), (10, 1)])
def test_where_memory_is_short_there_are_fewer_slots(
    tiny_folder: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch, room: int, slots: int
) -> None:
    """`room` is in tokens; the longest prompt has 23, and each may have 20 new ones."""
    end = common_token(reference(tiny_folder, 257))
    sizes: list[tuple[int, int]] = []

    class Watched(SlotCache):
        def __init__(self, *size: int) -> None:
            sizes.append((size[0], size[1]))
            super().__init__(*size)

    each = 2 * 2 * 2 * 8 * 4  # keys and values of a token: 2 layers, 2 heads of 8 float32
    monkeypatch.setattr(decoder, "SlotCache", Watched)
    written = Decoder(tiny, end, 8, "cpu", memory=room * each).generate(asked(), Decoding(NEW))
    assert written == reference(tiny_folder, end)
    assert sizes == [(slots, max(map(len, PROMPTS)) + NEW)]


@pytest.mark.slow
@pytest.mark.parametrize("penalty", [1.0, 1.2])
@pytest.mark.parametrize(("where", "name"), [(Decoder, "forward"), (Sampler, "sample")])
def test_out_of_memory_halves_the_slots_and_changes_nothing(
    tiny: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    where: type,
    name: str,
    penalty: float,
) -> None:
    decoding = Decoding(NEW, temperature=0.9, repetition_penalty=penalty)
    expected = Decoder(tiny, 40, 8, "cpu").generate(asked(), decoding)
    works, calls = getattr(where, name), itertools.count()

    def fails(self: Any, *arguments: Any) -> Any:
        if next(calls) in (1, 6, 9):
            raise torch.OutOfMemoryError
        return works(self, *arguments)

    monkeypatch.setattr(where, name, fails)
    assert Decoder(tiny, 40, 8, "cpu").generate(asked(), decoding) == expected
    assert [record.args for record in caplog.records] == [(8,), (4,), (2,)]


def test_a_cache_that_does_not_fit_is_halved_also_behind_a_shared_prefix(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    prompts = [[*range(50, 90), *prompt] for prompt in PROMPTS]
    expected = Decoder(tiny, 40, 8, "cpu").generate(asked(prompts), Decoding(NEW))
    layer = SlotCache.layer

    def full(self: SlotCache, *arguments: Any) -> Any:
        if self.slots > 2:
            raise torch.OutOfMemoryError
        return layer(self, *arguments)

    monkeypatch.setattr(SlotCache, "layer", full)
    assert Decoder(tiny, 40, 8, "cpu").generate(asked(prompts), Decoding(NEW)) == expected
    assert [record.args for record in caplog.records] == [(8,), (4,)]


def test_memory_that_is_not_enough_for_one_is_an_error(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Decoder, "forward", fails)
    with pytest.raises(torch.OutOfMemoryError):
        Decoder(tiny, 257, 2, "cpu").generate(asked(), Decoding(NEW))


@pytest.mark.slow
def test_what_all_prompts_begin_with_is_computed_once(
    tiny_folder: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [[*range(50, 90), *prompt] for prompt in PROMPTS] + [[*range(50, 90), 1]]
    end = common_token(reference(tiny_folder, 257, 1.0, prompts))
    expected = reference(tiny_folder, end, 1.0, prompts)
    seen: list[int] = []
    forward = Decoder.forward

    def watched(self: Decoder, ids: list[int], positions: list[int], packed: Any, *keep: Any) -> Any:
        if packed.positions is None:
            seen.append(len(ids))
        return forward(self, ids, positions, packed, *keep)

    monkeypatch.setattr(Decoder, "forward", watched)
    assert Decoder(tiny, end, 4, "cpu").generate(asked(prompts), Decoding(NEW)) == expected
    assert seen[0] == max(map(len, prompts))
    own = [max(OWN_TOKENS, len(prompt) - 40) for prompt in prompts]
    assert 40 + sum(own) - 20 <= sum(seen) <= 40 + sum(own)  # some prompts share more with each other
    seen.clear()
    assert Decoder(tiny, end, 1, "cpu").generate(asked(prompts), Decoding(NEW)) == expected
    assert sum(seen) <= 40 + sum(own)
    long = [[*range(250), *range(80), number] for number in (3, 5)]  # past what is attended to by plain products
    assert Decoder(tiny, 257, 4, "cpu").generate(asked(long), Decoding(NEW)) == reference(tiny_folder, 257, 1.0, long)


def cuts(thought: int) -> list[list[int]]:
    """Three prompts with a thought of this length, cut at four places and closed."""
    prompts = []
    for row in range(3):
        whole = [*range(30), *((7 * row + 3 * n) % 250 for n in range(20 + row + thought))]
        prompts += [[*whole[: 50 + row + thought * n // 3], 251, 252, 253] for n in range(4)]
    return prompts


def prefilled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list to which the decoder adds the number of tokens that it computes of each prompt."""
    seen: list[int] = []
    prefill = Decoder.prefill

    def watched(self: Decoder, rows: Sequence[Sequence[int]], *rest: Any) -> Any:
        seen.extend(map(len, rows))
        return prefill(self, rows, *rest)

    monkeypatch.setattr(Decoder, "prefill", watched)
    return seen


@pytest.mark.parametrize(("thought", "slots"), [(60, 1), (60, 5), (60, 64), (300, 5)])
def test_prompts_that_begin_alike_share_what_was_computed(
    tiny_folder: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch, slots: int, thought: int
) -> None:
    prompts = cuts(thought)
    caps = [3 + (5 * number) % (NEW - 3) for number in range(len(prompts))]  # rows end at different times
    whole = reference(tiny_folder, 257, 1.0, prompts)
    expected = [row[:cap] for row, cap in zip(whole, caps, strict=True)]
    seen = prefilled(monkeypatch)
    mixed = random.Random(0).sample(range(len(prompts)), len(prompts))  # the order does not matter
    due = asked([prompts[n] for n in mixed], caps=[caps[n] for n in mixed])
    written = Decoder(tiny, 257, slots, "cpu").generate(due, Decoding(NEW))
    assert written == [expected[n] for n in mixed]
    different = len({tuple(prompt[:end]) for prompt in prompts for end in range(1, len(prompt) + 1)})
    assert len(seen) == len(prompts)
    exact = different + OWN_TOKENS * len(prompts)  # with 5 slots, what a prompt shares may have left them already
    assert different <= sum(seen) <= (0.6 * sum(map(len, prompts)) if slots == 5 else exact)


def test_samples_of_a_prompt_share_it(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, decoding = [PROMPTS[9] * 3, PROMPTS[8] * 3], Decoding(NEW, temperature=0.9, repetition_penalty=1.1)
    names = [f"{row}#{sample}" for row in range(2) for sample in range(4)]
    every = [prompts[int(name[0])] for name in names]
    alone = [
        Decoder(tiny, 40, 1, "cpu").generate(asked([ids], [name]), decoding)[0]
        for ids, name in zip(every, names, strict=True)
    ]
    seen = prefilled(monkeypatch)
    assert Decoder(tiny, 40, 3, "cpu").generate(asked(every, names), decoding) == alone
    assert len({tuple(text) for text in alone}) == len(names)
    assert sum(seen) == sum(map(len, prompts)) + 6 * OWN_TOKENS


def test_the_same_prompt_is_decoded_once(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, ended = PROMPTS[4], list[int]()
    rows: list[int] = []
    write = decoder._Scheduler._append

    def watched(self: Any, group: Any, *rest: Any) -> None:
        rows.append(len(group))
        write(self, group, *rest)

    monkeypatch.setattr(decoder._Scheduler, "_append", watched)
    same = asked([ids] * 3 + [PROMPTS[5]], caps=[NEW, NEW, 7, NEW])
    first, second, third, other = Decoder(tiny, 257, 8, "cpu").generate(same, Decoding(NEW), ended.append)
    assert first == second
    assert third == first[:7]
    assert other != first
    assert (max(rows), sum(ended)) == (3, 4)


def test_each_prompt_may_have_a_cap_of_its_own(tiny: Any) -> None:
    caps = [1 + number % 5 for number in range(len(PROMPTS))]
    whole = Decoder(tiny, 257, 3, "cpu").generate(asked(), Decoding(NEW))
    assert Decoder(tiny, 257, 3, "cpu").generate(asked(caps=caps), Decoding(NEW)) == [
        row[:cap] for row, cap in zip(whole, caps, strict=True)
    ]


def test_a_decoder_gives_back_what_a_batch_left(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[None] = []
    monkeypatch.setattr(decoder, "give_back_freed_memory", lambda: given.append(None))
    same = Decoder(tiny, 257, 2, "cpu")
    for batch in range(3):
        assert len(given) == batch
        same.generate(asked([[1, 2], [3]]), Decoding(2))


@pytest.mark.parametrize("vocabulary", [256, 259])
def test_the_first_of_the_largest_is_chosen(vocabulary: int) -> None:
    logits = torch.randint(0, 9, (50, vocabulary), generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = [row.index(max(row)) for row in logits.tolist()]
    assert likeliest(logits).tolist() == expected


def test_many_samples_of_a_greedy_text_are_refused() -> None:
    with pytest.raises(ValueError, match=r"samples=4 with temperature=0"):
        Decoding(NEW, samples=4)


def test_a_call_with_a_failure_is_not_kept(tmp_path: Path) -> None:
    results: list[Completion | Failure] = [Failure("the server is gone", False), Completion("a", "stop")]

    def generate(prompts: Sequence[Prompt], *unused: Any) -> list[tuple[int, Completion | Failure]]:
        return [(0, Completion("b", "stop")), (1, results.pop(0))]

    cached = CachedEngine(lambda: SimpleNamespace(generate=generate), {"weights": "w"}, tmp_path)  # type: ignore[arg-type, return-value]
    prompts = [Prompt([5], "a", "a"), Prompt([6], "b", "b")]
    assert isinstance(dict(cached.generate(prompts, Decoding(8)))[1], Failure)
    assert not list(tmp_path.rglob("*.json"))
    assert dict(cached.generate(prompts, Decoding(8)))[1] == Completion("a", "stop")
    assert dict(cached.generate(prompts, Decoding(8)))[1] == Completion("a", "stop")
    assert results == []


def test_the_cache_tells_caps_and_names_of_samples_apart(tmp_path: Path) -> None:
    calls: list[int] = []

    def generate(prompts: Sequence[Prompt], *unused: Any) -> list[tuple[int, Completion]]:
        calls.append(len(prompts))
        return [(0, Completion(str(len(calls)), "stop"))]

    cached = CachedEngine(lambda: SimpleNamespace(generate=generate), {"weights": "w"}, tmp_path)  # type: ignore[arg-type, return-value]

    def text(prompt: Prompt, decoding: Decoding) -> str:
        ((_, written),) = cached.generate([prompt], decoding)
        assert isinstance(written, Completion)
        return written.text

    greedy, sampled = Decoding(8), Decoding(8, temperature=1.0)
    assert text(Prompt([5], "a", "a"), greedy) == "1"
    assert text(Prompt([5], "a", "b"), greedy) == "1"  # a greedy answer has no name
    assert text(Prompt([5], "a", "a", cap=3), greedy) == "2"
    assert text(Prompt([5], "a", "a", cap=4), greedy) == "3"
    assert text(Prompt([5], "a", "a"), sampled) == "4"
    assert text(Prompt([5], "a", "b"), sampled) == "5"
