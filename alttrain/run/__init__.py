"""The Hydra app and its stages: check, rewrite, train, generate, judge, report.

With `config` the only room that sees a DictConfig. A stage reads files of earlier stages, writes its own, skips what
is finished, and imports torch only when there is work for a model.
"""
