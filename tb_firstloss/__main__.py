"""``python -m tb_firstloss``: the command line."""

import sys

from tb_firstloss.cli import main

if __name__ == "__main__":
    sys.exit(main())
