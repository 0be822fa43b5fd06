"""What a cluster sends to its workers does not grow with the rows of the table."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tabwright.fitting.streamed.fit_files import fit_files
from tabwright.fitting.streamed.jobs import EncodingJob, LocalTrainer, TrainingJob
from tabwright.settings import FitSettings
from tabwright.tables.column_uses import ColumnUses

_SIZES: list[int] = []


@dataclass(frozen=True)
class _Weighed(LocalTrainer):
    """Notes how many bytes its jobs take."""

    def encode(self, job: EncodingJob) -> Any:
        _SIZES.append(len(pickle.dumps(job)))
        return super().encode(job)

    def train(self, job: TrainingJob, *rest: Any) -> Any:
        _SIZES.append(len(pickle.dumps(job)))
        return super().train(job, *rest)


def test_jobs_do_not_grow_with_the_rows(tmp_path: Path) -> None:
    found = []
    for n_rows in (2_000, 20_000):
        draw = np.random.default_rng(0)
        rows = pl.DataFrame({f"x{n}": draw.normal(size=n_rows) for n in range(20)})
        rows = rows.with_columns(label=pl.Series(draw.choice(["a", "b"], n_rows)))
        table = tmp_path / f"{n_rows}.parquet"
        rows.write_parquet(table)
        settings = FitSettings(
            task="classification", max_epochs=1, n_members=1, hidden_dim=8, quality="fast"
        )
        _SIZES.clear()
        fit_files(str(table), ColumnUses("label"), settings, trainer=_Weighed())
        found.append(list(_SIZES))
    (few_encoding, few_training), (encoding, training) = found
    # Which rows the sample has: two numbers each. Cells would be 160 bytes a row.
    assert encoding - few_encoding < 20 * 18_000
    assert training < 1.2 * few_training
