"""The base of errors whose docstring is their message."""


class ExplainedError(Exception):
    """An error whose docstring is its message, with the facts that are given in place of `{name}`."""

    def __init__(self, **facts: object) -> None:
        super().__init__((self.__doc__ or "").format(**facts))
