"""Supervised fine-tuning on rewritten examples. The config's classes are here; what imports torch is in

- `packing`  sequences -> packed batches in a seeded order
- `module`   the Lightning module: response-only loss, AdamW, warm-up and cosine
- `fit`      one training: trainer, checkpoints, resume, the saved adapter
- `trackers` csv, wandb, TensorBoard, MLflow; `sinks` and `tracking` bring numbers there without stopping a run
"""

from alttrain.training.config import Hardware, NoTraining, SupervisedFineTuning
from alttrain.training.trackers import CsvTracker, MlflowTracker, TensorBoardTracker, WandbTracker

__all__ = [
    "CsvTracker",
    "Hardware",
    "MlflowTracker",
    "NoTraining",
    "SupervisedFineTuning",
    "TensorBoardTracker",
    "WandbTracker",
]
