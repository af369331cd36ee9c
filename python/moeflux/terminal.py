"""Text from strangers (models, files) on its way to a terminal."""


def escape_controls(text: str) -> str:
    """Text for a terminal: control characters and bytes that were no UTF-8 are shown as escapes."""
    shown = "".join(
        c if c in "\n\t" or (ord(c) >= 32 and not 0x7F <= ord(c) < 0xA0) else f"\\x{ord(c):02x}"
        for c in text
    )
    return shown.encode("utf-8", "backslashreplace").decode()
