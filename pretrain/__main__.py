"""`python -m pretrain`: the commands around a run; `python -m pretrain` alone lists them."""

import sys

from pretrain.command import main

if __name__ == "__main__":
    sys.exit(main())
