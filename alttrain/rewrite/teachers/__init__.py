"""Teachers: who writes the harmfulness assessment of an example, one sentence with a verdict and why.

- `TemplateTeacher`  from label and category, without a model
- `AskedTeacher`     asks a model, validates what it writes, has it repaired once, and rejects what stays wrong
- `BackboneWriter`   hands its prompts to a model in process, the backbone itself
- `ServerWriter`     hands them to any OpenAI-compatible server
- `Teacher`, `Understander`, `Writer` the seams; `Desk` is what a run lends them
- `ReplyCache`       every reply ever paid for, shared by all runs; `replies` looks there before it asks
- `TeacherUnavailableError` ends a run whose teacher answered only a part; the same command goes on
"""

from alttrain.rewrite.teachers.asked import AskedTeacher, TeacherUnavailableError, replies
from alttrain.rewrite.teachers.backbone import BackboneWriter
from alttrain.rewrite.teachers.cache import Reply, ReplyCache
from alttrain.rewrite.teachers.desk import Desk, Teacher, Understander, Writer
from alttrain.rewrite.teachers.server import ServerWriter
from alttrain.rewrite.teachers.template import TemplateTeacher

__all__ = [
    "AskedTeacher",
    "BackboneWriter",
    "Desk",
    "Reply",
    "ReplyCache",
    "ServerWriter",
    "Teacher",
    "TeacherUnavailableError",
    "TemplateTeacher",
    "Understander",
    "Writer",
    "replies",
]
