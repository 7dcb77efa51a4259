"""Text generation: prompts in, generated texts out. Importing it is cheap; torch loads only when an engine starts.

- `engine`   the interface of engines, those in this process (our decoder, vLLM), the cache of the backbone's texts
- `decoder`  our decoder: continuous batching over cache slots, and sampling; begin to read at `_Scheduler.run`
- `server`   engines that ask a server, which may be started for a stage
- `scorer`   next-token probabilities for judges
"""

from alttrain.generation.engine import Auto, Decoding, EngineConfig, InProcess, InProcessVllm
from alttrain.generation.server import ChildServer, Server
