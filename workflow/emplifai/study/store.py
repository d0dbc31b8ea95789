"""The ratings, in SQLite: one row a rating, on disk before anyone is told that it is saved.

WAL with synchronous=full: a commit has reached the disk when it returns. Nothing here tells who a rater is: no address, no
browser, only the study's own rater ids. Tokens of links and of sessions are stored as digests.
"""

import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from emplifai.errors import UserError

IDLE, LONGEST = timedelta(hours=12), timedelta(days=7)  # a session ends

SCHEMA = """
CREATE TABLE study (design_sha256 TEXT NOT NULL);
CREATE TABLE rater (
  rater_id TEXT PRIMARY KEY, token_sha256 TEXT UNIQUE, consent TEXT CHECK (consent IN ('agreed', 'refused')),
  consent_sha256 TEXT, consent_at TEXT, begun_at TEXT, withdrawn_at TEXT
) WITHOUT ROWID;
CREATE TABLE session (
  session_sha256 TEXT PRIMARY KEY, rater_id TEXT NOT NULL REFERENCES rater, started_at TEXT NOT NULL, seen_at TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE shown (
  rater_id TEXT NOT NULL REFERENCES rater, position INTEGER NOT NULL, item_id TEXT NOT NULL, shown_at TEXT NOT NULL,
  closed_at TEXT, PRIMARY KEY (rater_id, position)
) WITHOUT ROWID;
CREATE TABLE rating (
  rater_id TEXT NOT NULL, position INTEGER NOT NULL, criterion TEXT NOT NULL,
  score INTEGER NOT NULL CHECK (typeof(score) = 'integer' AND score BETWEEN {low} AND {high}),
  rated_at TEXT NOT NULL, changes INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (rater_id, position, criterion), FOREIGN KEY (rater_id, position) REFERENCES shown
) WITHOUT ROWID;
"""

Scores = Mapping[str, int]


class Rater(NamedTuple):
    rater_id: str
    consent: str | None  # agreed | refused
    begun: bool
    withdrawn: bool


class Outcome(NamedTuple):
    """What came of a request to save. status: saved | stale (another item is open now) | conflict (another tab) | incomplete."""

    status: str
    position: int  # of the item that is open now
    saved: dict[str, int]  # its scores


