"""Disks that fill, and that do not keep what was written."""

import os
import resource
from contextlib import contextmanager


@contextmanager
def full(nbytes):
    """No file of this process grows beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def spoil(monkeypatch, ending):
    """Files whose names end so have other bytes near their end once they are synced."""
    original = os.fsync

    def fsync(descriptor):
        original(descriptor)
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if path.endswith(ending):
            with open(path, "rb+") as stream:
                stream.seek(-20000, os.SEEK_END)
                stream.write(b"\x55" * 100)

    monkeypatch.setattr(os, "fsync", fsync)
