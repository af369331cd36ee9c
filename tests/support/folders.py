"""What lies in a folder."""

import hashlib
import json


def config_of(folder):
    """Its config.json."""
    return json.loads((folder / "config.json").read_text())


def digest(folder):
    """A digest of each of its files."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
