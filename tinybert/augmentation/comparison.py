"""Labels held against those that the teacher gives, class by class, whatever kind of task they are of."""

from typing import NamedTuple

from tinybert.kinds.task_kind import Label, TaskKind

CHUNK = 1000
"""Labels compared at a time: a kind of task counts many in little more time than one."""


class Members(NamedTuple):
    """How often a class occurs in labels, and how often the teacher's have it not."""

    there: int = 0
    missed: int = 0


class Compared(NamedTuple):
    """What a comparison has found."""

    labels: int
    others: int
    """Labels in whose place the teacher gives another."""
    classes: dict[str, Members]


class Comparison:
    """Counts labels as they come.

    Args:
        kind: Of the task.
        names: Of its labels.
    """

    def __init__(self, kind: TaskKind, names: list[str]) -> None:
        self._kind, self._names = kind, names
        self._waiting: list[tuple[Label, Label]] = []
        self._found = Compared(0, 0, dict.fromkeys(kind.counts([], names), Members()))

    def add(self, label: Label, said: Label) -> None:
        """Count a label and the teacher's."""
        self._waiting.append((label, said))
        if len(self._waiting) == CHUNK:
            self.found()

    def found(self) -> Compared:
        """What all labels so far give."""
        if self._waiting:
            before, classes = self._found, dict(self._found.classes)
            labels, said = map(list, zip(*self._waiting, strict=True))
            for name, found_N2 in self._kind.recalls(labels, said, self._names).items():
                hit, there = found_N2.sum(axis=0).astype(int).tolist()
                classes[name] = Members(classes[name].there + there, classes[name].missed + there - hit)
            others = sum(label != other for label, other in self._waiting)
            self._found = Compared(before.labels + len(labels), before.others + others, classes)
            self._waiting = []
        return self._found
