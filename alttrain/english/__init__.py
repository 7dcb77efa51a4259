"""What an English text says, read by small linear models over word n-grams that ship as text files.

- `sentences`        splits a text into sentences
- `score_sentences`  what each sentence of a thought says: what the user wants, an assessment, a refusal
- `refusal`          whether an answer gives or declines what was asked
"""

from alttrain.english.linear import LinearModel, scaled_blocks
from alttrain.english.sentences import is_english, sentences
from alttrain.english.thought import SentenceScores, score_sentences
