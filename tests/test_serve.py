"""The server engine against a real `transformers serve`: the same answers as in process, and no server left behind."""

import importlib.util
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from processes import has_ended
from tiny import backbone

from alttrain.backbone import resolve
from alttrain.backbone.weights import load_model, load_tokenizer
from alttrain.config import instantiate, register
from alttrain.generation import ChildServer, Decoding
from alttrain.generation.decoder import Decoder
from alttrain.generation.engine import Completion, LocalEngine, Model, Prompt
from alttrain.tokenization import Renderer

PROMPTS = 40
SHARE = 0.95
"""Of the prompts whose answers are the same: the server adds up in another order, and a tie may fall the other way."""
GREEDY = Decoding(12)
SAMPLES = 5

pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("fastapi", "uvicorn"))),
    reason="transformers serve needs fastapi and uvicorn: pip install 'alttrain[serving]'",
)


def test_transformers_serve_answers_as_this_process_does_and_ends(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    register()
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        config = compose("run", overrides=["generation=transformers_serve", "backbone.dtype=float32"])
    child = instantiate(config.generation)
    assert isinstance(child, ChildServer)
    tiny = backbone(tiny_folder)
    renderer = Renderer(tiny, load_tokenizer(tiny_folder))
    texts = [
        renderer.prompt_text(f"Question {number}: what is {number} and {number}?", "open") for number in range(PROMPTS)
    ]
    asked = [Prompt(renderer.encode(text), text, f"p{number}#0") for number, text in enumerate(texts)]
    model = load_model(resolve(tiny), torch.float32, "cpu")
    here = dict(LocalEngine(Decoder(model, renderer.end_id, 8, "cpu"), renderer).generate(asked, GREEDY))
    output = tmp_path / "server.log"
    folder = shutil.copytree(tiny_folder, tmp_path / "model")  # of which the server takes what a request leaves out
    own = json.loads((folder / "generation_config.json").read_text())
    own |= {"repetition_penalty": 1.5, "do_sample": True, "top_k": 1}
    (folder / "generation_config.json").write_text(json.dumps(own))
    served = Model("run", renderer, None, None, lambda: folder, lambda engine: model, output)
    with child.start(served) as server:
        pid = int(re.findall(r"\[(\d+)\]", output.read_text())[0])
        os.kill(pid, 0)
        there = dict(server.generate(asked, GREEDY))
        samples = [replace(asked[0], name=f"p0#{number}") for number in range(SAMPLES)]
        drawn = [dict(server.generate(samples, replace(GREEDY, temperature=1.0, samples=SAMPLES))) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert len({answer.text for answer in drawn[0].values() if isinstance(answer, Completion)}) == SAMPLES
    assert sorted(there) == list(range(PROMPTS))
    assert all(isinstance(answer, Completion) for answer in there.values()), there
    bare = {number: without_special(answer, renderer) for number, answer in here.items()}
    other = {number: (bare[number], there[number]) for number in bare if bare[number] != there[number]}
    assert len(other) <= (1 - SHARE) * PROMPTS, other
    assert has_ended(pid)


def without_special(answer: Any, renderer: Renderer) -> Completion:
    """What the server makes of it: it leaves out special tokens, which random weights write at any place."""
    assert isinstance(answer, Completion)
    text = answer.text
    for token in renderer.tokenizer.all_special_tokens:
        text = text.replace(token, "")
    return Completion(text, answer.finish)
