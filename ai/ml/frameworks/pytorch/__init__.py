"""The models contract (`models`), and the public names of `tabwright` by their older path.

Nothing is imported before a name is asked for, so that `models` loads torch alone.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if not name.startswith("__") or name == "__version__":
        import tabwright

        if name == "__version__" or name in tabwright.__all__:
            return getattr(tabwright, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    import tabwright

    return sorted([*globals(), *tabwright.__all__])
