"""Training and benchmark data: sources of rows, their conversion to Examples, and seeded selection. No torch.

- `Dataset`              a mixture of sources: amounts, decontamination, near-duplicates, held-out rows
- `Rows`                 a JSON, JSON lines, CSV or Parquet file, or a set on the hub, read through a column map
- `embedded_rows`        a file packaged with alttrain
- `jailbreak_artifacts`  the prompts an attack found, from a copy of JailbreakBench's artifacts
- `local_file`           a dataset from one user file
- `contaminated`         training prompts that are also in a benchmark

A source is any object with `name`, `examples(seed)` and `content()` (the hash of each file it reads). A source of a
`Dataset` also has `read(seed)`, which reports the rows that cannot be used.
"""

from alttrain.dataset.selection import Dataset, Selection, local_file
from alttrain.dataset.similarity import Match, contaminated
from alttrain.dataset.sources import ExampleSource, Rows, embedded_path, embedded_rows, jailbreak_artifacts
