"""`pytest -p other_library` tests the native ops of the library that GLIMP_LIBRARY names: `make sanitize` does."""

import os
from pathlib import Path

from glimp_engine.kernels import abi

abi.LIBRARY = Path(os.environ["GLIMP_LIBRARY"])
