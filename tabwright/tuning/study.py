"""The study of a search: opened or gone on with, for one table alone.

This is the one module that loads Optuna. A study in a file is written trial by trial, in SQLite,
so that a run that was killed goes on from its last finished fold.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tabwright.artifact.atomic_write import check_writable
from tabwright.errors import install_command
from tabwright.settings import FitSettings
from tabwright.tables.labelled import TrainingTable

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

    from tabwright.splits import Splits

_NAME = "tabwright"
# Trials that come before anything is drawn from what was learned.
_DRAWN_AT_RANDOM = 10
# A trial is compared with others once so many are done, and a third of its first fold.
_COMPARED_FROM, _COMPARED_AFTER = 4, 2


def check_optuna() -> None:
    """Refuse to go on without the extra.

    Raises `ImportError` if Optuna is not installed.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"tuning needs optuna, which is not installed; run: {install_command('tune')}"
        ) from error


def identity_of(
    table: TrainingTable, folds: Splits, settings: FitSettings, metric: str, judge: object = None
) -> dict[str, str]:
    """What must be the same for a study to go on: digests by name.

    `settings`: those that are not searched, and the defaults of those that are.
    `metric`: the name of what judges.
    `judge`: what was given to judge; functions of one name may do different things.
    """
    rows = table.rows
    cells = io.BytesIO()
    rows.frame.rechunk().write_ipc(cells, compression="uncompressed")
    return {
        "table": _digest(cells.getvalue()),
        "columns": repr(rows.frame.columns),
        "target": _digest(_array(table.labels)),
        "weights": _digest(_array(rows.weight)),
        "splits": _digest(b"|".join(part.tobytes() for fold in folds for part in fold)),
        "settings": repr(sorted(settings.to_document().items())),
        "metric": metric + _code_digest(judge),
    }


def _code_digest(judge: object) -> str:
    """A digest of what a function of Python does; "" for what has no code of its own."""
    code = getattr(judge, "__code__", None)
    if code is None:
        return ""
    # Functions within have an address in their text.
    constants = [value for value in code.co_consts if not hasattr(value, "co_code")]
    content = code.co_code + repr((constants, code.co_names, code.co_freevars)).encode()
    return f" {_digest(content)}"


def _array(values: np.ndarray | None) -> bytes:
    return b"-" if values is None else repr(values.tolist()).encode()


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


@contextlib.contextmanager
def opened_study(
    path: Path | None, identity: Mapping[str, str], seed: int, *, is_random: bool = False
) -> Iterator[Study]:
    """A study, in a file or in memory alone; Optuna says nothing meanwhile.

    `path`: a file of before is gone on with.
    `identity`: of `identity_of`.
    `is_random`: whether trials are drawn uniformly, whatever was found so far.
    Raises `ValueError` if the file is no study, or one of another table.
    Raises `OSError` if it cannot be written.

    A new file goes again where a search fails before any score: its study would refuse the search
    that is put right.
    """
    check_optuna()
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = study = None
    is_new, has_failed = path is not None and not path.exists(), False
    try:
        if path is not None:
            check_writable(path)
            storage = _storage(path)
        study = optuna.create_study(
            storage=storage,
            study_name=_NAME,
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(
                n_startup_trials=_COMPARED_FROM, n_warmup_steps=_COMPARED_AFTER
            ),
        )
        # What is drawn after a resumption is not what was drawn at the start.
        seed = (seed + len(study.trials)) % 2**32
        study.sampler = (
            optuna.samplers.RandomSampler(seed=seed)
            if is_random
            else optuna.samplers.TPESampler(n_startup_trials=_DRAWN_AT_RANDOM, seed=seed)
        )
        _compare(study, identity, path)
        yield study
    except Exception:
        has_failed = True
        raise
    finally:
        is_empty = study is None or not any("scores" in trial.user_attrs for trial in study.trials)
        optuna.logging.set_verbosity(before)
        if storage is not None:
            storage.remove_session()
            storage.engine.dispose()
        if path is not None and is_new and has_failed and is_empty:
            path.unlink(missing_ok=True)


def _storage(path: Path) -> Any:
    """The SQLite file of a study, made if it is not there."""
    import optuna
    from sqlalchemy.engine import URL
    from sqlalchemy.exc import DatabaseError

    url = URL.create("sqlite", database=str(path)).render_as_string()
    try:
        return optuna.storages.RDBStorage(url)
    except (DatabaseError, RuntimeError, AssertionError) as error:
        raise ValueError(
            f"a study must be a file that tune wrote, or a new one; {path} cannot be read as one "
            f"({str(error).splitlines()[0]}); give another name"
        ) from error


def _compare(study: Study, identity: Mapping[str, str], path: Path | None) -> None:
    """Refuse a study of another table, splits or settings."""
    theirs = study.user_attrs.get("identity")
    if theirs is None and not study.trials:
        study.set_user_attr("identity", dict(identity))
        return
    theirs = theirs or {}
    other = [name for name, expected in identity.items() if theirs.get(name) != expected]
    if other:
        raise ValueError(
            "a study must come from the same table, splits and settings; those of "
            f"{path} differ in: {', '.join(other)}; give the former ones again, or another file"
        )


def cut_trials(study: Study) -> list[FrozenTrial]:
    """Trials that earlier runs began and did not finish, and none took up again."""
    from optuna.trial import TrialState

    resumed = study.user_attrs.get("resumed", [])
    return [
        trial
        for trial in study.trials
        if (trial.state is TrialState.RUNNING or trial.user_attrs.get("cut"))
        and trial.number not in resumed
    ]


def enqueue_next(study: Study, cut: list[FrozenTrial], first: Sequence[Mapping[str, Any]]) -> None:
    """Enqueue one trial: what was cut short, of which `cut` loses it, else what comes first.

    One at a time, since a study hands them out in the order of their numbers: a default that was
    cut short would come after all that was enqueued with it.

    `first`: values of trials; the first are those of the default.
    """
    from optuna.trial import TrialState

    if cut:
        trial = cut.pop(0)
        values = trial.params or trial.system_attrs.get("fixed_params", {})
        kept = {name: value for name, value in trial.user_attrs.items() if name != "cut"}
        study.enqueue_trial(values, user_attrs=kept)
        study.set_user_attr("resumed", [*study.user_attrs.get("resumed", []), trial.number])
        if trial.state is TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
        return
    n_before = len(study.trials)
    for place, values in enumerate(first):
        study.enqueue_trial(
            dict(values), user_attrs={"is_default": place == 0}, skip_if_exists=True
        )
        if len(study.trials) > n_before:
            return
