"""Supervised fine-tuning on rewritten examples. What a config names is here; it imports no torch.

- `config`       recipe, hardware and loggers, as a config names them
- `data`         examples -> token sequences -> packed batches in a seeded order
- `module`       the Lightning module: the objective, AdamW, warm-up and cosine
- `fit`          one training: trainer, checkpoints, resume
- `loggers`      Lightning's loggers in a thread, so that none stops a run
- `distributed`  the processes of a training on several devices
"""

from alttrain.training.config import (
    Csv,
    Hardware,
    LoggedRun,
    Mlflow,
    NoTraining,
    ResponseLoss,
    SafeKeyLoss,
    SupervisedFineTuning,
    TensorBoard,
    Wandb,
)

__all__ = [
    "Csv",
    "Hardware",
    "LoggedRun",
    "Mlflow",
    "NoTraining",
    "ResponseLoss",
    "SafeKeyLoss",
    "SupervisedFineTuning",
    "TensorBoard",
    "Wandb",
]
