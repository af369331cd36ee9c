"""The model that the recipe for a mixer is tried on is one that the core still takes.

`make recipe-test` builds a core for it, which takes minutes; here its mixer is left out.
"""

import runpy

import numpy as np

from support import recipes


def test_the_recipes_model_loads_without_its_mixer(tmp_path):
    weights = runpy.run_path(str(recipes.ROOT / "tests/recipes/short_convolution.py"))["Weights"]()
    [layer] = weights.spec["layers"]
    del layer["short_convolution"]
    layer |= {"mixer": "nothing", "nothing": {}}
    model = weights.load(tmp_path)
    [out] = model.step_batch([(model.session(), np.array([3, 7], np.uint32), None, 0)], True, [])
    assert np.isfinite(out["logits"]).all()
