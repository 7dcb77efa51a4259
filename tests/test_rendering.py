"""Every rule of rendering, on the ids of real tokenizers: R1's in both template forms, Qwen3's, and Qwen3's as ChatML,
and gpt-oss's.

For OLMo 3 and Phi-4-reasoning, whose tokenizers are not here, the rules are tested on Qwen3's, which has most of their
tokens. For Magistral and Nemotron, Qwen3's special tokens get the names of theirs. The text is tested on hashes of what
their own templates write.

All tests run on the small tokenizers of tests/fixtures, with rows of our own. Where the full tokenizers are in
../shared they run on these too, with STAR-1's 1,000 rows; gpt-oss's and the renamed ones are always small. What
`apply_chat_template` makes of the same rows breaks the rules.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from alttrain.backbone import Backbone, ChatTemplate, Rendered
from alttrain.config import instantiate, register
from alttrain.english import sentences
from alttrain.evaluation.interventions import Around, Begin, InterventionContext
from alttrain.generation import Decoding
from alttrain.generation.engine import Prompt
from alttrain.generation.server import prompt_as_text
from alttrain.records import Example, Segment
from alttrain.rewrite import TeacherContext, render
from alttrain.tokenization import Renderer, Sequence

SHARED = Path(__file__).parents[2] / "shared"
TEMPLATES = Path(__file__).parents[1] / "conf" / "backbone" / "template"
STAR1 = SHARED / "data" / "star1" / "STAR-1.json"
PROMPTS = Path(__file__).parents[1] / "alttrain" / "dataset" / "embedded" / "evaluation_harmful.jsonl"
SMALL, FULL = Path(__file__).parent / "fixtures" / "tokenizers", SHARED / "tokenizers"
NEEDS_FULL = (
    pytest.mark.slow,
    pytest.mark.skipif(not FULL.is_dir() or not STAR1.is_file(), reason="the full tokenizers or STAR-1 are not here"),
)
OWN = {"r1": "r1_distill_qwen", "r1_january": "r1_distill_qwen", "qwen3": "qwen3", "chatml": "qwen3"}
"""Templates whose family's tokenizer is here. Qwen3-Thinking-2507's differs from Qwen3's in opening the thought."""
RENAMED = {  # Qwen3's special tokens under the names of families whose tokenizers are not here
    "magistral": {
        "<|endoftext|>": "<s>",
        "<|im_end|>": "</s>",
        "<think>": "[THINK]",
        "</think>": "[/THINK]",
        "<|im_start|>": "[INST]",
        "<|object_ref_start|>": "[/INST]",
        "<|box_start|>": "[SYSTEM_PROMPT]",
        "<|box_end|>": "[/SYSTEM_PROMPT]",
    },
    "nemotron": {
        "<|endoftext|>": "<|begin_of_text|>",
        "<|im_end|>": "<|eot_id|>",
        "<|im_start|>": "<|start_header_id|>",
        "<|object_ref_start|>": "<|end_header_id|>",
        "<think>": "<|reserved_0|>",
        "</think>": "<|reserved_1|>",  # the tags are ordinary text
    },
}
FOLDERS = OWN | {"olmo3": "qwen3", "phi4": "qwen3", "gpt_oss": "gpt_oss"} | {name: name for name in RENAMED}
FORMS = tuple(FOLDERS)
LONGEST = 1 << 20


OPEN = {
    "magistral": "[SYSTEM_PROMPT]Think first:[THINK]like this.[/THINK]Then answer.[/SYSTEM_PROMPT]",
    "phi4": "<|im_start|>system<|im_sep|>Be kind.<|im_end|>",
}
"""The default system turns that the files of templates leave open."""


def template(name: str) -> ChatTemplate:
    """The template of a config file, those it inherits from merged in."""
    fields: Any = OmegaConf.to_container(OmegaConf.load(TEMPLATES / f"{name}.yaml"), resolve=True)
    fields |= {"without_system": OPEN[name]} if name in OPEN else {}
    parents = fields.pop("defaults", [])
    fields.pop("_target_", None)
    return replace(template(parents[0]), **fields) if parents else ChatTemplate(**fields)


