"""Every stage from its own command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tinybert.cli import main
from tinybert.stages import prepare

STAGES = [
    "prepare",
    "corpus",
    "mlm",
    "fine_tune",
    "baseline",
    "general",
    "augment",
    "gather",
    "screen",
    "layers",
    "logits",
    "evaluate",
    "export",
]


@pytest.mark.parametrize("stage", STAGES)
def test_help_names_the_inputs_and_the_fields(stage, capsys):
    module = __import__(f"tinybert.stages.{stage}", fromlist=["run"])
    with pytest.raises(SystemExit) as ended:
        main(module.run, ["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "--out PATH" in text
    assert f"python -m tinybert.stages.{stage}" in text
    assert "Returns:" in text
    if stage != "export":
        assert "fields for --set:" in text
        assert "default" in text


def test_a_stage_runs_as_a_program(tmp_path):
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n" + "".join(f"row {i},{'ab'[i % 2]}\n" for i in range(10)))
    command = [sys.executable, "-m", "tinybert.stages.prepare", "--source", rows, "--out", tmp_path / "out"]
    options = ["--set", "source=file:rows.csv", "--set", "validation_share=0.4"]
    done = subprocess.run([*map(str, command), *options], capture_output=True, text=True, check=True)
    assert "train_rows  6" in done.stdout
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [manifest["splits"][split]["rows"] for split in ("validation", "test")] == [2, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "source=file:x", "--set", "labl=x"], "error: labl: unknown field; did you mean 'label'?"),
        (["--set", "source=file:x", "--set", "label=x"], "error: rows.csv: no column 'x'; it has label, text"),
        ([], "error: source: nothing given; this field is required"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, capsys, options, message):
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\na,b\n")
    with pytest.raises(SystemExit) as ended:
        main(prepare.run, ["--source", str(rows), "--out", str(tmp_path / "out"), *options])
    assert ended.value.code == 2
    assert capsys.readouterr().err.strip() == message


def test_an_input_that_does_not_exist(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(prepare.run, ["--source", "/nowhere", "--out", str(tmp_path), "--set", "source=file:x"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: --source: no such file or directory: /nowhere\n"


def joined(*, parts: list[Path], out: Path, on_metrics) -> dict[str, float]:
    """Counts its parts."""
    (out / "names").write_text(" ".join(part.name for part in parts))
    return {"parts": float(len(parts))}


@pytest.mark.parametrize("names", [[], ["a"], ["b", "a"]])
def test_a_list_of_paths(tmp_path, capsys, names):
    for name in names:
        (tmp_path / name).mkdir()
    main(joined, ["--parts", *(str(tmp_path / name) for name in names), "--out", str(tmp_path / "out")])
    assert capsys.readouterr().out == f"parts  {len(names)}\n"
    assert (tmp_path / "out" / "names").read_text() == " ".join(names)


def test_one_of_several_paths_does_not_exist(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(joined, ["--parts", str(tmp_path), "/nowhere", "--out", str(tmp_path)])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: --parts: no such file or directory: /nowhere\n"
