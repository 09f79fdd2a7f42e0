"""`python -m data_prep`."""

import sys

# Worker processes import this module too, under another name; they need nothing of the command line.
if __name__ == "__main__":
    from data_prep.cli import main

    sys.exit(main())