@pytest.fixture(
    scope="module", params=[pytest.param(SMALL, id="small"), pytest.param(FULL, id="full", marks=NEEDS_FULL)]
)
def tokenizers(request: pytest.FixtureRequest) -> Path:
    """The folder of the small tokenizers, then that of the full ones."""
    folder: Path = request.param
    return folder


def renamed(qwen3: Path, names: dict[str, str], folder: Path) -> Path:
    """A folder with Qwen3's tokenizer, its special tokens renamed."""
    for file in ("tokenizer.json", "tokenizer_config.json"):
        text = (qwen3 / file).read_text(encoding="utf-8")
        for old, new in names.items():
            text = text.replace(old, new)
        (folder / file).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def renderers(tokenizers: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Renderer]:
    from alttrain.backbone.weights import load_tokenizer

    folders = {name: tokenizers / name for name in set(FOLDERS.values()) - RENAMED.keys()}
    folders["gpt_oss"] = SMALL / "gpt_oss"
    for name, names in RENAMED.items():
        folders[name] = renamed(SMALL / "qwen3", names, tmp_path_factory.mktemp(name))  # in the full one <s> is a word
    loaded = {name: load_tokenizer(folder) for name, folder in folders.items()}
    return {
        form: Renderer(Backbone(form, "x", template(form), 4096), loaded[folder]) for form, folder in FOLDERS.items()
    }


def thought(*texts: str) -> tuple[Segment, ...]:
    return tuple(Segment("reasoning", text) for text in texts)


def cut(trace: str) -> tuple[Segment, ...]:
    """First sentence, an assessment, and the rest."""
    first, stop, rest = trace.partition(". ")
    return thought(first + stop.strip(), "This request asks for harm, so it is harmful.", rest)


THOUGHTS: dict[str, Callable[[Example], Example]] = {
    "trace": lambda row: row,
    "cut": lambda row: replace(row, thought=cut(row.thought[0].text)),
    "empty": lambda row: replace(row, thought=()),
    "unanswered": lambda row: replace(row, answer=""),
    "primer": lambda row: replace(row, thought=thought("Let's think about safety first."), answer="", partial=True),
}


def own_rows() -> list[Example]:
    """The packaged prompts with the thoughts and answers of the adherence cases that have three sentences or more."""
    cases, prompts = (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in (Path(__file__).parent / "adherence_cases.jsonl", PROMPTS)
    )
    whole = [case for case in cases if case["answer"] and case["closed"] and len([*sentences(case["thought"])]) > 2]
    return [
        Example(case["id"], asked["prompt"], "harmful", thought=thought(case["thought"]), answer=case["answer"])
        for case, asked in zip(whole, prompts, strict=False)
    ]


@pytest.fixture(scope="module")
def rows(tokenizers: Path) -> list[Example]:
    """Rows with a whole trace and an answer: STAR-1's for the full tokenizers, our own for the small ones."""
    if tokenizers == SMALL:
        return own_rows()
    made = []
    for row in json.loads(STAR1.read_text(encoding="utf-8")):
        trace, _, answer = row["response"].removeprefix("<think>").partition("</think>")
        made.append(
            Example(row["id"], row["question"], "harmful", thought=thought(trace.strip()), answer=answer.strip())
        )
    return made


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", THOUGHTS)
def test_no_row_breaks_a_rule(form: str, kind: str, renderers: dict[str, Renderer], rows: list[Example]) -> None:
    """Of a thousand rows every form has another quarter, so that each row is in several forms."""
    if len(rows) > 200:
        rows = rows[FORMS.index(form) % 4 :: 4]
    renderer, changed = renderers[form], [THOUGHTS[kind](row) for row in rows]
    sequences, too_long = renderer.sequences(changed, LONGEST)
    violations = Counter(
        problem for s, row in zip(sequences, changed, strict=True) for problem in renderer.problems(s, row)
    )
    assert violations == Counter()
    assert (len(sequences), too_long) == (len(rows), [])
    assert len(rows) >= 40


