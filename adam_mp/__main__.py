"""`python -m adam_mp`, the same as the command `adam-mp`."""

import sys

from adam_mp.clash import named_clash

if __name__ == "__main__":
    try:
        with named_clash():
            from adam_mp.cli.main import main
    except ImportError as error:
        print(f"adam_mp: error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(main())
