"""The one exception that a user's mistake raises: a list of faults, printed without a traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Something the user can mend.

    Each fault is one line that says where it is, what was found and what is allowed; all faults of one
    check are reported at once. The command line prints them to stderr and exits with status 2.
    """

    def __init__(self, *faults: str):
        self.faults = list(faults)
        super().__init__("\n".join(self.faults))


@contextmanager
def said() -> Iterator[None]:
    """Where a UserError is raised inside: print its faults and exit with status 2."""
    try:
        yield
    except UserError as error:
        for fault in error.faults:
            print(f"error: {fault}", file=sys.stderr)
        sys.exit(2)