def naive(renderer: Renderer, example: Example, jinja: str | None = None) -> Sequence:
    """What TRL and its like do: render the dialogue whole, mask as many tokens as the prompt alone has."""
    tokenizer, asked = renderer.tokenizer, [{"role": "user", "content": example.prompt}]
    content = f"<think>\n{render(example.thought)}\n</think>\n\n{example.answer}"
    options = {"tokenize": True, "return_dict": False, "chat_template": jinja}
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, **options)
    whole = tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": content}], **options)
    return Sequence(example.id, whole[: len(prompt)], whole[len(prompt) :])


PREFIX = "the prompt of generation is not a prefix"
NO_THOUGHT = "the thought carries no loss"
NOT_CLOSED = "the thought is not closed exactly once"
UNLIKE = "the response is not the text it should be"
LATE = "the loss does not begin with the first token the model writes"


@pytest.mark.parametrize("form", ["r1", "r1_january"])
def test_r1s_own_template_drops_every_thought(form: str, renderers: dict[str, Renderer], rows: list[Example]) -> None:
    renderer = renderers[form]
    jinja = renderer.tokenizer.chat_template
    if form == "r1":
        jinja = jinja.replace("{{'<｜Assistant｜>'}}{% endif %}", "{{'<｜Assistant｜><think>\\n'}}{% endif %}")
    broken = Counter(problem for row in rows[:100] for problem in renderer.problems(naive(renderer, row, jinja), row))
    lost = dict.fromkeys((NO_THOUGHT, NOT_CLOSED, UNLIKE, *([PREFIX] if form == "r1" else [])), min(len(rows), 100))
    assert broken == lost


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_thoughts_ids_are_those_of_its_text(
    form: str, renderers: dict[str, Renderer], rows: list[Example]
) -> None:
    """Read back as one text, prompt and response have the ids they were trained with: no newlines are joined."""
    renderer = renderers[form]
    for row in map(THOUGHTS["empty"], rows[:100]):
        sequence = renderer.render([row])[0]
        assert sequence.prompt == renderer.encode(renderer.prompt_text(row.prompt, "open"))
        assert renderer._ids(renderer.tokenizer.decode(sequence.ids)) == sequence.ids


def test_an_empty_thought_with_a_newline_of_its_own_is_a_state_never_prompted(
    renderers: dict[str, Renderer], rows: list[Example]
) -> None:
    renderer, row = renderers["r1"], THOUGHTS["empty"](rows[0])
    prompt = renderer.encode(renderer.prompt_text(row.prompt, "open"))
    text = renderer.prompt_text(row.prompt, "open") + f"\n</think>\n\n{row.answer}{renderer.backbone.template.end}"
    whole = renderer._ids(text)
    assert PREFIX in renderer.problems(Sequence(row.id, whole[: len(prompt)], whole[len(prompt) :]), row)


def test_each_rule_is_told_of_by_itself(renderers: dict[str, Renderer], rows: list[Example]) -> None:
    row, primer = rows[0], THOUGHTS["primer"](rows[0])
    for renderer in renderers.values():
        good, end = renderer.render([row])[0], renderer.end_id
        close = renderer._ids(renderer.backbone.template.think_close.strip())
        assert renderer.problems(good, row) == []
        unended = replace(good, response=good.response[:-1])
        assert "the end of the turn is not trained" in renderer.problems(unended, row)
        assert UNLIKE in renderer.problems(replace(good, response=good.response[:40]), row)
        late = Sequence(row.id, good.prompt + good.response[:9], good.response[9:])
        assert LATE in renderer.problems(late, row)
        assert NOT_CLOSED in renderer.problems(replace(good, response=close + good.response), row)
        stopped = renderer.render([primer])[0]
        stopped = replace(stopped, response=[*stopped.response, end])
        assert "the turn ends more than once, or where it should go on" in renderer.problems(stopped, primer)
    twice = renderers["r1"]
    begin = twice._ids(twice.backbone.template.bos)
    doubled = twice.render([row])[0]
    doubled = replace(doubled, prompt=begin + doubled.prompt)
    assert "the beginning token is absent, doubled or not in front" in twice.problems(doubled, row)


