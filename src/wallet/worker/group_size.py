"""How many messages the next group may have.

A group that fails as a whole, for example at a time limit of the database, comes again. With the same size it could
fail again each time, so the size is halved after a failure, down to one message. It is doubled after a number of groups
that succeeded, so that a database that was away for a moment costs little.
"""

from typing import Final

GROW_AFTER_GROUPS: Final = 10


class GroupSize:
    """Adapts the size of the groups of one transport."""

    def __init__(self, size_max: int) -> None:
        self._size_max = size_max
        self._succeeded_count = 0
        self.current = size_max

    def note_success(self) -> None:
        """A group was handled."""
        if self.current == self._size_max:
            return
        self._succeeded_count += 1
        if self._succeeded_count >= GROW_AFTER_GROUPS:
            self._succeeded_count = 0
            self.current = min(self._size_max, self.current * 2)

    def note_failure(self) -> None:
        """A group failed as a whole."""
        self._succeeded_count = 0
        self.current = max(1, self.current // 2)
