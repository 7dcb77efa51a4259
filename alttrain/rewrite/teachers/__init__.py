"""Teachers write an example's harmfulness assessment: one sentence with a verdict and the reason.

- `TemplateTeacher`  writes it from label and category, without a model
- `AskedTeacher`     asks a model, validates the reply, asks for repairs, and rejects what stays invalid
- `BackboneWriter`, `ServerWriter`  the models it can ask: the run's backbone, or a model on a server
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
