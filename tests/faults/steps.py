"""Whether a training stage that is begun again goes on at its newest checkpoint: read off its work directory."""

from pathlib import Path

from tinybert.resume import STATE, WEIGHTS, read_state

File = tuple[int, int]
"""What tells a file that was written anew: the time of its last change, and its number."""


class Steps:
    """The checkpoints of training stages, from one attempt to the next.

    A stage must still have the checkpoint that was whole when it was struck, and train none of its steps again. That
    ends once its output is stored: who computes it after that (it was altered, another run needs it) begins anew.
    """

    def __init__(self, work: Path) -> None:
        self._work = work
        self._struck: dict[str, int] = {}
        """Newest whole checkpoint of a stage when something was done to it; 0 without one."""
        self._begun: dict[str, tuple[int, dict[int, File]]] = {}
        """Newest whole checkpoint with which the latest attempt began, and the weights of all there were."""
        self.continued: list[str] = []
        """The attempts that had a checkpoint to begin with."""
        self.problems: list[str] = []

    def struck(self, stage: str) -> None:
        """Something is about to be done to a run in this stage."""
        self._struck[stage] = max(self._struck.get(stage, 0), self._newest(stage))

    def begun(self, stage: str) -> None:
        """An attempt at this stage has begun, and trained nothing yet; it may say so more than once."""
        newest, struck = self._newest(stage), self._struck.get(stage, 0)
        self._begun[stage] = newest, self._weights(stage)
        if newest:
            _note(self.continued, f"{stage} at step {newest}")
        if newest < struck:
            _note(self.problems, f"{stage} was at step {struck}, and was begun again with the checkpoint of {newest}")

    def look(self, stage: str) -> None:
        """See whether the attempt has trained what it had a checkpoint of."""
        newest, weights = self._begun.get(stage, (0, {}))
        for step, file in self._weights(stage).items():
            if step <= newest and weights.get(step) != file:
                _note(self.problems, f"{stage} trained step {step} again, though it had a checkpoint of {newest}")

    def stored(self, stage: str) -> None:
        """The output of this stage is whole in the store."""
        self._struck.pop(stage, None)
        self._begun.pop(stage, None)

    def _newest(self, stage: str) -> int:
        whole = (step for step, path in self._checkpoints(stage) if read_state(path) is not None)
        return max(whole, default=0)

    def _weights(self, stage: str) -> dict[int, File]:
        found = {}
        for step, path in self._checkpoints(stage):
            try:
                file = (path / WEIGHTS).stat()
            except FileNotFoundError:  # it has none yet, or none any more
                continue
            found[step] = file.st_mtime_ns, file.st_ino
        return found

    def _checkpoints(self, stage: str) -> list[tuple[int, Path]]:
        try:
            states = list(self._work.glob(f"{stage}-*/out-resume/checkpoint-*/{STATE}"))
        except FileNotFoundError:  # the stage ended while we looked
            return []
        return [(int(path.parent.name.rpartition("-")[2]), path.parent) for path in states]


def _note(lines: list[str], line: str) -> None:
    if line not in lines:
        lines.append(line)
