"""Supervised fine-tuning on rewritten examples. The config's classes are here; what imports torch is in

- `packing`  sequences -> packed batches in a seeded order
- `module`   the Lightning module: the objective, AdamW, warm-up and cosine
- `safekey`  the heads of SafeKey's objective
- `fit`      one training: trainer, checkpoints, resume, the saved adapter
- `trackers` csv, wandb, TensorBoard, MLflow; `sinks` and `tracking` bring numbers there without stopping a run
"""

from alttrain.training.config import Hardware, NoTraining, ResponseLoss, SafeKeyLoss, SupervisedFineTuning
from alttrain.training.trackers import CsvTracker, MlflowTracker, TensorBoardTracker, WandbTracker

__all__ = [
    "CsvTracker",
    "Hardware",
    "MlflowTracker",
    "NoTraining",
    "ResponseLoss",
    "SafeKeyLoss",
    "SupervisedFineTuning",
    "TensorBoardTracker",
    "WandbTracker",
]
