"""Documents that are lexed while the net trains on those that came before them."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator, Sequence

from .lexing import Document
from .sources import SourceError

__all__ = ["Supply"]

# So many characters more than were asked for are lexed.
_AHEAD = 2_000_000


class Supply:
    """Documents in the order of an iterator, which another thread takes them from.

    Which documents `first` gives depends only on the order, never on how far lexing has come, so a
    training on them has the same bits on every machine.
    """

    def __init__(self, documents: Iterator[Document]) -> None:
        self._source = documents
        self._documents: list[Document] = []
        self._characters = self._wanted = 0
        self._over = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def first(self, characters: int) -> Sequence[Document]:
        """The first documents, as many as are needed for so many characters; all if there are less.

        Waits for those that are not lexed yet. Raises SourceError if there is no document, and what
        lexing raises.
        """
        with self._changed:
            self._wanted = max(self._wanted, characters)
            if self._thread is None and not self._over:
                self._thread = threading.Thread(target=self._lex, name="lexing", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._characters >= characters or self._over)
            if self._error is not None:
                raise self._error
            if not self._documents:
                raise SourceError("there is no document to train on.")
            count = total = 0
            while total < characters and count < len(self._documents):
                total += len(self._documents[count])
                count += 1
            return self._documents[: max(1, count)]

    def close(self) -> None:
        """Ends lexing; `first` gives what there is."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Supply:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lex(self) -> None:
        try:
            for document in self._source:
                with self._changed:
                    self._documents.append(document)
                    self._characters += len(document)
                    self._changed.notify_all()
                    self._changed.wait_for(
                        lambda: self._over or self._characters < self._wanted + _AHEAD
                    )
                    if self._over:
                        return
        except BaseException as error:  # whatever it is, it belongs to the thread that waits
            with self._changed:
                self._error = error
        finally:
            close = getattr(self._source, "close", None)
            if close is not None:
                close()  # ends the processes that lex
            with self._changed:
                self._over = True
                self._changed.notify_all()


def checksum(documents: Sequence[Document]) -> str:
    """A checksum of the texts of documents, in their order."""
    return f"{zlib.crc32(''.join(document.digest for document in documents).encode()):08x}"
