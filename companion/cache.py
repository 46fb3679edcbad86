"""Where the package keeps what it keeps between runs."""

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """The folder for what is kept between runs: COMPANION_CACHE, or the user's cache folder of the system."""
    folder = os.environ.get("COMPANION_CACHE") or platformdirs.user_cache_dir("companion", appauthor=False)
    return Path(folder)
