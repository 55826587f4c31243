"""The typed recipe: the tables of the file together, and what must hold between them.

One class is one table of the TOML file; a field's description is what ``docs/recipe.md`` prints. Unknown
keys, wrong types and values out of range are errors, and so are keys that the chosen variant does not read.
"""

from typing import Annotated, Any, Self, get_args

from pydantic import Field, field_validator, model_validator

from dotkd.methods import create_method, has_teacher
from dotkd.models.external_names import is_external
from dotkd.optim.deepkd import deepkd_momenta
from dotkd.recipe.data import Data
from dotkd.recipe.method import complete_method
from dotkd.recipe.networks import Student, Teacher
from dotkd.recipe.optimizer import DeepKDTable, Optimizer, PairTable
from dotkd.recipe.run import Run
from dotkd.recipe.schedule import Schedule
from dotkd.recipe.table import Table


class Published(Table):
    """What others report for this recipe; nothing is computed from it."""

    accuracy: Annotated[float, Field(gt=0, le=100, description="Top-1 test accuracy in percent.")]
    source: Annotated[str, Field(min_length=1, description="Who reports it, where, and how.")]


class Recipe(Table):
    """A whole training run."""

    name: Annotated[str, Field(min_length=1, description="What tables and figures call this arm.")]
    data: Data
    student: Student
    teacher: Teacher | None = None
    method: Annotated[dict[str, Any] | None, Field(description="Distillation method.")] = None
    optimizer: Optimizer
    schedule: Schedule
    run: Run = Run()
    published: Published | None = None

    @field_validator("method")
    @classmethod
    def _method(cls, method: dict[str, Any] | None) -> dict[str, Any] | None:
        return None if method is None else complete_method(method)

    @model_validator(mode="after")
    def _together(self) -> Self:
        self._check_method()
        self._check_optimizer()
        channels = self.data.facts(look=False).channels
        if len(self.student.mean) not in (0, channels):
            raise ValueError(
                f"student.mean must have one number for each channel, and {self.data.name} has {channels}, "
                f"got {list(self.student.mean)}"
            )
        return self

    def _check_method(self) -> None:
        named = self.teacher.model if self.teacher else None
        if self.teacher and named and not is_external(named) and self.student.mean and not self.teacher.mean:
            raise ValueError(
                "teacher.mean and teacher.std are missing: with which was it trained? the student's are "
                f"{list(self.student.mean)} and {list(self.student.std)}; 0 and 1 for each channel are none"
            )
        if self.teacher is not None and self.method is None:
            raise ValueError("[teacher] needs a [method]: distillation has both, a plain student neither")
        if self.distils and self.teacher is None:
            raise ValueError("[method] needs a [teacher]: distillation has both, a plain student neither")
        if self.method and not self.distils and self.teacher is not None:
            raise ValueError(f"method {self.method['name']!r} has no teacher: leave [teacher] out")
        if not self.distils and self.student.features():
            key = next(iter(self.student.features()))
            raise ValueError(f"student.{key} is read by methods with a teacher only: leave it out")

    def _check_optimizer(self) -> None:
        if not isinstance(self.optimizer, PairTable):
            return
        name = self.optimizer.name
        if getattr(self.optimizer, "task_every", 1) > 1 and self.run.compile == "step":
            raise ValueError(
                "optimizer.task_every leaves out backward passes, and run.compile 'step' has all of them in "
                "one graph: use 'parts' or 'none', or task_every 1"
            )
        if not self.distils:
            why = (
                f"method {self.method['name']!r} has one"
                if self.method
                else "there is no [teacher] and no [method]"
            )
            hint = "" if self.method else ", or add both"
            raise ValueError(f"optimizer {name!r} needs two losses, but {why}: use 'sgd'{hint}")
        streams = getattr(create_method(**(self.method or {})), "streams", ())
        if isinstance(self.optimizer, DeepKDTable) and ("task", *streams) != tuple(deepkd_momenta()):
            raise ValueError(
                "optimizer 'deepkd' is for the three losses of method 'deepkd': use it, or 'dot'"
            )

    @property
    def distils(self) -> bool:
        """Whether there is a method that has a teacher."""
        return self.method is not None and has_teacher(self.method["name"])


def tables() -> dict[tuple[str, ...], type[Table]]:
    """List all tables of a recipe by their place; the variants of a table follow it by name.

    Returns:
        Place -> class: ``()`` is the file itself, ``("optimizer", "dot")`` one of its optimizers.

    Example:
        >>> [place for place in tables() if place[:1] == ("optimizer",)]
        [('optimizer', 'sgd'), ('optimizer', 'dot'), ('optimizer', 'control'), ('optimizer', 'deepkd')]
    """
    found: dict[tuple[str, ...], type[Table]] = {(): Recipe}
    for key, field in Recipe.model_fields.items():
        inner = [cls for cls in _classes(field.annotation) if issubclass(cls, Table)]
        for cls in inner:
            variant = get_args(cls.model_fields["name"].annotation) if len(inner) > 1 else ()
            found[key, *variant] = cls
    return found


def _classes(annotation: Any) -> list[type]:
    if isinstance(annotation, type):
        return [annotation]
    return [cls for inner in get_args(annotation) for cls in _classes(inner)]