def test_a_delimiter_inside_a_thought_is_text_and_found_where_it_is_a_token(
    renderers: dict[str, Renderer], rows: list[Example]
) -> None:
    for form, renderer in renderers.items():
        close = renderer.backbone.template.think_close.strip()
        row = replace(rows[0], thought=thought(f"One. {close} Two."))
        sequence = renderer.render([row])[0]
        if form == "nemotron":  # where the tag is text, the two cannot be told apart, and the row is refused
            assert renderer.problems(sequence, row) == [NOT_CLOSED]
            continue
        assert renderer.problems(sequence, row) == []
        joined = replace(sequence, response=renderer._ids(renderer._response_text(row)))
        assert renderer.problems(joined, row) == [NOT_CLOSED]


DIALOGUES = {
    "user": [{"role": "user", "content": " Why is {x} 'blue'?\n"}],
    "system": [{"role": "system", "content": 'Be "kind".\n'}, {"role": "user", "content": "Why?"}],
    "dialogue": [
        {"role": "user", "content": "A?"},
        {"role": "assistant", "content": "B."},
        {"role": "user", "content": "C?"},
    ],
}


def opened(form: str) -> str:
    """What the prompt adds to that of the family's template as it was before the prompt opened the thought."""
    return "<think>\n" if form in ("r1", "chatml") else ""


@pytest.mark.parametrize("dialogue", DIALOGUES)
@pytest.mark.parametrize("form", OWN)
def test_prompt_is_that_of_the_familys_own_template(form: str, dialogue: str, renderers: dict[str, Renderer]) -> None:
    renderer, messages = renderers[form], DIALOGUES[dialogue]
    says = {role: [m["content"] for m in messages if m["role"] == role] for role in ("system", "user", "assistant")}
    *turns, user = says["user"]
    system = says["system"][0] if says["system"] else None
    ours = renderer.backbone.template.prompt(user, system, "open", turns, says["assistant"])
    options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": True}
    theirs = renderer.tokenizer.apply_chat_template(messages, **options)
    assert ours == theirs + opened(form)
    saved = renderer.backbone.template.jinja()
    assert renderer.tokenizer.apply_chat_template(messages, chat_template=saved, **options) == ours
    ids = renderer.encode(renderer.prompt_text(user, "open", system=system, turns=turns, answers=says["assistant"]))
    if not opened(form):
        assert ids == renderer.tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]


ANSWERED = {
    "thought": ("<think>\nT\n</think>\n\nA  \n", "open"),
    "close": ("<think>\nT\n</think>A", "open"),
    "twice": ("<think>\nT </think> U\n</think>\n\n\nA", "open"),
    "plain": ("\n\nA\n", "absent"),
}


@pytest.mark.parametrize("answered", ANSWERED)
@pytest.mark.parametrize("form", OWN)
def test_a_history_is_that_of_the_familys_own_template(
    form: str, answered: str, renderers: dict[str, Renderer]
) -> None:
    """What the model wrote to an earlier turn, and what of it stands in the next prompt, byte for byte."""
    renderer, (text, mode) = renderers[form], ANSWERED[answered]
    template = renderer.backbone.template
    messages = [{"role": "user", "content": "A?"}, {"role": "assistant", "content": text}]
    messages.append({"role": "user", "content": "B?"})
    options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": True}
    theirs = renderer.tokenizer.apply_chat_template(messages, **options) + opened(form)
    written = text.removeprefix("<think>\n") if template.opened_by == "prompt" else text
    assert template.prompt("B?", None, "open", ["A?"], [template.history(written, mode)]) == theirs
    assert renderer.tokenizer.apply_chat_template(messages, chat_template=template.jinja(), **options) == theirs


