"""What an English sentence or answer says: does it refuse, assess the request, or say what the user wants?

Small linear models over word n-grams answer that. `scripts/train_english.py` trains the one for answers,
`scripts/train_thoughts.py` the one for thoughts; both are shipped as text.
"""

from alttrain.english.linear import LinearModel, weighted
from alttrain.english.sentences import sentences
from alttrain.english.thought import Said, says

__all__ = ["LinearModel", "Said", "says", "sentences", "weighted"]
