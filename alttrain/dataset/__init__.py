"""Rows of a source -> Examples. No torch.

- `EmbeddedPrompts`  the training prompts packaged with alttrain, as a seeded, stratified subset
- `LocalFile`        JSON, JSON lines or CSV on disk, through a column map
- `near_duplicates`  prompts that are one sentence with a slot changed

A source is any object with `name`, `examples(seed)` and `content()` (the hash of each file it reads).
"""

from alttrain.dataset.duplicates import near_duplicates
from alttrain.dataset.sources import EmbeddedPrompts, ExampleSource, LocalFile, embedded_path, embedded_rows

__all__ = ["EmbeddedPrompts", "ExampleSource", "LocalFile", "embedded_path", "embedded_rows", "near_duplicates"]
