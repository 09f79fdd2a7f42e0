"""`python -m data_prep`.

The command line is imported only where it runs: worker processes import this module again.
"""

import sys

if __name__ == "__main__":
    from data_prep.cli import main

    sys.exit(main())
