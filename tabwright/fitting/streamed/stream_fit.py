"""`StreamFit`: what follows the first pass over a table larger than memory, up to the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tabwright.calibration.decisions import DecisionAim
from tabwright.calibration.fit import check_calibration
from tabwright.encoding.encoder import TableEncoder
from tabwright.encoding.plan_fit import RowsToFit
from tabwright.fitting.arguments import Aims, FitCallbacks
from tabwright.fitting.data_checks import warning_of_repeated, warnings_of_revealing
from tabwright.fitting.eval_metric import EvalMetric
from tabwright.fitting.finishing import fitted_networks, model_card, with_decision, with_scores
from tabwright.fitting.interactions import with_interactions
from tabwright.fitting.intervals import HeldOutScale, fit_residual_scale, with_intervals
from tabwright.fitting.networks import training_device
from tabwright.fitting.streamed.jobs import EncodingJob, Trainer, TrainingJob
from tabwright.fitting.streamed.scanned_table import ScannedTable
from tabwright.fitting.targets import Targets
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor
from tabwright.inference.scoring import score_rows, trivial_scores
from tabwright.inference.training_rows import sketch_of_rows
from tabwright.settings import FitSettings
from tabwright.streaming.rows import Goal
from tabwright.tables import Role, TableProfile, profile_table
from tabwright.tables.labelled import LabelledRows
from tabwright.tables.roles import roles_as_text
from tabwright.training.checkpoints import Checkpoint
from tabwright.training.loop import Trained
from tabwright.training.time_limit import TimeLimit


@dataclass(frozen=True)
class StreamFit:
    """A fit after the first pass.

    `settings`: resolved.
    """

    scanned: ScannedTable
    settings: FitSettings
    roles: dict[str, Role]
    aims: Aims
    decision: DecisionAim | None
    metric: EvalMetric | None
    limit: TimeLimit | None
    callbacks: FitCallbacks

    def run(self, trainer: Trainer, checkpoint: Checkpoint | None) -> FittedModel | None:
        """Encoder, second pass, networks, and at the first worker the model."""
        self._check()
        scan, settings, emit = self.scanned.scan, self.settings, self.callbacks.emit
        sample, notes = self.scanned.training_rows(roles_as_text(self.roles))
        if len(sample) < scan.n_rows["train"]:
            emit(f"the encoder is fitted on a uniform sample of {len(sample):,} training rows")
        identifiers: dict[str, Role] = dict.fromkeys(scan.identifiers, "identifier")
        profile = profile_table(
            sample.frame,
            roles=identifiers | self.roles,
            notes=notes,
            formats=sample.formats,
            typed=True,
        )
        uses = self.scanned.columns
        for warning in warnings_of_revealing(
            sample, profile, uses, of_classes=scan.classes is not None
        ):
            emit(warning)
        repeated = warning_of_repeated(scan.n_repeated, scan.n_rows["test"], approximate=True)
        if repeated is not None:
            emit(repeated)
        if self.callbacks.on_profile is not None:
            self.callbacks.on_profile(profile)
        encoder = TableEncoder(numeric_encoding=settings.numeric_encoding)
        to_fit = RowsToFit(
            sample.frame,
            profile,
            target=sample.target,
            task=settings.task,
            sample_weight=sample.weight,
            random_state=settings.random_state,
            target_name=self.scanned.columns.target,
        )
        compact = encoder.fit_transform(to_fit)
        sketch = sketch_of_rows(compact, len(encoder.plan_.had_missing))
        targets = self._targets()
        encoder, compact = with_interactions(
            encoder,
            to_fit,
            (compact, sample),
            targets,
            settings,
            on_message=emit,
            limit=self.limit,
        )
        goal = Goal(
            encoder=encoder,
            scale=targets.scale,
            class_weights=targets.class_weights,
            mean_weight=self._mean_weight(targets),
            device=training_device(settings),
            regression=targets.regression,
        )
        blocks, validation = trainer.encode(EncodingJob.of(self.scanned, encoder, compact))
        calibrates = settings.training_mode == "calibrated_classifier"
        job = TrainingJob(
            table=self.scanned.identity(),
            settings=settings,
            goal=goal,
            targets=targets,
            choosing=self.scanned.choosing() if calibrates or targets.metric is not None else None,
            checkpoint=checkpoint,
            limit=self.limit,
        )
        try:
            trained = trainer.train(job, blocks, validation, self.callbacks.on_epoch)
        finally:
            blocks.close()
            validation.close()
        if not trainer.is_first:
            return None
        return self._model(encoder, profile, targets, trained, sketch)

    def _check(self) -> None:
        """What the first pass found must be enough for a fit."""
        scan, settings = self.scanned.scan, self.settings
        if not scan.n_rows["validation"]:
            raise ValueError(
                f"a fit needs validation rows; got none of {sum(scan.n_rows.values())} with "
                f"validation_fraction={settings.validation_fraction}; raise it"
            )
        if scan.classes is not None and len(scan.classes) < 2:
            raise ValueError(
                f"a classifier needs at least 2 classes; got 1 class ({scan.classes[0]!r}); "
                "check the target column"
            )
        if scan.classes is not None and settings.calibration is not None:
            check_calibration(settings.calibration, len(scan.classes))
        if self.metric is not None:
            self.metric.check(self.scanned.choosing(), scan.classes)

    def _targets(self) -> Targets:
        """What the mode makes of the target, as the first pass found it."""
        scan, settings = self.scanned.scan, self.settings
        if scan.classes is None or scan.class_mass is None:
            if scan.scale is None:
                raise RuntimeError("a regression's scan has the scale of its target")
            sample = self.scanned.sample("train")
            known = (settings.objective, settings.quantiles, sample.target, sample.weight)
            return Targets.of_values(scan.scale.suited(*known), settings, self.metric)
        class_weight, prior = self.aims.class_weight, self.aims.prior
        return Targets.of_classes(
            scan.classes, scan.class_mass, settings, class_weight, prior, metric=self.metric
        )

    def _mean_weight(self, targets: Targets) -> float:
        scan = self.scanned.scan
        if targets.class_weights is None or scan.class_mass is None:
            return scan.mean_weight
        return float(targets.class_weights @ scan.class_mass) / scan.n_rows["train"]

    def _model(
        self,
        encoder: TableEncoder,
        profile: TableProfile,
        targets: Targets,
        trained: Trained,
        sketch: Mapping[str, Mapping[str, str | float]],
    ) -> FittedModel:
        """The model, calibrated and scored on a sample of validation rows."""
        scanned, scan = self.scanned, self.scanned.scan
        card = model_card(
            self.settings,
            profile,
            scan.n_rows["train"],
            scan.n_rows["validation"],
            (scanned.columns.target, scanned.table.target_format),
            sketch,
        )
        samples = {place: sample.height for place, sample in scan.samples.items()}
        model = fitted_networks(
            self.settings,
            encoder,
            targets,
            trained,
            classes=scan.classes,
            card={**card, "streamed": {"files": len(scanned.table.paths), "sampled_rows": samples}},
        )
        choosing = scanned.choosing()
        if len(choosing) < scan.n_rows["validation"] and not scanned.sets_aside:
            self.callbacks.emit(
                f"calibrated and scored on a uniform sample of {len(choosing):,} validation rows"
            )
        if scanned.sets_aside:
            spare = scanned.spare()
            message = f"half-widths from {len(spare):,} validation rows held out for the intervals"
            model = replace(model, card={**model.card, "intervals": message})
            model = self._with_intervals(model, spare, choosing)
        output = Predictor(model).outputs(encoder.transform(choosing.frame))
        model = with_scores(model, output, choosing)
        if self.decision is not None:
            proba = Predictor(model).calibrated(output)
            model = with_decision(model, proba, choosing, self.decision)
        if "test" in scan.samples:
            model = replace(model, metrics={**model.metrics, **self._test_scores(model)})
        return model

    def _with_intervals(
        self, model: FittedModel, spare: LabelledRows, choosing: LabelledRows
    ) -> FittedModel:
        """Intervals from the rows set aside; what their width follows is learned from samples."""
        encoder, predictor = model.encoder, Predictor(model)
        held = encoder.transform(spare.frame)

        def fit_scale() -> HeldOutScale | None:
            sample = self.scanned.sample("train")
            judging = encoder.transform(choosing.frame)
            return fit_residual_scale(
                model,
                (encoder.transform(sample.frame), sample),
                (judging, choosing),
                predictor.network(judging),
                None,
            )

        return with_intervals(model, (held, spare), predictor.outputs(held), "split", fit_scale)

    def _test_scores(self, model: FittedModel) -> dict[str, dict[str, float]]:
        test = self.scanned.sample("test")
        if len(test) < self.scanned.scan.n_rows["test"]:
            self.callbacks.emit(f"scored on a uniform sample of {len(test):,} test rows")
        scores = score_rows(Predictor(model), test.frame, test.target, test.weight)
        return {**scores, "baseline": trivial_scores(model, test.target, test.weight)}
