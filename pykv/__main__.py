"""`python -m pykv` is the `pykv` command."""

import sys

from pykv.cli import main

sys.exit(main())
