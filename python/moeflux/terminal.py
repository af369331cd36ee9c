"""Text from strangers (models, files) on its way to a terminal."""


def escape_controls(text: str) -> str:
    """Model text as it may reach a terminal: control characters shown, not obeyed."""
    return "".join(
        c if c in "\n\t" or (ord(c) >= 32 and not 0x7F <= ord(c) < 0xA0) else f"\\x{ord(c):02x}"
        for c in text
    )
