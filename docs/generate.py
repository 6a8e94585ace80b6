"""Writes docs/configuration.md from the form; `make docs` runs it."""

from pathlib import Path

from flows.rollback import RollbackConfig
from tinybert.collect_config import CollectConfig
from tinybert.config import DistillConfig
from tinybert.form import markdown
from tinybert.pretrain_config import PretrainConfig
from tinybert.score_config import ScoreConfig
from tinybert.suite_config import SuiteConfig

PAGE = Path(__file__).with_name("configuration.md")
INTRO = """\
# Configuration

Written by `make docs` from the form's classes; do not edit it here.

A run of `distill` is one `DistillConfig`. Its fields are filled in three ways:

- in the Prefect UI, where each class below is a box of the form;
- by a preset, the parameters of a deployment in `prefect.yaml`: `python -m flows.distill --preset NAME`;
- by hand, on top of a preset or without one: `--set layers.optim.epochs=5`, as often as needed; values are YAML.

Unknown fields, values outside the bounds and contradictions are refused before anything runs, a line each.
Rules that need the teacher's shape (heads, layers, lengths) are checked when the sources have been found.

Sources (`data.source`, `teacher.source` ...) are URIs. Each may end in `#sha256=<64 hex digits>`, the digest its
content must have.

| source | means |
| --- | --- |
| `hub:owner/name@revision` | a Hugging Face repository, or `hub:owner/name/path/inside@revision`; no revision: main |
| `file:/path` | a file or directory; also `file:relative/path` and `file:~/path` |
| `s3://bucket/key` | an object, or with a `/` at its end all below a prefix |
| `package:module/path/inside` | a file or directory of an installed Python package |
| `models:/name@alias` | a model this pipeline registered; also `models:/name/3` |

Where a table gives a box defaults of its own (`layers.optim`: `epochs` 20), they hold for every field
that is not given.

"""


OTHERS = """
The flows `score`, `suite`, `pretrain`, `rollback` and `collect` have forms of their own, filled in the same ways.

"""


def page() -> str:
    """The whole page."""
    others = "\n".join(map(markdown, (ScoreConfig, SuiteConfig, PretrainConfig, RollbackConfig, CollectConfig)))
    return INTRO + markdown(DistillConfig) + OTHERS + others


if __name__ == "__main__":
    PAGE.write_text(page())
