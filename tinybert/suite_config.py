"""The form of `flows/suite.py`: several distillation runs that share what they can, and one table."""

from functools import cache
from typing import Annotated, Any, Self

from pydantic import Field, GetJsonSchemaHandler, ValidationError, create_model, model_validator
from pydantic.json_schema import JsonSchemaValue

from tinybert.config import DistillConfig
from tinybert.form import Form, explain, merge, nested_form
from tinybert.training_config import LaunchConfig


@cache
def part_of(form: type[Form]) -> type[Form]:
    """The form with every field left open, for its schema alone: what is given has the same bounds."""
    fields: dict[str, Any] = {}
    for name, info in form.model_fields.items():
        box = nested_form(info.annotation)
        kind, told = part_of(box) if box else info.annotation, Field(description=info.description)
        fields[name] = Annotated[(kind, *info.metadata, told)], None
    return create_model(form.__name__.removesuffix("Config"), __base__=Form, __doc__=form.__doc__, **fields)


class _Part:
    """What Prefect's server holds against fields of a run, to refuse at once, with the reason, what cannot be right.

    As `then`, since browsers make switches of the `properties` they see, and send `false` for those nobody touched.
    """

    @staticmethod
    def __get_pydantic_json_schema__(_: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "object", "if": {}, "then": handler(part_of(DistillConfig).__pydantic_core_schema__)}


Part = Annotated[dict[str, Any], _Part]
"""Some of the fields of DistillConfig."""


class SuiteConfig(Form):
    """Several tasks, one distillation run each. What runs have in common, such as the general student, is made once."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,40}$")
    """Name of the suite; each run's is this and its own."""
    tasks: dict[str, Part] = Field(min_length=1)
    """Fields of each run by the run's name, boxes inside boxes as in the form of distill, e.g. {"cola": {"benchmark":
    "glue/cola"}, "own": {"data": {"source": "file:rows.csv"}, "layers": {"optim": {"epochs": 10}}}}."""
    settings: Part = {}
    """Fields of all runs, likewise, e.g. {"teacher": {"source": "hub:google-bert/bert-base-uncased"}, "student":
    {"layers": 4}}. A run's own go first; what neither gives is as the form of distill has it."""
    launch: LaunchConfig = LaunchConfig()
    """With engine ray its cluster runs the tasks side by side, once the first has made what they share. The processes
    that train stand in each run's own launch."""

    @model_validator(mode="after")
    def _runs_are_valid(self) -> Self:
        for task in self.tasks:
            try:
                self.run(task)
            except ValidationError as error:
                raise ValueError(f"tasks.{task}: {explain(error, DistillConfig)}") from None
        return self

    @model_validator(mode="after")
    def _one_cluster(self) -> Self:
        if self.launch.processes > 1:
            raise ValueError(f"launch.processes {self.launch.processes}: set it in settings.launch, for each run's own")
        twice = [task for task, run in self.runs().items() if run.launch.engine == self.launch.engine == "ray"]
        if twice:
            raise ValueError(f"launch.engine and that of tasks.{twice[0]} are both ray; leave one at torchrun")
        return self

    def run(self, task: str) -> DistillConfig:
        """The form of one run.

        Raises:
            ValidationError: A field is wrong or missing.
        """
        return DistillConfig.model_validate({"name": f"{self.name}-{task}", **merge(self.settings, self.tasks[task])})

    def runs(self) -> dict[str, DistillConfig]:
        """The forms of all runs, by the tasks' names."""
        return {task: self.run(task) for task in self.tasks}
