"""Prompts -> Generations. `InProcess` is the engine's config; the engine itself is in `engine` and imports torch."""

from alttrain.generation.config import InProcess

__all__ = ["InProcess"]
