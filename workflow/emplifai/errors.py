"""The one exception that a user's mistake raises: a list of faults, printed without a traceback."""


class UserError(Exception):
    """Something the user can mend.

    Each fault is one line that says where it is, what was found and what is allowed; all faults of one
    check are reported at once. The command line prints them to stderr and exits with status 2.
    """

    def __init__(self, *faults: str):
        self.faults = list(faults)
        super().__init__("\n".join(self.faults))
