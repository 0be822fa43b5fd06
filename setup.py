"""The extension modules of the package; everything else is in pyproject.toml."""

import sys

from setuptools import Extension, setup

# Products and sums are rounded one by one: results do not depend on what a compiler fuses.
FLAGS = ["-std=c11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]


def extension(folder: str, name: str) -> Extension:
    """A module of C functions for several instruction sets, which lie in its `kernels.c`."""
    return Extension(
        f"{folder.replace('/', '.')}.{name}",
        [f"{folder}/{name}.c"],
        depends=[f"{folder}/kernels.c", "tabwright/instruction_sets.h"],
        extra_compile_args=["/std:c11", "/O2"] if sys.platform == "win32" else FLAGS,
        libraries=[] if sys.platform == "win32" else ["m"],
        py_limited_api=True,
        # Without a compiler the package is installed all the same; it trains by PyTorch, and
        # predicts by NumPy.
        optional=True,
    )


setup(
    ext_modules=[
        extension("tabwright/training/engine", "_steps"),
        extension("tabwright/inference/compiled", "_prediction"),
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
