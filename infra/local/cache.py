"""Where what was fetched or built once is kept, shared by every checkout of this user."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/promo`, by default `~/.cache/promo`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "promo"
