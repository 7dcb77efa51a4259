"""Prompts -> what is written to them. What a config names is light; torch loads with the engine it describes.

- `Decoding`       how a next token is chosen
- `InProcess`      slots in this process (`engine`)
- `Server`         any OpenAI-compatible server that runs already
- `ChildServer`    one that is started for the stage and ended with it
- `InProcessVllm`  vLLM in this process, where it is installed
"""

from alttrain.generation.child import ChildServer
from alttrain.generation.config import Decoding, InProcess
from alttrain.generation.server import Server
from alttrain.generation.vllm import InProcessVllm

__all__ = ["ChildServer", "Decoding", "InProcess", "InProcessVllm", "Server"]
