"""The gate of the macOS workflow: zero tests on a GPU is a failure, whatever pytest says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORKFLOW = (ROOT / ".github/workflows/macos.yml").read_text()


TESTS = {
    "passes": "def test(device): pass",
    "skips": "import pytest\ndef test(device): pytest.skip('no GPU')",
    "fails": "def test(device): assert device != 'metal'",
    "names_it": "def test_metal(): pass",
    "of_two": "import pytest\n@pytest.mark.parametrize('n', [1, 2])\ndef test(n, device): pass",
}


@pytest.mark.parametrize(
    ("files", "n_passed"), [(list(TESTS), 1 + 2), (["skips", "fails", "names_it"], 0)]
)
def test_only_passed_tests_on_metal_count(tmp_path, files, n_passed):
    (tmp_path / "conftest.py").write_text(
        "import pytest\n@pytest.fixture(params=['host', 'metal'])\n"
        "def device(request): return request.param\n"
    )
    for name in files:
        (tmp_path / f"test_{name}.py").write_text(TESTS[name])
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    pytest_run = [sys.executable, "-m", "pytest", "-q", "--junitxml=r.xml"]
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # they take longer than it
    subprocess.run(
        pytest_run, cwd=tmp_path, env=environment, capture_output=True, check=False, timeout=120
    )
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/ci/count_gpu_tests.py"), "r.xml"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.stdout == f"{n_passed} tests passed on Metal\n"
    assert done.returncode == (n_passed == 0)


def test_the_workflow_names_files_that_exist():
    paths = re.findall(r"(?:tests|tools)/[\w./]+", WORKFLOW)
    assert len(paths) >= 4
    for path in paths:
        assert (ROOT / path).exists(), path
