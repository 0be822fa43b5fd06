"""Tables and columns of other libraries, and Python objects, as polars columns."""
