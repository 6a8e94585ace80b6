"""What was looked at before a run, and what the run will cost, as people are told it: in lines, and as Markdown."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tinybert.errors import InputError
from tinybert.estimate import Amounts, StageCost

Status = Literal["ok", "warning", "wrong"]
HEADER = ("stage", "examples", "steps", "TFLOP", "GB written", "GB memory", "hours")
_CELL = str.maketrans({"|": "\\|", "\n": " "})


class Finding(BaseModel):
    """One thing that was looked at."""

    model_config = ConfigDict(frozen=True)

    what: str
    status: Status
    found: str
    mend: str = ""
    passing: bool = False
    """What is wrong is the world's fault, and may be gone when it is tried again."""


class Speed(BaseModel):
    """What a few training steps reached."""

    model_config = ConfigDict(frozen=True)

    flops: float
    """Operations a second."""
    steps: int
    rows: int
    """Of a step."""
    length: int
    bf16: bool
    cuda: bool

    def __str__(self) -> str:
        arithmetic = "bf16" if self.bf16 else "fp32"
        batch = f"{self.steps} steps of {self.rows} rows of {self.length} tokens"
        return f"about {self.flops / 1e9:,.0f} GFLOP/s in {arithmetic}, by {batch}"


class DoctorReport(BaseModel):
    """Everything that was looked at, and what each stage will cost where that could be told."""

    name: str
    findings: list[Finding]
    stages: list[StageCost] = []
    amounts: Amounts | None = None
    speed: Speed | None = None
    processes: int = 1
    """That many times the speed of one is taken."""
    hours: float | None = None
    """Of all stages, where the speed is known."""
    gigabytes: float | None = None
    """Written and kept by all stages, and the checkpoints of the largest."""

    @classmethod
    def of(
        cls,
        name: str,
        findings: list[Finding],
        stages: list[StageCost],
        amounts: Amounts | None = None,
        speed: Speed | None = None,
        processes: int = 1,
    ) -> "DoctorReport":
        """With its sums."""
        hours = sum(stage.hours(speed.flops * processes) for stage in stages) if stages and speed else None
        return cls(
            name=name,
            findings=findings,
            stages=stages,
            amounts=amounts,
            speed=speed,
            processes=processes,
            hours=hours,
            gigabytes=total_gigabytes(stages) if stages else None,
        )

    @property
    def wrong(self) -> list[Finding]:
        """What has to be mended before the run can do anything."""
        return [finding for finding in self.findings if finding.status == "wrong"]

    @property
    def summary(self) -> str:
        """In a few words."""
        counts = Counter(finding.status for finding in self.findings)
        return ", ".join(f"{counts[status]} {status}" for status in ("ok", "warning", "wrong") if counts[status])

    @property
    def totals(self) -> dict[str, float]:
        """The estimate's sums, as metrics."""
        sums = {"estimated_hours": self.hours, "estimated_gigabytes": self.gigabytes}
        return {name: value for name, value in sums.items() if value is not None}

    def error(self) -> InputError:
        """What a run ends with: how many things are wrong and the first of them; then, line by line, all of them."""
        first, count = self.wrong[0], len(self.wrong)
        said = "1 thing is wrong" if count == 1 else f"{count} things are wrong, first"
        lines = [f"{finding.what}: {_advised(finding)}" for finding in self.wrong]
        return InputError("\n  ".join([f"{said}: {first.what}: {first.found}", *lines]))

    def lines(self) -> Iterator[str]:
        """For a log."""
        for finding in self.findings:
            yield f"{finding.status:7}  {finding.what}: {_advised(finding)}"
        if self.stages:
            yield self.estimated

    @property
    def estimated(self) -> str:
        """The estimate in one line."""
        flops, stages = sum(stage.flops for stage in self.stages), len(self.stages)
        most = max(self.stages, key=lambda stage: stage.flops)
        share = f", {most.flops / flops:.0%} of it {most.name}" if flops else ""
        taken = f"about {duration(self.hours)}{share}" if self.hours is not None else "time unknown"
        written = f"{self.gigabytes or 0:.2g} GB written"
        return f"estimate: {stages} stages, {flops / 1e12:,.3g} TFLOP, {taken}, {written}, without what is cached"

    def table(self) -> Iterator[tuple[str, ...]]:
        """The stages' costs as cells under `HEADER`; stages without any are left out."""
        for stage in self.stages:
            if stage.flops or stage.gigabytes:
                hours = stage.hours(self.speed.flops * self.processes) if self.speed else None
                yield (
                    stage.name,
                    f"{stage.examples:,}" if stage.examples else "",
                    f"{stage.steps:,}" if stage.steps else "",
                    f"{stage.flops / 1e12:,.3g}" if stage.flops else "",
                    f"{stage.gigabytes + stage.scratch_gigabytes:.2g}",
                    f"{stage.memory_gigabytes:.2g}" if stage.memory_gigabytes else "",
                    f"{hours:.2g}" if hours else "",
                )

    def markdown(self) -> str:
        """The findings, then the estimate."""
        order = {"wrong": 0, "warning": 1, "ok": 2}
        findings = sorted(self.findings, key=lambda finding: order[finding.status])
        rows = [(f.what, f.status if f.status == "ok" else f"**{f.status}**", f.found, f.mend) for f in findings]
        parts = [f"## Before {self.name}: {self.summary}", _table(("what", "", "found", "how to mend it"), rows)]
        if self.stages:
            parts += [f"{self.estimated[0].upper()}{self.estimated[1:]}.", _table(HEADER, self.table())]
        return "\n\n".join(parts) + "\n"


def total_gigabytes(stages: list[StageCost]) -> float:
    """What all stages write and keep, and the most that one of them writes beside."""
    return sum(stage.gigabytes for stage in stages) + max(stage.scratch_gigabytes for stage in stages)


def duration(hours: float) -> str:
    """Hours in the unit that suits them."""
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} s"
    return f"{60 * hours:.0f} minutes" if hours < 2 else f"{hours:,.1f} hours"


def _advised(finding: Finding) -> str:
    return f"{finding.found} -> {finding.mend}" if finding.mend else finding.found


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    cells = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.translate(_CELL) for cell in row)} |" for row in cells)
