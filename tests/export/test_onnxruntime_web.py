"""The browser recipe of docs/howto/recipes.md in onnxruntime-web, run by Node.

Runs where Node is installed and ONNXRUNTIME_WEB names a folder with
`node_modules/onnxruntime-web`.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import tabwright as tw
from tests.pages import ROOT, blocks

pytest.importorskip("onnx")
FOLDER = Path(os.environ.get("ONNXRUNTIME_WEB", ""))
PACKAGE = FOLDER / "node_modules" / "onnxruntime-web"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("node") is None or "ONNXRUNTIME_WEB" not in os.environ,
        reason="needs Node, and ONNXRUNTIME_WEB: a folder with node_modules/onnxruntime-web",
    ),
]

RUN = """
const ort = require("onnxruntime-web");
const fs = require("node:fs");
ort.env.wasm.numThreads = 1;
(async () => {
  const session = await ort.InferenceSession.create(fs.readFileSync(process.argv[2]));
  const rows = JSON.parse(fs.readFileSync(process.argv[3]));
  const probabilities = await predict(ort, session, rows);
  console.log(JSON.stringify([probabilities.dims, Array.from(probabilities.data)]));
})();
"""


def test_the_recipe_gives_the_probabilities_of_the_model(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "howto" / "recipes.md").read_text()
    (recipe,) = [block.text for block in blocks(page) if block.language == "javascript"]
    generator = np.random.default_rng(0)
    plan = generator.choice(["basic", "plus", "max"], 300)
    visits = generator.poisson(4, 300)
    frame = pl.DataFrame({"plan": plan, "visits": visits})
    target = np.where(visits + 2 * (plan == "max") > 4, "stays", "goes")
    model = tw.TabularClassifier(n_members=2, max_epochs=3, random_state=0).fit(frame, target)
    model.export_onnx(tmp_path / "churn.onnx")
    # A missing value of either kind, and a category that training lacks.
    odd = pl.DataFrame({"plan": [None, "new", "max"], "visits": [3, 4, None]})
    rows = pl.concat([frame, odd.cast(frame.schema)])
    (tmp_path / "rows.json").write_text(json.dumps(rows.to_dicts()))
    (tmp_path / "run.js").write_text(recipe + RUN)

    words: list[str | Path] = [
        "node",
        tmp_path / "run.js",
        tmp_path / "churn.onnx",
        tmp_path / "rows.json",
    ]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "NODE_PATH": str(PACKAGE.parent.resolve())},
    )
    assert done.returncode == 0, done.stderr
    shape, values = json.loads(done.stdout)
    found = np.array(values).reshape(shape)
    np.testing.assert_allclose(found, model.predict_proba(rows), atol=1e-6)
