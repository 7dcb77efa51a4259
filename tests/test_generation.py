"""Slot decoding against transformers' own generation, prompt by prompt, and what sampling draws."""

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import backbone
from transformers import AutoConfig, AutoModelForCausalLM

from alttrain.backbone import Weights
from alttrain.backbone.products import PackedWeights
from alttrain.backbone.slots import SlotCache
from alttrain.backbone.weights import load_model
from alttrain.generation import Decoding, InProcess, engine, steps
from alttrain.generation.choosing import LIKELIEST, draw, likeliest
from alttrain.generation.engine import Decoder
from alttrain.run.session import Session
from alttrain.training import Hardware

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
            eos_token_id=end,
            pad_token_id=end,
        )
        written.append(out[0, len(prompt) :].tolist())
    return written


def common_token(written: list[list[int]]) -> int:
    """A token the model writes often, to stand for the end: then rows end at different times."""
    tokens = list(itertools.chain(*(row[2:] for row in written)))
    return max(set(tokens), key=tokens.count)


@pytest.mark.parametrize("slots", [1, 3, 64])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_equals_transformers_one_by_one(tiny_folder: Path, slots: int, penalty: float) -> None:
    end = common_token(reference(tiny_folder, 257, penalty))
    expected = reference(tiny_folder, end, penalty)
    assert len({len(row) for row in expected}) > 2
    model = load_model(Weights(tiny_folder, "local"), torch.float32, "cpu")
    ended: list[int] = []
    decoding = Decoding(NEW, repetition_penalty=penalty)
    written = Decoder(model, end, slots, "cpu").generate(PROMPTS, decoding, on_finished=ended.append)
    assert written == expected
    assert sum(ended) == len(PROMPTS)


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
        written = Decoder(model, end, slots, "cpu").generate([PROMPTS[i] for i in order], decoding, chosen)
        return dict(zip(chosen, written, strict=True))

    everything = list(range(len(PROMPTS)))
    whole = sampled(64, everything)
    assert sampled(2, everything[::-1]) == whole
    assert sampled(1, [4]) == {"row 4": whole["row 4"]}
    assert sampled(64, everything, seed=1) != whole
    same = Decoder(model, 257, 64, "cpu").generate([PROMPTS[0]] * 2, Decoding(NEW, temperature=0.9), ["a", "b"])
    assert same[0] != same[1]


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


def test_memory_that_is_too_little_makes_slots_fewer_and_longer(tiny_folder: Path, tiny: Any) -> None:
    """Sequences that lose their slot are prefilled again with what they wrote, and end as if nothing had been."""
    end = common_token(reference(tiny_folder, 257))
    expected = reference(tiny_folder, end)
    sizes: list[tuple[int, int]] = []

    class Watched(SlotCache):
        def resize(self, slots: int, length: int) -> None:
            sizes.append((slots, length))
            super().resize(slots, length)

    each = Decoder(tiny, end, 1, "cpu").token_bytes()
    assert each == 2 * 2 * 2 * 8 * 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "SlotCache", Watched)
        patch.setattr(engine, "FIRST_ROOM", 2)
        written = Decoder(tiny, end, 8, "cpu", memory=100 * each).generate(PROMPTS, Decoding(NEW))
    assert written == expected
    assert sizes
    assert all(slots * length <= 100 for slots, length in sizes)


@pytest.mark.parametrize("penalty", [1.0, 1.2])
def test_out_of_memory_halves_the_slots_and_changes_nothing(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, penalty: float
) -> None:
    decoding = Decoding(NEW, temperature=0.9, repetition_penalty=penalty)
    names = [str(number) for number in range(len(PROMPTS))]
    expected = Decoder(tiny, 40, 8, "cpu").generate(PROMPTS, decoding, names)
    step, forward, calls = Decoder.step, Decoder.forward, itertools.count()

    def fails(then: Any) -> Any:
        def call(self: Decoder, *arguments: Any) -> Any:
            if next(calls) in (1, 6, 9):
                raise torch.OutOfMemoryError
            return then(self, *arguments)

        return call

    monkeypatch.setattr(Decoder, "step", fails(step))
    monkeypatch.setattr(Decoder, "forward", fails(forward))
    assert Decoder(tiny, 40, 8, "cpu").generate(PROMPTS, decoding, names) == expected
    assert [record.args for record in caplog.records] == [(8,), (4,), (2,)]


def test_memory_that_is_not_enough_for_one_is_an_error(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Decoder, "step", fails)
    with pytest.raises(torch.OutOfMemoryError):
        Decoder(tiny, 257, 2, "cpu").generate(PROMPTS, Decoding(NEW))


