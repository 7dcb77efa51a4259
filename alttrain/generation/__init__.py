"""Text generation: prompts in, generated texts out. Importing it is cheap; torch loads only when an engine starts."""

from alttrain.generation.engine import Auto, Decoding, EngineConfig, InProcess, InProcessVllm
from alttrain.generation.server import ChildServer, Server
