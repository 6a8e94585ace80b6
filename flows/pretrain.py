"""A teacher of one's own, where no hub has one: a vocabulary and a BERT learnt from plain text alone."""

import sys
import time
from pathlib import Path

from prefect import flow
from rich.console import Console
from rich.table import Table

from flows.command import shown
from tasks.augmentation import train_mlm
from tasks.data import prepare_corpus
from tasks.preflight import preflight_services
from tasks.pretraining import PretrainSummary, conclude, find_pretraining_sources, learn_vocabulary, rows
from tasks.run import open_run
from tinybert.pretrain_config import PretrainConfig


@flow(name="pretrain", flow_run_name="{config.name}")
def pretrain(config: PretrainConfig) -> PretrainSummary:
    """Train a BERT from scratch on a corpus, to be named as the teacher of other runs.

    Args:
        config: The corpus, the vocabulary, the model's shape, and its training. A name and a corpus are required.
    """
    begun = time.monotonic()
    with open_run(config, config.name, stages=3) as run:
        run.always(preflight_services, config.name, True)
        found = run.always(find_pretraining_sources, config)
        shapes = (config.vocabulary, config.corpus, config.encoder)
        blank = run(learn_vocabulary, found.corpus, found.tokenizer, *shapes)
        packed = run(prepare_corpus, found.corpus, blank.model, config.corpus)
        trained = run(train_mlm, packed.corpus, blank.model, config.mlm, config.launch)
        sequences = int(packed.metrics["sequences"])
        return conclude(run, config.name, blank, trained, sequences, time.monotonic() - begun)


def show(summary: PretrainSummary) -> None:
    """The closing table, and how to go on."""
    table = Table(title=f"{summary.name}: {summary.seconds / 60:.1f} minutes", show_header=False)
    for cells in rows(summary):
        table.add_row(*cells)
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(table)
    console.print(f"teacher:  --set teacher.source=file:{shown(Path(summary.model_directory))}", highlight=False)


if __name__ == "__main__":
    from flows.command import main

    main(pretrain, PretrainConfig, show)