ELSEWHERE = {  # template -> dialogue -> the start of the SHA-256 of what the family's template writes
    "olmo3": {  # the SHA-256 of the template itself begins with 6d549883b5ed1287
        "user": "814a2bee1e89942f",
        "system": "593d64d43b8f3816",
        "dialogue": "1419f6bdd90e9ddc",
        "answered": "ce194dc136cbff9a",
    },
    "gpt_oss": {  # of openai-gpt-oss-120b.jinja in llama.cpp, on 2025-06-28
        "user": "6026657c758b87c7",
        "system": "3d475c3e3b60ad23",
        "dialogue": "43a3946592f9715c",
        "answered": "427860414c04ea03",
    },
    "magistral": {  # of mistral-common 1.13.1, with `OPEN` as a text, a thought and a text
        "user": "629559c35d4451ff",
        "system": "62e83cd429739700",
        "dialogue": "1f7307c1eb77899a",
        "answered": "68f2a49920ec5c7a",
    },
    "nemotron": {"dialogue": "a2b2339e0c232743", "answered": "f50b09d09735aad9"},  # with "on" for its "off"
    # of phi4-reasoning:14b, with `OPEN` in place of Microsoft's system prompt
    "phi4": {"user": "4253a36b7cd00a66", "dialogue": "32b7fd1bb4f29967", "answered": "0d982c07f4866cf9"},
}


@pytest.mark.parametrize("said", [None, ""], ids=["none", "empty"])
@pytest.mark.parametrize(("form", "dialogue"), [(form, name) for form in ELSEWHERE for name in ELSEWHERE[form]])
def test_text_is_that_of_a_template_that_is_not_here(
    form: str, dialogue: str, said: str | None, renderers: dict[str, Renderer]
) -> None:
    """A system prompt of none and an empty one both give what the family writes to a user's message alone."""
    hashes = ELSEWHERE[form]
    messages = [*DIALOGUES["dialogue" if dialogue == "answered" else dialogue]]
    if dialogue == "answered":
        messages.append({"role": "assistant", "content": "D."})
    says = {role: [m["content"] for m in messages if m["role"] == role] for role in ("system", "user", "assistant")}
    *turns, user = says["user"]
    ours, answers = renderers[form].backbone.template, says["assistant"][: len(turns)]
    text = str(ours.prompt(user, says["system"][0] if says["system"] else said, "open", turns, answers))
    if dialogue == "answered":  # as trained, but without a thought, which their template would take as it is
        text = f"{ours.prompt(user, said, 'absent', turns, answers)}D.{ours.end}"
    saved = renderers[form].tokenizer.apply_chat_template(
        messages,
        chat_template=ours.jinja(said),
        tokenize=False,
        add_generation_prompt=dialogue != "answered",
    )
    assert [hashlib.sha256(one.encode()).hexdigest()[:16] for one in (text, saved)] == [hashes[dialogue]] * 2


@pytest.mark.parametrize("said", [None, ""], ids=["none", "empty"])
def test_s1_is_asked_with_qwens_default_system_turn(said: str | None) -> None:
    """As s1's README writes its prompts: line 74 of github.com/simplescaling/s1."""
    turn = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>"
    wanted = f"<|im_start|>system\n{turn}\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    assert template("s1").prompt("Why?", said, "open") == wanted


def test_an_unclosed_thought_leaves_no_answer_in_a_history(renderers: dict[str, Renderer]) -> None:
    for renderer in renderers.values():
        own = renderer.backbone.template
        assert own.history(f"{own.think_open}T", "open") == ""


def test_qwen3s_empty_thought_is_its_own(renderers: dict[str, Renderer]) -> None:
    renderer = renderers["qwen3"]
    options = {"add_generation_prompt": True, "enable_thinking": False, "return_dict": False}
    asked = [{"role": "user", "content": "Why?"}]
    assert renderer.encode(renderer.prompt_text("Why?", "empty")) == renderer.tokenizer.apply_chat_template(
        asked, **options
    )


def test_delimiters_are_the_single_tokens_they_should_be(renderers: dict[str, Renderer]) -> None:
    elsewhere = {"phi4", *RENAMED}  # Phi's separator is not here
    here = {form: renderer for form, renderer in renderers.items() if form not in elsewhere}
    assert {form: renderer.encode(renderer.prompt_text("", "open"))[-2:] for form, renderer in here.items()} == {
        "r1": [151648, 198],
        "r1_january": [151644, 151645],
        "qwen3": [77091, 198],
        "chatml": [151667, 198],
        "olmo3": [198, 151667],
        "gpt_oss": [200006, 173781],
    }
    assert {form: renderer.render([EMPTY])[0].response for form, renderer in here.items()} == {
        "r1": [151649, 271, 32, 151643],
        "r1_january": [151648, 271, 151649, 271, 32, 151643],
        "qwen3": [151667, 271, 151668, 271, 32, 151645],
        "chatml": [151668, 271, 32, 151645],
        "olmo3": [151668, 271, 32, 151643],
        "gpt_oss": [200005, 35644, 200008, 200007, 200006, 173781, 200005, 17196, 200008, 32, 200002],
    }


