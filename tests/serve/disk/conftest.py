"""Two models that prompts are kept of."""

import pytest

import moeflux
from oracle import build
from support.prompts import LOAD, asks, serving


@pytest.fixture(scope="module", params=["qwen3_next", "qwen3_moe"])
def model_folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / request.param
    return build(path, family=request.param, form="mlx-q4")


@pytest.fixture(scope="module")
def model(model_folder):
    return moeflux.load(model_folder, **LOAD)


@pytest.fixture
def cold(model_folder):
    """What an engine without any cache answers."""

    def ask(*prompts):
        return [said for said, _ in
                serving(model_folder, None, asks(*prompts), cache_memory="0")[0]]  # fmt: skip

    return ask
