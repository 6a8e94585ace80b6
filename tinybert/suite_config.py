"""The form of `flows/suite.py`: several distillation runs that share what they can, and one table."""

from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from tinybert.config import DistillConfig
from tinybert.form import Form, explain, merge
from tinybert.training_config import LaunchConfig


class SuiteConfig(Form):
    """Several tasks, one distillation run each. What runs have in common, such as the general student, is made once."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,40}$")
    """Name of the suite; each run's is this and its own."""
    tasks: dict[str, dict[str, Any]] = Field(min_length=1)
    """Fields of each run by the run's name, as in the form of distill, e.g. {"cola": {"benchmark": "glue/cola"}}."""
    settings: dict[str, Any] = {}
    """Fields of all runs, e.g. {"teacher": {"source": "hub:google-bert/bert-base-uncased"}}; a run's own go first."""
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
