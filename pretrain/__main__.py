"""`python -m pretrain`: the commands around a run; `python -m pretrain` alone lists them."""

import sys

from pretrain import garbage
from pretrain.doctor.versions import missing_packages

garbage.pause()
try:
    from pretrain.command import main
except ImportError as error:
    found = missing_packages()
    if not found:
        raise
    sys.exit("\n".join(f"error: {each}" for each in (f"{error}.", *found)))
garbage.spare()

if __name__ == "__main__":
    code = main()
    garbage.spare()  # it is all given up now
    sys.exit(code)
