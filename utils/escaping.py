"""Make text from files and from the network safe to print on a terminal."""


def escape_unprintable(text: str) -> str:
    r"""Return a text with escapes such as ``\x1b`` and ``\u202e`` in place of unprintable characters.

    These are control characters, line breaks, and characters that reverse the direction of writing.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
