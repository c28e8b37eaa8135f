"""`python -m moco`, for torchrun."""

import sys

from moco.cli import main

sys.exit(main())
