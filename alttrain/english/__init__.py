"""What an English sentence or answer says: does it refuse, assess the request, or say what the user wants?

Small linear models over word n-grams answer that. They are trained by `scripts/train_english.py`, and shipped as text.
"""

from alttrain.english.linear import LinearModel, weighted

__all__ = ["LinearModel", "weighted"]
