"""Tables: reading, checking, column roles, targets. The door to the rooms behind it.

`cells` says what a cell means, `frames` takes tables in memory, `table_files` reads files
(`csv_text` their CSV) and `table_writer` writes them, `roles` says what each column is for,
`targets` handles the column to predict. Other rooms import from here.
"""

from ai.ml.frameworks.pytorch.cells import (
    MISSING_MARKERS,
    TableError,
    exact_origin,
    to_booleans,
    to_levels,
    to_microseconds,
    to_numbers,
)
from ai.ml.frameworks.pytorch.frames import as_frame, as_series
from ai.ml.frameworks.pytorch.pandas_rows import row_cells
from ai.ml.frameworks.pytorch.roles import Column, Role, TableProfile, profile_table
from ai.ml.frameworks.pytorch.table_files import (
    CsvFormat,
    iter_tables,
    read_table,
    read_with_notes,
    table_dtypes,
)
from ai.ml.frameworks.pytorch.table_writer import (
    check_table_path,
    escape_formulas,
    write_batches,
    write_csv_batches,
    write_table,
)
from ai.ml.frameworks.pytorch.targets import (
    Labels,
    encode_labels,
    infer_task,
    labels_to_codes,
    regression_target,
    sample_weights,
    seen_labels,
)

__all__ = [
    "MISSING_MARKERS",
    "Column",
    "CsvFormat",
    "Labels",
    "Role",
    "TableError",
    "TableProfile",
    "as_frame",
    "as_series",
    "check_table_path",
    "encode_labels",
    "escape_formulas",
    "exact_origin",
    "infer_task",
    "iter_tables",
    "labels_to_codes",
    "profile_table",
    "read_table",
    "read_with_notes",
    "regression_target",
    "row_cells",
    "sample_weights",
    "seen_labels",
    "table_dtypes",
    "to_booleans",
    "to_levels",
    "to_microseconds",
    "to_numbers",
    "write_batches",
    "write_csv_batches",
    "write_table",
]
