"""Teachers: who writes an example's harmfulness assessment, one sentence with a verdict and the reason.

- `TemplateTeacher`  from label and category, without a model
- `AskedTeacher`     asks a model, validates the reply, has it repaired, and rejects what stays wrong
- `BackboneWriter`, `ServerWriter`  the models it may ask: the backbone itself, or one on a server
"""

from alttrain.llm import ServerWriter
from alttrain.rewrite.teachers.asked import (
    AskedTeacher,
    BackboneWriter,
    Teacher,
    TeacherContext,
    TeacherUnavailableError,
    Understander,
)
from alttrain.rewrite.teachers.template import TemplateTeacher

__all__ = [
    "AskedTeacher",
    "BackboneWriter",
    "ServerWriter",
    "Teacher",
    "TeacherContext",
    "TeacherUnavailableError",
    "TemplateTeacher",
    "Understander",
]
