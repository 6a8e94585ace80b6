"""The main job: data, teacher, general student, augmentation, layers, logits, then what `flows.release` does."""

from prefect import flow

from flows.release import Candidate, release
from tasks.augmentation import augment_shard, gather_copies, screen_copies, train_mlm
from tasks.data import Sources, check_labels, prepare_corpus, prepare_data
from tasks.distillation import (
    ask_teacher,
    distill_general,
    distill_layers,
    distill_logits,
    fine_tune_teacher,
    train_baseline,
)
from tasks.preflight import preflight
from tasks.publishing import export_student
from tasks.run import Run, open_run
from tasks.summary import RunSummary
from tinybert.augment_config import shards_for
from tinybert.config import DistillConfig
from tinybert.refs import DatasetRef, DatasetResult, ModelRef


def planned(config: DistillConfig) -> int:
    """How many stages a run will have."""
    optional = [
        config.needs_corpus,
        config.mlm.enabled,
        not config.teacher.fine_tuned,
        config.student.source is None,
        *[config.augment.enabled] * 3,
        config.layers.enabled,
        config.baseline.enabled,
    ]
    always = ["prepare", "targets", "logits", "export", "evaluate", "gate", "package"]
    return len(always) + sum(optional)


@flow(name="distill", flow_run_name="{config.name}")
def distill(config: DistillConfig) -> RunSummary:
    """Distil a BERT teacher into a TinyBERT student for one task.

    Args:
        config: What to distil, and how. Only a name, the data and the teacher are required.
    """
    with open_run(config, config.name, planned(config)) as run:
        looked = run.always(preflight, config)
        found = looked.sources
        run.log(looked.report.totals, {"preflight": looked.report.summary})
        prepared = run(prepare_data, found.data, found.validation, found.test, config.data, found.labels)
        data = prepared.dataset

        corpus = adapted = None
        if found.corpus is not None:
            corpus = run(prepare_corpus, found.corpus, found.teacher, config.corpus).corpus
        if corpus is not None and config.mlm.enabled:
            adapted = run(train_mlm, corpus, found.teacher, config.mlm, config.launch).model
        base = adapted if adapted is not None and config.mlm.adapt_teacher else found.teacher

        teacher = base
        if not config.teacher.fine_tuned:
            teacher = run(fine_tune_teacher, data, base, config.fine_tune, config.launch).model
        run.always(check_labels, data, teacher)

        student = found.student
        if student is None:
            learnt = corpus if config.general_is_run else None
            boxes = (config.student, config.layer_map, config.general, config.launch)
            student = run(distill_general, learnt, base, *boxes).model

        train, shape, steps = data, student, 0
        if config.augment.enabled:
            train = augmented(run, config, found, prepared, adapted or found.teacher)
        uses_copies = config.copies_are_judged or config.predictions_from_copies or bool(found.states.mapped)
        floor = config.fine_tune.floor if config.teacher.fine_tuned else None
        precisions = config.logits.optim.precision, config.layers.optim.precision if found.states.mapped else None
        asked = (teacher, found.states, *precisions, config.targets, floor)
        targets = run(ask_teacher, train if uses_copies else data, *asked).targets
        if config.augment.enabled:
            judges = targets if config.copies_are_judged else None
            train = run(screen_copies, train, judges, config.quality).dataset
        if config.layers.enabled:
            layers = run(
                distill_layers, train, teacher, student, config.layer_map, targets, config.layers, config.launch
            )
            student, steps = layers.model, int(layers.metrics["steps"])
        learnt_from = train if config.predictions_from_copies else data
        logits = run(distill_logits, learnt_from, teacher, student, targets, config.logits, config.launch)
        steps += int(logits.metrics["steps"])
        model = run(export_student, data, logits.model, config.export).model

        baseline = None
        if config.baseline.enabled:
            like = config.logits
            trained = (like.optim, like.selection, config.baseline, steps, config.launch)
            baseline = run(train_baseline, data, shape, *trained).model
        candidate = Candidate(data=data, teacher=teacher, student=model, baseline=baseline)
        return release(run, config, found, candidate)


def augmented(run: Run, config: DistillConfig, found: Sources, prepared: DatasetResult, model: ModelRef) -> DatasetRef:
    """Rows and their copies, made shard by shard."""
    shards = shards_for(int(prepared.metrics["train_rows"]), config.augment.shard_rows)
    proposers = (model, found.vectors, found.thesaurus, found.translators)
    calls = [(prepared.dataset, *proposers, config.augment, shard, shards) for shard in range(shards)]
    copies = [made.copies for made in run.map(augment_shard, calls, config.launch)]
    return run(gather_copies, prepared.dataset, copies, config.quality).dataset


if __name__ == "__main__":
    from flows.command import LIBRARIES, main, show

    main(distill, DistillConfig, show, loads=LIBRARIES)
