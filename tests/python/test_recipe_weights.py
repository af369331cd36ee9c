"""The model that the recipe for a mixer is tried on is one that the core still takes.

`make recipe-test` builds a core for it, which takes minutes; here its mixer is left out.
"""

import runpy

import numpy as np

from moeflux.spec import Nothing
from support import recipes


def test_the_recipes_model_loads_without_its_mixer(tmp_path):
    recipe = runpy.run_path(str(recipes.ROOT / "tests/recipes/short_convolution.py"))
    weights = recipe["Weights"]()
    model = weights.load(tmp_path, weights.with_mixer(Nothing(), norm=None))
    [logits] = recipe["step"](model, (model.session(), recipe["TOKENS"]))
    assert np.isfinite(logits).all()
