"""The part of the flow that augments, as a flow of its own, for the tests of its faults and engines."""

import json
import sys

from prefect import flow

from flows.distill import augmented
from tasks.data import prepare_data, resolve_sources
from tasks.run import open_run
from tinybert.cli import validated
from tinybert.config import DistillConfig


@flow(name="augmenting")
def augmenting(config: DistillConfig) -> str:
    """Digest of the rows and their copies."""
    with open_run(config, config.name, 3) as run:
        found = run.always(resolve_sources, config)
        prepared = run(prepare_data, found.data, found.validation, found.test, config.data)
        return augmented(run, config, found, prepared, found.teacher).digest


if __name__ == "__main__":
    print("digest", augmenting(validated(DistillConfig, json.loads(sys.argv[1]))))
