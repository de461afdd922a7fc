"""`python -m kelip_lightning` is `kelip`."""

import sys

from kelip_lightning.cli import main

if __name__ == "__main__":
    sys.exit(main())
