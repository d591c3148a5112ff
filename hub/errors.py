"""Why a hub does not start or does not do what it was asked: one class for each, with one message.

Owns the exit codes. Never prints; whoever called decides where the message goes.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """How the hub's process ends. Scripts rely on the values; never reuse one."""

    OK = 0
    INTERNAL = 1
    """A fault of the program itself; its log says more."""
    USAGE = 2
    """The command line is wrong (also used by the argument parser)."""
    SETTINGS = 3
    STATE_DIR = 4
    ANOTHER_HUB = 5
    NEWER_DATABASE = 6
    DAMAGED_DATABASE = 7
    PORT = 8
    BROKER = 9
    IDENTITY = 18


class HubError(Exception):
    """Base of everything that stops the hub for a reason that a person can remove.

    The message is one line. Nothing was left half done, and no process was left running.
    """

    exit_code = ExitCode.INTERNAL


class BadSettings(HubError):
    """A setting is unknown, missing or out of bounds; whoever wrote it is to blame."""

    exit_code = ExitCode.SETTINGS


class StateDirUnusable(HubError):
    """The state directory cannot be made, read or written."""

    exit_code = ExitCode.STATE_DIR


class AnotherHub(HubError):
    """Another hub runs on the same state directory; it goes on undisturbed."""

    exit_code = ExitCode.ANOTHER_HUB


class NewerDatabase(HubError):
    """The database was written by a newer program; it was not touched."""

    exit_code = ExitCode.NEWER_DATABASE


class DamagedDatabase(HubError):
    """The database is damaged, or is no database of ours; it was not touched."""

    exit_code = ExitCode.DAMAGED_DATABASE


class PortTaken(HubError):
    """Another program listens where the hub's HTTP should."""

    exit_code = ExitCode.PORT


class BrokerUnusable(HubError):
    """The embedded broker cannot run."""

    exit_code = ExitCode.BROKER


class DamagedIdentity(HubError):
    """The files of the hub's certificate authority are damaged; they were not touched."""

    exit_code = ExitCode.IDENTITY


class Refusal(Exception):
    """A request that cannot be granted. Whoever asked is to blame; nothing was changed.

    `status` is the HTTP status that says the same.
    """

    status = 400
    title = "The request makes no sense"


class Forbidden(Refusal):
    """Whoever asks may not, and can know why."""

    status = 403
    title = "This is not allowed"


class TooMany(Refusal):
    """It is asked too often; the same request may be granted later."""

    status = 429
    title = "This is asked too often"


class NotFound(Refusal):
    """What the request is about does not exist."""

    status = 404
    title = "There is no such thing"


class Clash(Refusal):
    """It contradicts what is there already."""

    status = 409
    title = "This contradicts what is there"


class Unauthenticated(Refusal):
    """Whoever asks did not show who they are."""

    status = 401
    title = "Say who you are"


class TooLarge(Refusal):
    """It is beyond a limit."""

    status = 413
    title = "This is too large"


class WrongType(Refusal):
    """What was sent is of a kind that is not taken."""

    status = 415
    title = "This kind of content is not taken"


class WrongContent(Refusal):
    """What was sent is not what it claims to be."""

    status = 422
    title = "The content is not what it claims to be"


class DamagedDocument(Exception):
    """A stored document cannot be read: the disk has changed it. Nobody who asked is to blame."""

    def __init__(self, document: str, reason: str) -> None:
        super().__init__(f"the stored document {document} is damaged ({reason})")
        self.document = document
        self.reason = reason


class StorageUnusable(Exception):
    """Nothing can be written now. What was being written is not there; everything earlier is.

    Nobody who asked is to blame. It can be tried again once the reason is gone.
    """

    status = 503
    title = "The hub cannot write now"


class StorageFull(StorageUnusable):
    """The disk is full or fails."""

    status = 507
    title = "The disk of the hub is full"


class StorageLocked(StorageUnusable):
    """Another program holds a lock on the database."""

    title = "The database of the hub is locked"
