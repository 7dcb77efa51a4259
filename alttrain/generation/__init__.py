"""Prompts -> what is written to them. What a config names is light; torch loads with the engine it describes.

- `Decoding`       how a next token is chosen
- `InProcess`      continuous batching in this process (`decoder`)
- `InProcessVllm`  vLLM in this process, where it is installed
- `Auto`           one of these two, by what is here
- `Server`         any OpenAI-compatible server that runs already
- `ChildServer`    one that is started for the stage and ended with it
"""

from alttrain.generation.engine import Decoding, EngineConfig
from alttrain.generation.in_process import Auto, InProcess
from alttrain.generation.server import Server
from alttrain.generation.server_process import ChildServer
from alttrain.generation.vllm import InProcessVllm

__all__ = ["Auto", "ChildServer", "Decoding", "EngineConfig", "InProcess", "InProcessVllm", "Server"]
