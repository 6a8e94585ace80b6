"""The flow that scores, but that no shard is answered before two nodes have one each; for the tests of engines."""

import functools
import json
import sys
import time
from pathlib import Path

import flows.score
from tinybert.cli import validated
from tinybert.score_config import ScoreConfig

PATIENCE = 240
"""Seconds until a second node must have a shard, too."""


def after_two_nodes_met(answer, directory):
    """A shard's function that first leaves its node's name in a directory, and waits until there are two."""

    @functools.wraps(answer)
    def waiting(*arguments, **named):
        import ray

        (directory / ray.get_runtime_context().get_node_id()).touch()
        deadline = time.monotonic() + PATIENCE
        while len(list(directory.iterdir())) < 2:
            assert time.monotonic() < deadline, "all shards went to one node"
            time.sleep(0.05)
        return answer(*arguments, **named)

    return waiting


if __name__ == "__main__":
    met = Path(sys.argv[2])
    met.mkdir()
    shard = flows.score.score_shard
    shard.fn = after_two_nodes_met(shard.fn, met)
    print("shards", flows.score.score(validated(ScoreConfig, json.loads(sys.argv[1]))).shards)
