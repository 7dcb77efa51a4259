"""Graders of benign answers. They grade the answer, never the thought; a missing answer is wrong.

- `ShortAnswer` the answer contains a gold answer as whole words and numbers
- `Maths`       the final answer equals the gold answer (GSM8K, MATH-500, AIME)
- `ExactMatch`  the short answer equals a gold answer; the value is F1 (NQ-open)
- `Choice`      the letter of a multiple choice (GPQA, MMLU-Pro, CMMLU)
- `Rouge`       F measure of a summary (CNN/DailyMail)
- `HumanEval`   the code passes its tests in a sandbox; `HumanEvalPlus` and `MBPPPlus` with EvalPlus's tests
- `LiveCodeBench`  the program passes its tests in a sandbox
- `IFEval`      the answer follows instructions that a program can check
"""

from alttrain.evaluation.grading.humaneval import HumanEval, HumanEvalPlus, MBPPPlus
from alttrain.evaluation.grading.ifeval import IFEval
from alttrain.evaluation.grading.livecodebench import LiveCodeBench
from alttrain.evaluation.grading.maths import Maths
from alttrain.evaluation.grading.multiple_choice import Choice
from alttrain.evaluation.grading.short_answer import ExactMatch, Rouge, ShortAnswer, tokens
