"""What an error of a database's driver means, for any driver: the names of its classes are PEP 249's, its codes SQL's or SQLite's."""

from __future__ import annotations

from typing import Literal

Fault = Literal["lost", "refused", "wrong", "foreign"]
"""lost: the connection, or something that passes; refused: a row; wrong: the statement, the schema, the rights; foreign: no driver's."""

# Source: https://www.postgresql.org/docs/current/errcodes-appendix.html and the SQL standard's classes.
# Data, constraints, CHECK OPTION, SIGNAL, a limit exceeded, RAISE.
_REFUSED_CLASSES = ("22", "23", "44", "45", "54", "P0")
_LOST_CLASSES = ("08", "40", "53", "57")  # connection, rollback, resources, an operator's hand
_LOST_STATES = (
    "25P03",
    "25P04",
    "55P03",
)  # idle for too long in a transaction, too long a transaction, a lock not to be had

# Source: https://www.sqlite.org/rescode.html, the primary codes.
_SQLITE_REFUSED = (18, 19, 20)  # TOOBIG, CONSTRAINT, MISMATCH
_SQLITE_LOST = (5, 6, 7, 9, 10, 13, 15, 17)  # BUSY, LOCKED, NOMEM, INTERRUPT, IOERR, FULL, PROTOCOL, SCHEMA

# Sources: https://mariadb.com/docs/server/reference/error-codes and https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html
# OperationalErrors to drivers that do not tell the SQLSTATE: SIGNAL, CHECK in MySQL and in MariaDB, a document that is no JSON.
_MYSQL_REFUSED = (1644, 3819, 4025, 3140)


def driver_error(error: BaseException) -> BaseException:
    """The driver's own, where SQLAlchemy has wrapped it: without the statement and its parameters, which are people's data."""
    if type(error).__module__.startswith("sqlalchemy."):
        return getattr(error, "orig", None) or error
    return error


def fault_of(error: BaseException) -> Fault:
    """By code where there is one, else by class."""
    if getattr(error, "connection_invalidated", False):  # SQLAlchemy's
        return "lost"
    error = driver_error(error)
    names = {kind.__name__ for kind in type(error).__mro__}
    if not names & {"DatabaseError", "InterfaceError"}:
        return _without_driver(error)
    if (code := getattr(error, "sqlite_errorcode", None)) is not None:
        primary = code & 0xFF
        return "lost" if primary in _SQLITE_LOST else "refused" if primary in _SQLITE_REFUSED else "wrong"
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if isinstance(state, str):
        if state in _LOST_STATES or state[:2] in _LOST_CLASSES:
            return "lost"
        if state[:2] in _REFUSED_CLASSES:
            return "refused"
    elif _cannot_be_given(error) or (error.args and error.args[0] in _MYSQL_REFUSED):
        return "refused"
    if names & {"DataError", "IntegrityError"}:
        return "refused"
    return "lost" if names & {"OperationalError", "InterfaceError"} else "wrong"


def _without_driver(error: BaseException) -> Fault:
    if isinstance(error, OSError):
        return "lost"
    # What drivers and types of SQLAlchemy raise for a value: one that is too large, no date, not to be encoded.
    return "refused" if isinstance(error, (ValueError, TypeError, ArithmeticError)) else "foreign"


def _cannot_be_given(error: BaseException) -> bool:
    """A value that the driver has no form for; it did not come to the database."""
    text = str(error)
    return text.startswith(("Error binding parameter", "cannot adapt type"))
