"""Claim: on the same number of optimizer steps, a student distilled with augmented rows beats one without.

Runs a preset twice per seed, with augmentation and without, in one installation below a directory: all stages before
augmentation are computed once and shared. Both distillation stages of both runs end after the same steps, and choose
their checkpoint from about as many evaluations. The seed sets augmentation, `layers` and `logits`; the rows, the
teacher and the general student stay the same, so the spread is that of distillation alone.

    python benchmarks/augmentation_gain.py [--preset NAME] [--seeds N] [--copies N] [--steps N] [--rows N] [--json FILE]

With --directory the installation is kept, and the same command continues there after an interruption.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from distill_step import commit, processor

ROOT = Path(__file__).parent.parent


def changes(seed: int, copies: int, steps: int, rows: int | None) -> dict[str, object]:
    """Fields of the form that one run has different from the preset; with 0 copies augmentation is off."""
    trained = {
        f"{stage}.optim.{field}": value
        for stage in ("layers", "logits")
        for field, value in {"seed": seed, "steps": steps, "epochs": 1000}.items()
    }
    rows_of = {} if rows is None else {"data.rows": rows}
    augmentation = {
        "augment.enabled": copies > 0,
        "augment.copies": max(copies, 1),
        "augment.seed": seed,
        # An epoch is as many times longer, so the evaluations stay about as many steps apart.
        "logits.selection.evaluations_per_epoch": copies + 1,
    }
    return {**trained, **rows_of, **augmentation, "baseline.enabled": False, "publish.enabled": False}


def distilled(directory: Path, preset: str, fields: dict[str, object]) -> float:
    """The student's score after one run, by the metric that decides."""
    environment = os.environ | {
        "TINYBERT_STORE": f"file:{directory}/store",
        "TINYBERT_WORK": f"{directory}/work",
        "MLFLOW_TRACKING_URI": f"sqlite:///{directory}/mlflow.db",
    }
    table = directory / "table.json"
    command = [sys.executable, "-m", "flows.distill", "--preset", preset, "--json", str(table)]
    assignments = [part for name, value in fields.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    # In the repository, for a preset may name its sources relative to it.
    subprocess.run([*command, *assignments], cwd=ROOT, env=environment, check=True, stdout=sys.stderr)
    comparison = json.loads(table.read_text())["comparison"]
    score: float = comparison["student"][comparison["metric"]]
    return score


def measure(directory: Path, given: argparse.Namespace) -> list[dict[str, float]]:
    """Scores without and with augmentation, seed by seed."""
    found = []
    for seed in range(given.seeds):
        without, with_copies = (
            distilled(directory, given.preset, changes(seed, copies, given.steps, given.rows))
            for copies in (0, given.copies)
        )
        found.append({"seed": seed, "without": without, "with": with_copies, "difference": with_copies - without})
        print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    return found


def summary(found: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean and standard error of each column over the seeds; one seed has no error."""
    columns = {name: [row[name] for row in found] for name in ("without", "with", "difference")}
    return {
        name: {
            "mean": statistics.mean(values),
            "standard_error": statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan"),
        }
        for name, values in columns.items()
    }


def report(found: list[dict[str, float]], given: argparse.Namespace) -> str:
    """What was measured, as Markdown."""
    lines = [
        f"{processor()}; commit {commit()}; `{' '.join(['python', *sys.argv])}`",
        "",
        f"Preset {given.preset}, {given.rows or 'its own number of'} rows, {given.copies} copies a row, "
        f"{given.steps} steps of `layers` and of `logits` each; "
        "the student's score, by the metric that decides, on the test rows.",
        "",
        "| seed | steps | without | with | difference |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in found:
        scores = f"{row['without']:.1%} | {row['with']:.1%} | {row['difference'] * 100:+.1f}"
        lines.append(f"| {row['seed']} | {2 * given.steps} | {scores} |")
    mean = summary(found)
    for name, wanted in (("mean", "mean"), ("standard error", "standard_error")):
        columns = [mean[column][wanted] * 100 for column in ("without", "with", "difference")]
        sign = "+" if wanted == "mean" else ""
        lines.append(f"| {name} | | {columns[0]:.1f}% | {columns[1]:.1f}% | {columns[2]:{sign}.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="quickstart", metavar="NAME", help="of prefect.yaml")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each kind")
    parser.add_argument("--copies", type=int, default=4, metavar="N", help="copies per row")
    parser.add_argument("--steps", type=int, default=300, metavar="N", help="optimizer steps of layers and of logits")
    parser.add_argument("--rows", type=int, metavar="N", help="training rows at most; otherwise the preset's")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="installation to keep; otherwise a temporary one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        directory = (given.directory or Path(scratch)).absolute()
        directory.mkdir(parents=True, exist_ok=True)
        found = measure(directory, given)
    print(report(found, given))
    if given.json:
        given.json.write_text(json.dumps({"seeds": found, **summary(found)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
