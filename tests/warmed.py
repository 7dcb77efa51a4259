"""What a process of the command does before its first step, done once in the server from which all are forked.

Hydra looks for its plugins, learns the grammar of overrides, and reads the packaged config files.
"""

import gc

import kept_configs  # noqa: F401
from hydra import compose, initialize_config_module
from transformers.models.llama import modeling_llama  # noqa: F401

from alttrain.backbone import support, weights  # noqa: F401
from alttrain.config import register
from alttrain.dataset import similarity  # noqa: F401
from alttrain.generation import decoder  # noqa: F401
from alttrain.run import app, execution, sweep  # noqa: F401
from alttrain.run.stages import report  # noqa: F401
from alttrain.training import fit  # noqa: F401

register()
with initialize_config_module("alttrain.conf", version_base="1.3"):
    for method in ("no_train", "demo_alttrain"):
        compose(
            "run",
            overrides=["experiment=demo", f"method={method}", "output_dir=o", "limit=2"],
            return_hydra_config=True,
        )
gc.collect()
gc.freeze()
