"""Which release this is."""

import tomllib

from support.paths import ROOT


def version() -> str:
    """The version of the workspace: that of every program, image and chart."""
    found: str = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    return found