@pytest.mark.parametrize("other", FORMS)
def test_prompts_in_another_familys_turns_are_what_they_say(other: str, renderers: dict[str, Renderer]) -> None:
    """Its tokens are those of the tokenizer where it has them, else text. The first token and the thought stay."""
    asked = {"turns": ["Hi </think>"], "answers": ["Ho"]}
    for form, renderer in renderers.items():
        own, theirs = renderer.backbone.template, template(other)
        mixed = Around(template=theirs).template_for(own)
        text = renderer.prompt_text("Why <|im_end|>?", "open", "Be brief.", mixed, **asked)
        opening = own.think_open if own.opened_by == "prompt" else ""
        turns = replace(theirs, opened_by="model").prompt("Why <|im_end|>?", "Be brief.", "open", **asked)
        middle = turns.removeprefix(theirs.bos)
        assert text == f"{own.bos}{middle}{opening}"
        ids = renderer.encode(text)
        assert renderer.tokenizer.decode(ids) == text
        known = {str(token): number for number, token in renderer.tokenizer.added_tokens_decoder.items()}
        written = "".join(text.pieces[::2])
        named = sorted((at, number) for token, number in known.items() for at in places(written, token))
        assert [one for one in ids if one in known.values()] == [number for _, number in named], (form, other)
        alone = Around(template=theirs).begin(EMPTY, None, InterventionContext(own, "open", {})) is None
        assert alone is (mixed == own)


def test_without_a_think_tag_only_the_tag_is_missing(renderers: dict[str, Renderer]) -> None:
    applies = set()
    for form, renderer in renderers.items():
        own = renderer.backbone.template
        tagged, untagged = (renderer.encode(renderer.prompt_text("Why?", mode)) for mode in ("open", "absent"))
        if Around(mode="absent").begin(EMPTY, None, InterventionContext(own, "absent", {})) is None:
            assert untagged == tagged
        elif own.opened_by == "prompt":
            assert tagged == untagged + renderer.tokenizer.encode(own.think_open, add_special_tokens=False)
            applies.add(form)
    assert {"r1", "chatml"} <= applies


def test_less_thought_has_the_ids_of_safechains_text(renderers: dict[str, Renderer]) -> None:
    renderer = renderers["r1"]
    thought = yaml.safe_load((TEMPLATES.parents[1] / "intervention/thinking.yaml").read_text())["less_thought"][
        "thought"
    ]
    begun = Begin(thought=thought, closed=True).begin(EMPTY, None, InterventionContext(template("r1"), "open", {}))
    prompt = renderer.encode(renderer.prompt_text("Why?", "open"))
    ids, _ = renderer.begin(begun.render(template("r1"), "open"), begun.then)
    source = "Okay, the user ask for this, I can answer it without thinking much. \n</think>\n\n"
    whole = f"<｜begin▁of▁sentence｜><｜User｜>Why?<｜Assistant｜><think>\n{source}"
    assert prompt + ids == renderer.tokenizer.encode(whole, add_special_tokens=False)


