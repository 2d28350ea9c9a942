"""An SFTP server without thought."""

import io

from edgeopt.errors import LinkLost


class Script:
    """Answers with what it was given, whatever is asked."""

    def __init__(self, answers: bytes) -> None:
        self._answers = io.BytesIO(answers)

    def write(self, data: bytes) -> None:
        pass

    def ready(self) -> bool:
        return False

    def read(self, count: int) -> bytes:
        data = self._answers.read(count)
        if len(data) < count:
            raise LinkLost("the end")
        return data
