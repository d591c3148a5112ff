"""What every address is given: the operations of the hub, its trust, what it says about itself."""

from litestar.di import NamedDependency

from hub.api.status import Status
from hub.operations import Operations
from hub.trust.desk import TrustDesk

TheOperations = NamedDependency[Operations]
TheStatus = NamedDependency[Status]
TheTrust = NamedDependency[TrustDesk]