def test_ids_of_r1_in_chatmls_turns_and_of_qwen3_in_phi4s(renderers: dict[str, Renderer]) -> None:
    def ids(form: str, other: str) -> list[int]:
        renderer = renderers[form]
        theirs = replace(template(other), without_system="")  # as in conf/intervention/template.yaml
        mixed = Around(template=theirs).template_for(renderer.backbone.template)
        return renderer.encode(renderer.prompt_text("A", "open", template=mixed))

    r1, qwen3 = renderers["r1"].tokenizer, renderers["qwen3"].tokenizer
    plain = r1.encode("<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False)
    assert len(plain) > 20  # R1's tokenizer has no such tokens
    assert ids("r1", "chatml") == [151646, *plain, 151648, 198]
    separator = qwen3.encode("<|im_sep|>", add_special_tokens=False)
    assert len(separator) > 1
    user, assistant = 872, 77091
    start, end = 151644, 151645
    spelt = [start, user, *qwen3.encode("<|im_sep|>A", add_special_tokens=False), end, start, assistant, *separator]
    assert ids("qwen3", "phi4") == spelt


def test_a_familys_turns_are_its_own_though_it_adds_a_default_system_turn() -> None:
    def left_out(other: str) -> bool:
        return Around(template=template(other)).begin(EMPTY, None, context) is None

    context = InterventionContext(template("s1"), "open", {})
    assert [name for name in ("chatml", "r1", "phi4", "olmo3") if left_out(name)] == ["chatml"]


def places(text: str, token: str) -> list[int]:
    return [at for at in range(len(text)) if text.startswith(token, at)]


EMPTY = Example("e", "Q", "benign", answer="A")


STRUCTURES = tuple(
    path.stem
    for path in sorted((TEMPLATES.parents[1] / "rewrite").glob("*.yaml"))
    if "PromptSide" not in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_structure_keeps_the_rules_in_every_form(
    name: str, renderers: dict[str, Renderer], rows: list[Example]
) -> None:
    """Every fifth row, as it is labelled and relabelled benign, so that the whole trace is reasoned on.

    Of a thousand rows every structure has other ones, and fewer.
    """
    register()
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        structure = instantiate(compose("run", overrides=[f"rewrite={name}"]).rewrite)
    others = rows[STRUCTURES.index(name) % 15 :: 15] if len(rows) > 200 else rows[::5]
    sample = [replace(row, category="privacy") for row in others]
    if name == "r1_act":
        sample = [replace(row, **({"answer": ""} if n % 9 else {"thought": ()})) for n, row in enumerate(sample)]  # type: ignore[arg-type]
    trained = []
    for some in (sample, [replace(row, label="benign", category="code") for row in sample]):
        assessed = dict(structure.teacher.assess(some, 0, TeacherContext(Path()))) if structure.teacher else {}
        made = [structure.rewrite(row, 0, assessed.get(row.id)) for row in some]
        trained += [row for row in made if isinstance(row, Example)]
    assert len(trained) >= len(sample)
    for form, renderer in renderers.items():
        rendered = zip(renderer.render(trained), trained, strict=True)
        wrong = [(row.id, problems) for sequence, row in rendered if (problems := renderer.problems(sequence, row))]
        assert wrong == [], form


@pytest.mark.parametrize("form", FORMS)
def test_a_beginning_of_a_response_has_the_ids_that_the_whole_response_has(
    renderers: dict[str, Renderer], form: str
) -> None:
    renderer = renderers[form]
    chat = renderer.backbone.template
    thought = 'He asks: "Why?" It is harmless.\n\nSo I answer.\n\n1. First, so </think> on.\n2. Then more…'
    whole = Rendered(chat.think_open if chat.opened_by == "model" else "", thought, chat.think_close, "10 lines, then.")
    ids = renderer.encode(whole)
    start = len(whole.pieces[0])
    shortened = 0
    for end in range(start, len(whole)):
        inside = end < start + len(thought)
        if not inside and end < start + len(thought + chat.think_close):
            continue  # a delimiter is given whole
        kept = whole.pieces[:1] + (
            (whole[start:end],)
            if inside
            else (*whole.pieces[1:3], whole[:end][start + len(thought + chat.think_close) :])
        )
        begun, text = renderer.begin(Rendered(*kept), whole[end:])
        assert begun == ids[: len(begun)]
        assert whole.startswith(text)
        assert len(whole[:end]) - len(text) < 12
        shortened += text != whole[:end]
        sent = prompt_as_text(Prompt(begun, text, "p", 9), renderer, Decoding(99))
        assert sent is not None, text
        assert renderer.encode(sent[0].text) == sent[0].ids == begun[: len(sent[0].ids)]
        assert sent[0].text + sent[1] == text
        assert sent[1].strip() == ""
        assert sent[0].cap == 9 + len(begun) - len(sent[0].ids)
    assert shortened < len(whole) * 0.8  # most ends are inside a word, and are then put at its start