def test_what_all_prompts_begin_with_is_computed_once(
    tiny_folder: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [[*range(50, 90), *prompt] for prompt in PROMPTS] + [[*range(50, 90), 1]]
    end = common_token(reference(tiny_folder, 257, 1.0, prompts))
    expected = reference(tiny_folder, end, 1.0, prompts)
    seen: list[int] = []
    forward = Decoder.forward

    def watched(self: Decoder, ids: list[int], *arguments: Any) -> Any:
        seen.append(len(ids))
        return forward(self, ids, *arguments)

    monkeypatch.setattr(Decoder, "forward", watched)
    assert Decoder(tiny, end, 4, "cpu").generate(prompts, Decoding(NEW)) == expected
    assert seen[0] == 40
    assert sum(seen) == 40 + sum(map(len, PROMPTS)) + 1
    long = [[*range(250), *range(80), number] for number in (3, 5)]  # past what is attended to by plain products
    assert Decoder(tiny, 257, 4, "cpu").generate(long, Decoding(NEW)) == reference(tiny_folder, 257, 1.0, long)
    only = [[*range(50, 90)]] * 2  # one token of their own is left
    assert Decoder(tiny, 257, 4, "cpu").generate(only, Decoding(NEW)) == reference(tiny_folder, 257, 1.0, only)


def test_each_prompt_may_have_a_cap_of_its_own(tiny: Any) -> None:
    caps = [1 + number % 5 for number in range(len(PROMPTS))]
    whole = Decoder(tiny, 257, 3, "cpu").generate(PROMPTS, Decoding(NEW))
    assert Decoder(tiny, 257, 3, "cpu").generate(PROMPTS, Decoding(NEW), caps=caps) == [
        row[:cap] for row, cap in zip(whole, caps, strict=True)
    ]


class Recording:
    """Stands in for CUDA graphs: what is recorded is not run yet, and can run again only while keys and values stand
    where they stood.
    """

    def __init__(self) -> None:
        self.recorded = 0
        self.replayed = 0

    def __call__(self, run: Any) -> Callable[[], None]:
        def stand() -> list[int]:
            return [tensor.data_ptr() for pair in run.func.__self__.cache.layers.values() for tensor in pair]

        self.recorded += 1
        stood = stand()

        def replay() -> None:
            self.replayed += 1
            assert stand() == stood
            run()

        return replay


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Recording:
    made = Recording()
    monkeypatch.setattr(engine, "cuda_recorder", lambda: made)
    return made


def test_recorded_steps_write_the_same_in_few_shapes(
    tiny_folder: Path, tiny: Any, recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is given tensors of few shapes that stay where they are: what a graph must find as it was."""
    monkeypatch.setattr(steps, "STRIDE", 16)
    end = common_token(reference(tiny_folder, 257))
    shapes: list[tuple[int, int]] = []
    addresses: set[int] = set()
    next_logits = Decoder._next_logits

    def watched(self: Decoder, ids: torch.Tensor, positions: torch.Tensor, reach: int, **options: Any) -> torch.Tensor:
        shapes.append((ids.shape[1], reach))
        addresses.add(ids.data_ptr())
        return next_logits(self, ids, positions, reach, **options)

    monkeypatch.setattr(Decoder, "_next_logits", watched)
    written = Decoder(tiny, end, 6, "cpu", steps="recorded").generate(PROMPTS, Decoding(NEW))
    assert written == reference(tiny_folder, end)
    assert {slots for slots, _ in shapes} == {6, 4, 2}
    assert {reach for _, reach in shapes} <= {16, 32, max(map(len, PROMPTS)) + NEW}
    assert len(addresses) == 1
    assert recording.replayed == len(shapes) - len(set(shapes)) > recording.recorded > 0


@pytest.mark.parametrize(("longest", "reach"), [(1, 128), (129, 256), (1024, 1024), (1025, 1280), (3000, 3072)])
def test_reaches_are_few(longest: int, reach: int) -> None:
    assert steps.few_reaches(longest, 5000) == reach
    assert steps.few_reaches(longest, longest) == longest


def test_what_is_recorded_goes_with_its_cache(
    tiny_folder: Path, tiny: Any, recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "FIRST_ROOM", 2)
    resized: list[int] = []
    resize = SlotCache.resize
    monkeypatch.setattr(SlotCache, "resize", lambda self, *size: (resized.append(size[0]), resize(self, *size))[1])
    each = Decoder(tiny, 257, 1, "cpu").token_bytes()
    assert each is not None
    decoder = Decoder(tiny, 257, 8, "cpu", memory=100 * each, steps="recorded")
    assert decoder.generate(PROMPTS, Decoding(NEW)) == reference(tiny_folder, 257)
    once = recording.recorded
    assert resized
    assert once > 1
    assert decoder.generate(PROMPTS, Decoding(NEW)) == reference(tiny_folder, 257)
    assert recording.recorded == 2 * once


def test_compiled_layers_are_one_program_for_all_layers_slots_and_reaches(
    tiny_folder: Path, tmp_path: Path, recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As traced, without the seconds of a real compilation: what is before attention and what is after it."""
    described = AutoConfig.from_pretrained(tiny_folder, num_hidden_layers=4)
    AutoModelForCausalLM.from_config(described).save_pretrained(tmp_path)
    model = load_model(Weights(tmp_path, "local"), torch.float32, "cpu")
    caps = [*range(2, len(PROMPTS) + 1), NEW]  # from six slots in use to one
    expected = Decoder(model, 257, 6, "cpu").generate(PROMPTS, Decoding(NEW), caps=caps)
    programs: list[list[str]] = []

    def watched(graph: Any, inputs: list[Any]) -> Any:
        programs.append([node.name for node in graph.graph.nodes if node.op not in ("placeholder", "output")])
        return graph

    compiled = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, dynamic: compiled(function, dynamic=dynamic, backend=watched)
    )
    monkeypatch.setattr(steps, "STRIDE", 16)
    written = Decoder(model, 257, 6, "cpu", steps="compiled").generate(PROMPTS, Decoding(NEW), caps=caps)
    assert written == expected
    assert len([program for program in programs if program]) == 4  # two norms, what attention is given, what it gave


def test_a_decoder_gives_back_what_a_batch_left(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[None] = []
    monkeypatch.setattr(engine, "give_back_freed_memory", lambda: given.append(None))
    decoder = Decoder(tiny, 257, 2, "cpu")
    for batch in range(3):
        assert len(given) == batch
        decoder.generate([[1, 2], [3]], Decoding(2))


def packs() -> bool:
    return bool(PackedWeights(torch.nn.Linear(8, 8).bfloat16()).size)


@pytest.mark.skipif(not packs(), reason="this CPU or torch has no bfloat16 products of packed weights")
def test_packed_weights_write_the_same_and_follow_a_merge(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(Weights(tiny_folder, "local"), torch.bfloat16, "cpu")
    decoder = Decoder(model, 257, 3, "cpu")
    products: list[torch.Size] = []
    product = torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(
        torch.ops.mkldnn, "_linear_pointwise", lambda x, *rest: products.append(x.shape) or product(x, *rest)
    )

    def plain() -> list[list[int]]:
        other = Decoder(model, 257, 3, "cpu")
        other._packed = PackedWeights(model, most=0)
        return other.generate(PROMPTS, Decoding(NEW))

    before = plain()
    assert not products
    assert decoder.generate(PROMPTS, Decoding(NEW)) == before
    assert products
    assert not any("forward" in module.__dict__ for module in model.modules())
    assert plain() == before
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.flip(0))
    assert plain() != before
    assert decoder.generate(PROMPTS, Decoding(NEW)) == plain()


@pytest.mark.skipif(not packs(), reason="this CPU or torch has no bfloat16 products of packed weights")
def test_packed_weights_leave_less_room_for_keys_and_values(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run: Any = SimpleNamespace(backbone=backbone(tiny_folder), hardware=Hardware(accelerator="cpu"))
    session = Session(run)
    monkeypatch.setattr(session, "_free_memory", lambda: 1e9)
    rooms = [session.decoder(InProcess(dtype=dtype), None, "none").memory for dtype in ("float32", "bfloat16")]
    size = PackedWeights(session.model("bfloat16")).size
    assert size > 0
    assert rooms == [int(0.8 * 1e9), int(0.8 * (1e9 - size))]
    assert session.decoder(InProcess(dtype="bfloat16", memory_gib=0.5), None, "none").memory == 1 << 29


def test_float32_large_models_and_others_forwards_are_left_alone() -> None:
    assert PackedWeights(torch.nn.Linear(8, 8)).size == 0
    hooked = torch.nn.Linear(8, 8).bfloat16()
    hooked.forward = own = lambda x: x  # type: ignore[method-assign, assignment]
    weights = PackedWeights(hooked)
    assert weights.size == 0
    with weights.used():
        assert hooked.forward is own
    assert hooked.forward is own
    assert PackedWeights(torch.nn.Linear(8, 8).bfloat16(), most=2 * 8 * 8 - 1).size == 0


@pytest.mark.parametrize("vocabulary", [256, 259])
def test_the_first_of_the_largest_is_chosen(vocabulary: int) -> None:
    logits = torch.randint(0, 9, (50, vocabulary), generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = [row.index(max(row)) for row in logits.tolist()]
    assert likeliest(logits).tolist() == expected


def test_many_samples_of_a_greedy_text_are_refused() -> None:
    with pytest.raises(ValueError, match=r"samples=4 with temperature=0"):
        Decoding(NEW, samples=4)
