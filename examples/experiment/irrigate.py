"""Says how long to water, on a device with an agent: `python irrigate.py 0.7`.

Needs the extra `fieldfare[openfeature]`.
"""

import sys
from functools import partial

from openfeature import api
from pump import way_to_run

from agent.openfeature import FieldfareProvider


def main() -> None:
    """Read how dry the soil is from the command line, and print the seconds."""
    api.set_provider(FieldfareProvider(reader="irrigation@1.0.0"))
    is_on = partial(api.get_client().get_boolean_value, default_value=False)
    print(way_to_run(is_on).seconds_on(float(sys.argv[1])))
    api.shutdown()


if __name__ == "__main__":
    main()
