"""Permissions that hold: for the superuser they mean nothing."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

NOBODY = 65534


@contextmanager
def dropped() -> Iterator[None]:
    """The block as a user without privileges; nothing changes for one who is that already."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)
