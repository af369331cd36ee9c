"""Links that would make a module which macOS does not load, or not with the right functions."""

import build
import check_wheel
import pytest
import stubs
from check_wheel import ROOT

SOURCE = "csrc/io/file.cpp"


@pytest.fixture
def planted_object(compile_copy, tmp_path):
    def make(text):
        process = compile_copy(SOURCE, text)
        assert process.returncode == 0, process.stderr
        return str((tmp_path / "copy.o").rename(tmp_path / "planted.o"))

    return make


@pytest.fixture
def problems_of(relink, plant_module):
    def run(*further, **options):
        process, module = relink(*further, **options)
        assert process.returncode == 0, process.stderr
        return check_wheel.problems(plant_module(module))

    return run


def test_the_same_link_again_is_right(problems_of):
    assert problems_of() == []


def test_misspelt_function_does_not_link(relink, planted_object):
    text = 'extern "C" int fcntll(int);\n__attribute__((used)) int planted() { return fcntll(0); }'
    process, _ = relink(planted_object(text))
    assert process.returncode != 0
    assert "undefined symbol: _fcntll" in process.stderr


def test_stray_library(problems_of, tmp_path):
    stub = stubs.stub_text("@rpath/libstray.dylib", {"_stray"}, [])
    (tmp_path / "libstray.tbd").write_text(stub)
    found = problems_of(f"-L{tmp_path}", "-lstray")
    assert found == ["libraries: @rpath/libstray.dylib is none of Apple's that we use"]


def test_rpath(problems_of):
    assert problems_of("-Wl,-rpath,@loader_path") == ["header: rpath ['@loader_path']"]


def test_second_export(problems_of, planted_object):
    text = 'extern "C" __attribute__((visibility("default"))) int planted() { return 1; }\n'
    (found,) = problems_of(planted_object(text))
    assert found.startswith("exports:")
    assert "_planted" in found


def test_build_path(problems_of, planted_object):
    text = f'__attribute__((used)) static const char planted[] = "{ROOT}/csrc/io/file.cpp";\n'
    found = problems_of(
        planted_object(text)
    )  # a second one where the clone lies in /tmp or at home
    assert f"content: the build path {ROOT} is inside" in found
    assert all(problem.startswith("content: the build path") for problem in found)


def test_stand_in(problems_of, planted_object):
    text = '__attribute__((used)) static const char planted[] = "[Standin] fault";\n'
    assert problems_of(planted_object(text)) == ["content: mentions the stand-in"]


def test_name_asked_of_the_wrong_library(problems_of, tmp_path):
    stubs.write_stubs(tmp_path)
    (tmp_path / "usr/lib/libcompiler_rt.a").symlink_to(build.STUBS / "usr/lib/libcompiler_rt.a")
    known = stubs.exports()
    wrong, right = (stubs.INSTALL_NAMES[name] for name in ("CoreGraphics", "Metal"))
    name = "_MTLCreateSystemDefaultDevice"
    for library, symbols in ((wrong, known[wrong] | {name}), (right, known[right] - {name})):
        (tmp_path / f".{library}.tbd").write_text(stubs.stub_text(library, symbols, []))
    found = problems_of(stubs=tmp_path)
    assert f"imports: {wrong} is not known to export {name}" in found


def test_stripped_signature(relink, plant_module):
    process, module = relink("-Wl,-no_adhoc_codesign")
    assert process.returncode == 0, process.stderr
    assert check_wheel.problems(plant_module(module)) == ["signature: there is none"]
