"""The one error of the front end; always with the place in the shader."""


class MslError(Exception):
    """A shader breaks a rule of the front end."""

    def __init__(self, file: str, line: int, message: str):
        super().__init__(f"{file}:{line}: {message}")
        self.file, self.line, self.message = file, line, message
