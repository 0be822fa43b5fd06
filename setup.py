"""The extension module of the package; everything else is in pyproject.toml."""

import sys

from setuptools import Extension, setup

FOLDER = "tabwright/training/engine"
# Products and sums are rounded one by one: results do not depend on what a compiler fuses.
FLAGS = ["-std=c11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]

setup(
    ext_modules=[
        Extension(
            "tabwright.training.engine._steps",
            [f"{FOLDER}/_steps.c"],
            depends=[f"{FOLDER}/kernels.c"],
            extra_compile_args=["/std:c11", "/O2"] if sys.platform == "win32" else FLAGS,
            libraries=[] if sys.platform == "win32" else ["m"],
            py_limited_api=True,
            # Without a compiler the package is installed all the same, and trains by PyTorch.
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
