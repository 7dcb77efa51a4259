"""Supervised fine-tuning on rewritten examples. The config's classes are here; what imports torch is in

- `packing`  sequences -> packed batches in a seeded order
- `module`   the Lightning module: response-only loss, AdamW, warm-up and cosine
- `fit`      one training: trainer, checkpoints, resume, the saved adapter
- `trackers` csv and wandb
"""

from alttrain.training.config import Hardware, NoTraining, SupervisedFineTuning
from alttrain.training.trackers import CsvTracker, WandbTracker

__all__ = ["CsvTracker", "Hardware", "NoTraining", "SupervisedFineTuning", "WandbTracker"]
