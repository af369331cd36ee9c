"""The documentation site has every page, and links as they are needed there."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site():
    spec = importlib.util.spec_from_file_location("site", ROOT / "tools/docs/site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_in_the_navigation(site):
    pages = set(site.pages())
    assert {path.relative_to(ROOT) for path in (ROOT / "docs").glob("*.md")} <= pages
    assert all((ROOT / page).is_file() for page in pages)


@pytest.mark.parametrize(
    ("link", "wanted"),
    [
        ("[a](../README.md#status)", "[a](../index.md#status)"),
        ("[a](faq.md)", "[a](faq.md)"),
        ("[a](#here)", "[a](#here)"),
        ("[a](https://x.org/)", "[a](https://x.org/)"),
        ("![a](images/page-dark.png)", "![a](images/page-dark.png)"),
        ("[a](../benchmarks/results/demo.json)",
         "[a](https://host/me/it/blob/main/benchmarks/results/demo.json)"),
        ("[a](../tests/)", "[a](https://host/me/it/tree/main/tests)"),
        ("```text\n[a](../README.md)\n```\n", "```text\n[a](../README.md)\n```\n"),
    ],
)  # fmt: skip
def test_links_lead_to_the_site_or_to_the_repository(site, link, wanted):
    text, _ = site.moved(link, Path("docs/gpu.md"), set(site.pages()), "https://host/me/it")
    assert text == wanted


def test_without_a_repository_a_path_stands_there(site):
    text, pictures = site.moved("[a](../tests/)![b](x.png)", Path("docs/gpu.md"), set(), "")
    assert text == "a (`tests`)![b](x.png)" and pictures == {Path("docs/x.png")}
