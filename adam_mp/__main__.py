"""`python -m adam_mp`, the same as the command `adam-mp`."""

import sys

from adam_mp.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
