"""`convert` holds pieces of matrices, whatever their size."""

import json
import subprocess
import sys

import numpy as np
import pytest

from oracle import build, safetensors_file
from support import cgroup

COLUMNS = 128
# Runs the command and prints the most that the process held, in KiB.
CODE = (
    "import resource, sys, moeflux.cli as cli\n"
    "sys.argv[1:] = ['convert', *sys.argv[1:]]\n"
    "try:\n"
    "    cli.main()\n"
    "finally:\n"
    "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
)


def tall(folder, rows):
    """A checkpoint whose embedding and head have so many rows, nearly all of them zeros, in holes.

    A matrix that lies in a hole as a whole is refused: the first rows are there.
    """
    source = build(folder / "small", "qwen3_moe", "hf-bf16", 3, num_hidden_layers=1, shards=1)
    config = json.loads((source / "config.json").read_text()) | {"vocab_size": rows}
    file = source / "model.safetensors"
    stored = safetensors_file.read(file)
    header, at, places = {}, 0, {}
    for name, tensor in stored.items():
        shape = list(tensor.data.shape)
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            shape[0] = rows
        nbytes = int(np.prod(shape)) * tensor.data.itemsize
        header[name] = {"dtype": tensor.dtype, "shape": shape, "data_offsets": [at, at + nbytes]}
        places[name], at = at, at + nbytes
    text = json.dumps(header).encode()
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        begin = out.tell()
        for name, tensor in stored.items():
            out.seek(begin + places[name])
            out.write(tensor.data.tobytes())
        out.truncate(begin + at)
    (source / "config.json").write_text(json.dumps(config))
    return source


def peak_bytes(source, target):
    done = subprocess.run([sys.executable, "-c", CODE, str(source), str(target)],
                          capture_output=True, text=True, check=True, timeout=300)  # fmt: skip
    return int(done.stdout.split()[-1]) << 10


def test_large_matrices_take_no_more_memory_than_small_ones(tmp_path):
    least = peak_bytes(build(tmp_path / "tiny", "qwen3_moe", "hf-bf16", 3), tmp_path / "few")
    rows = (200 << 20) // (2 * COLUMNS)
    most = peak_bytes(tall(tmp_path, rows), tmp_path / "many")
    assert most - least < 64 << 20


@pytest.mark.full
@pytest.mark.skipif(not cgroup.available(), reason="needs root and a writable memory cgroup")
def test_matrices_of_gigabytes_are_converted_in_one(tmp_path):
    """The page cache counts, too; the kernel takes back what it needs of it."""
    source = tall(tmp_path, (3 << 30) // (2 * COLUMNS))
    done = cgroup.run([sys.executable, "-c", CODE, str(source), str(tmp_path / "found")], 1 << 30)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) << 10 < 512 << 20
