"""paho-mqtt's client, loaded without the HTTP client that it brings along.

Owns the import and nothing else. paho-mqtt imports `urllib.request` to find a proxy for MQTT over
websockets, which is never used here; that takes 0.3 MB of every device's memory. While paho-mqtt
loads, an empty module stands in for it; whoever wants the real one gets it.
"""

import sys
from types import ModuleType
from typing import Final

_UNUSED: Final = "urllib.request"

_is_loaded = _UNUSED in sys.modules
if not _is_loaded:
    sys.modules[_UNUSED] = ModuleType(_UNUSED)
try:
    from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags
finally:
    if not _is_loaded:
        del sys.modules[_UNUSED]

__all__ = ["Client", "ConnectFlags", "DisconnectFlags"]
