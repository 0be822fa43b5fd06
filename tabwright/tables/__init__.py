"""Tables: reading, checking, column roles, targets. The public names of the package.

`cells` says what a cell means, `frames` takes tables in memory, `reading` reads files
(`csv` their CSV) and `writing` writes them, `roles` says what each column is for,
`targets` handles the column to predict. Other packages import from here.
"""

from tabwright.tables.cells import (
    MISSING_MARKERS,
    exact_origin,
    to_booleans,
    to_levels,
    to_microseconds,
    to_numbers,
)
from tabwright.tables.csv.reader import CsvFormat
from tabwright.tables.frames import as_frame, as_series
from tabwright.tables.reading import (
    iter_tables,
    read_described,
    read_table,
    read_with_notes,
    table_dtypes,
)
from tabwright.tables.roles import Column, Role, TableProfile, profile_table
from tabwright.tables.targets import (
    Labels,
    encode_labels,
    infer_task,
    labels_to_codes,
    regression_target,
    sample_weights,
    seen_labels,
)
from tabwright.tables.writing import (
    check_table_path,
    escape_formulas,
    write_batches,
    write_csv_batches,
    write_table,
)

__all__ = [
    "MISSING_MARKERS",
    "Column",
    "CsvFormat",
    "Labels",
    "Role",
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
    "read_described",
    "read_table",
    "read_with_notes",
    "regression_target",
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