class Store:
    """One connection, shared by the server's threads. Use as a context manager."""

    def __init__(self, path: Path):
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        try:
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
                self._db.execute(f"PRAGMA {pragma}")
        except sqlite3.DatabaseError as error:
            raise UserError(f"{path}: not a database of ratings: {error}") from None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with self._lock:
            self._db.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that is on disk when the block ends, or did not happen."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _read(self, query: str, *values: object) -> list[tuple]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    # the study leader's side
    def create(self, scale: tuple[int, int], design_sha256: str) -> None:
        self._db.executescript(SCHEMA.format(low=int(scale[0]), high=int(scale[1])))
        with self._writing() as db:
            db.execute("INSERT INTO study VALUES (?)", (design_sha256,))

    def design_sha256(self) -> str:
        try:
            return self._read("SELECT design_sha256 FROM study")[0][0]
        except (sqlite3.DatabaseError, IndexError) as error:
            raise UserError(f"not a database of ratings: {error}") from None

    def add_raters(self, tokens: Mapping[str, str]) -> None:
        """tokens: digest of each rater's token."""
        with self._writing() as db:
            db.executemany("INSERT INTO rater (rater_id, token_sha256) VALUES (?, ?)", tokens.items())

    def relink(self, rater_id: str, token_sha256: str | None) -> bool:
        """A new link, or none: the old one and all sessions end at once. False when there is no such rater."""
        with self._writing() as db:
            db.execute("DELETE FROM session WHERE rater_id = ?", (rater_id,))
            return db.execute("UPDATE rater SET token_sha256 = ? WHERE rater_id = ?", (token_sha256, rater_id)).rowcount > 0

    def raters(self) -> list[Rater]:
        rows = self._read("SELECT rater_id, consent, begun_at IS NOT NULL, withdrawn_at IS NOT NULL FROM rater ORDER BY rater_id")
        return [Rater(name, consent, bool(begun), bool(withdrawn)) for name, consent, begun, withdrawn in rows]

    def ratings(self) -> list[tuple[str, str, int, str, int, str]]:
        """(rater_id, item_id, position, criterion, score, rated_at), in the order in which they were shown."""
        return self._read(
            "SELECT rater_id, item_id, position, criterion, score, rated_at FROM rating JOIN shown USING (rater_id, position)"
            " ORDER BY rater_id, position, criterion"
        )

    # a rater's side
    def enter(self, token_sha256: str, session_sha256: str) -> bool:
        """Start a session by a link's token; False when no rater has this token."""
        with self._writing() as db:
            found = db.execute("SELECT rater_id FROM rater WHERE token_sha256 = ?", (token_sha256,)).fetchone()
            if found:
                db.execute("INSERT INTO session VALUES (?, ?, ?, ?)", (session_sha256, found[0], _now(), _now()))
            return bool(found)

    def leave(self, session_sha256: str) -> None:
        with self._writing() as db:
            db.execute("DELETE FROM session WHERE session_sha256 = ?", (session_sha256,))

    def rater(self, session_sha256: str) -> Rater | None:
        """Whose session it is; None when there is none or it has ended."""
        rows = self._read(
            "SELECT rater_id, consent, begun_at, withdrawn_at, started_at, seen_at FROM session JOIN rater USING (rater_id)"
            " WHERE session_sha256 = ?",
            session_sha256,
        )
        if not rows:
            return None
        name, consent, begun, withdrawn, started, seen = rows[0]
        now = datetime.now(UTC)
        if now - datetime.fromisoformat(started) > LONGEST or now - datetime.fromisoformat(seen) > IDLE:
            self.leave(session_sha256)
            return None
        if now - datetime.fromisoformat(seen) > timedelta(minutes=5):  # not a write a request
            with self._writing() as db:
                db.execute("UPDATE session SET seen_at = ? WHERE session_sha256 = ?", (_now(), session_sha256))
        return Rater(name, consent, begun is not None, withdrawn is not None)

    def consent(self, rater_id: str, agreed: bool, consent_sha256: str) -> None:
        """A rater's answer to the words of this digest. The first answer counts."""
        with self._writing() as db:
            db.execute(
                "UPDATE rater SET consent = ?, consent_sha256 = ?, consent_at = ? WHERE rater_id = ? AND consent IS NULL",
                ("agreed" if agreed else "refused", consent_sha256, _now(), rater_id),
            )

    def begin(self, rater_id: str) -> None:
        with self._writing() as db:
            db.execute("UPDATE rater SET begun_at = ? WHERE rater_id = ? AND begun_at IS NULL", (_now(), rater_id))

    def open(self, rater_id: str, order: list[str]) -> tuple[int, dict[str, int]]:
        """The position that is open and its scores so far; notes that its item was shown."""
        with self._writing() as db:
            position = _open(db, rater_id)
            if position < len(order):
                values = (rater_id, position, order[position], _now())
                db.execute("INSERT OR IGNORE INTO shown (rater_id, position, item_id, shown_at) VALUES (?, ?, ?, ?)", values)
            return position, _scores(db, rater_id, position)

    def rate(self, rater_id: str, position: int, scores: Scores, was: Scores, close: bool, criteria: list[str]) -> Outcome:
        """Save scores of the open item and, with `close`, go on to the next. All of it or nothing.

        was: what the page believed to be saved. A score that is another by now came from another tab: conflict. The same
        request sent again changes nothing and is answered the same.
        """
        with self._writing() as db:
            now_open = _open(db, rater_id)
            saved = _scores(db, rater_id, position)
            changed = {c: s for c, s in scores.items() if saved.get(c) != s}
            if position != now_open or not _shown(db, rater_id, position):
                again = close and not changed and position < now_open
                return Outcome("saved" if again else "stale", now_open, _scores(db, rater_id, now_open))
            if any(saved.get(c) != was.get(c) for c in changed):
                return Outcome("conflict", position, saved)
            _put(db, rater_id, position, changed)
            saved |= changed
            if close and set(criteria) - saved.keys():
                return Outcome("incomplete", position, saved)
            if close:
                where = (_now(), rater_id, position)
                db.execute("UPDATE shown SET closed_at = ? WHERE rater_id = ? AND position = ?", where)
                return Outcome("saved", position + 1, {})
            return Outcome("saved", position, saved)

    def withdraw(self, rater_id: str) -> None:
        """Delete a rater's ratings and times, also from the log of the database, and close the link."""
        with self._writing() as db:
            for table in ("rating", "shown"):
                db.execute(f"DELETE FROM {table} WHERE rater_id = ?", (rater_id,))
            db.execute("UPDATE rater SET withdrawn_at = ? WHERE rater_id = ?", (_now(), rater_id))
        with self._lock:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _open(db: sqlite3.Connection, rater_id: str) -> int:
    """Items are closed one after the other: the open position is how many are closed."""
    return db.execute("SELECT count(closed_at) FROM shown WHERE rater_id = ?", (rater_id,)).fetchone()[0]


def _shown(db: sqlite3.Connection, rater_id: str, position: int) -> bool:
    return bool(db.execute("SELECT 1 FROM shown WHERE rater_id = ? AND position = ?", (rater_id, position)).fetchone())


def _scores(db: sqlite3.Connection, rater_id: str, position: int) -> dict[str, int]:
    query = "SELECT criterion, score FROM rating WHERE rater_id = ? AND position = ?"
    return dict(db.execute(query, (rater_id, position)).fetchall())


def _put(db: sqlite3.Connection, rater_id: str, position: int, scores: Scores) -> None:
    db.executemany(
        "INSERT INTO rating (rater_id, position, criterion, score, rated_at) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET score = excluded.score, rated_at = excluded.rated_at, changes = changes + 1",
        [(rater_id, position, criterion, score, _now()) for criterion, score in scores.items()],
    )
