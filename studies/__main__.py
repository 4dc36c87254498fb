"""`python -m studies [NAME ...]`: compute the numbers, check the claims, draw the figures."""

import sys

from studies._study import main

if __name__ == "__main__":
    sys.exit(main())
