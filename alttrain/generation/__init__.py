"""Prompts -> Generations. `Decoding` and `InProcess` are what a config says; the engine in `engine` imports torch."""

from alttrain.generation.config import Decoding, InProcess

__all__ = ["Decoding", "InProcess"]
