"""What every address is given: the operations of the hub, and what it says about itself."""

from litestar.di import NamedDependency

from hub.api.status import Status
from hub.operations import Operations

TheOperations = NamedDependency[Operations]
TheStatus = NamedDependency[Status]
