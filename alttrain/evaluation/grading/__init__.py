"""Graders of benign answers. The answer is graded, never the thought; a missing answer is wrong.

- `ShortAnswer` the answer contains a gold answer as whole words and numbers
- `Maths`       the final answer equals the gold one (GSM8K, MATH-500, AIME)
- `ExactMatch`  the short answer is a gold one; F1 as its value (NQ-open)
- `Choice`      the letter of a multiple choice (GPQA, MMLU-Pro, CMMLU)
- `Rouge`       F measure of a summary (CNN/DailyMail)
- `HumanEval`   the code passes its tests in a sandbox
"""

from alttrain.evaluation.grading.choice import Choice
from alttrain.evaluation.grading.humaneval import HumanEval
from alttrain.evaluation.grading.maths import Maths
from alttrain.evaluation.grading.short_answer import ExactMatch, Rouge, ShortAnswer, tokens

__all__ = ["Choice", "ExactMatch", "HumanEval", "Maths", "Rouge", "ShortAnswer", "tokens"]
