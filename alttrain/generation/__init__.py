"""Text generation: prompts in, generated texts out. Importing it is cheap; torch loads only when an engine starts.

- `Decoding`       how the next token is chosen
- `InProcess`      continuous batching in this process (`decoder`)
- `InProcessVllm`  vLLM in this process, if it is installed
- `Auto`           vLLM if it is installed and there is a GPU, else `InProcess`
- `Server`         an OpenAI-compatible server that is already running
- `ChildServer`    a server that is started for a stage and stopped after it
"""

from alttrain.generation.engine import Auto, Decoding, EngineConfig, InProcess, InProcessVllm
from alttrain.generation.server import ChildServer, Server
