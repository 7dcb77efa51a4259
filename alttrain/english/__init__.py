"""What an English sentence or answer says: does it refuse, assess the request, or say what the user wants?

Small linear models over word n-grams answer that. They are trained by `scripts/train_english.py`, and shipped as text.
"""

from alttrain.english.linear import LinearModel, weighted
from alttrain.english.sentences import sentences
from alttrain.english.thought import Said, says

__all__ = ["LinearModel", "Said", "says", "sentences", "weighted"]
