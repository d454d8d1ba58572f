"""Text from outside made fit for a terminal: what could move its cursor or hide behind other text is spelled out."""


def printable(text: str) -> str:
    """The text on one line, each character that is no letter, sign or space as its escape."""
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def clipped(text: str, characters_max: int) -> str:
    """The text, or its beginning and an ellipsis."""
    return text if len(text) <= characters_max else f"{text[: characters_max - 1]}…"


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()
