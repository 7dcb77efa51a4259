"""The Hydra app and its stages: check, rewrite, train, generate, judge, report.

Only this package and `config` use DictConfig. Each stage reads files of earlier stages, writes its own, skips finished
work, and imports torch only if a model has work to do.
"""
