"""Escape text from files and from the network, so that it is safe to print on a terminal."""


def escape_unprintable(text: str) -> str:
    r"""Return a text in which unprintable characters are replaced by escapes such as ``\x1b`` and ``\u202e``.

    Unprintable are, for example, control characters, line breaks, and characters that reverse the text direction.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
