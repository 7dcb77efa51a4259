"""Training and benchmark data: sources of rows, their conversion to Examples, and seeded selection. No torch.

A source is any object with `name`, `examples(seed)` and `content()` (the hash of each file it reads). A source of a
`Dataset` also has `read(seed)`, which reports the rows that cannot be used.
"""

from alttrain.dataset.selection import Dataset, Selection, local_file
from alttrain.dataset.similarity import Match, contaminated
from alttrain.dataset.sources import ExampleSource, Rows, embedded_rows, jailbreak_artifacts
