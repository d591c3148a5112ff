"""What this version decides: it airs the house when it is hot."""

SENSORS = ("air_temperature",)

OPEN_ABOVE_C = 26.0
CLOSE_BELOW_C = 24.0
"""Lower than where it opens, so that the window does not flap."""


def decide(readings: dict[str, float | None], outputs: dict[str, bool]) -> dict[str, bool]:
    """Return where the window should be, given where it is."""
    celsius = readings["air_temperature"]
    is_open = outputs.get("window", False)
    if celsius is not None:
        is_open = celsius > (CLOSE_BELOW_C if is_open else OPEN_ABOVE_C)
    return {"window": is_open}
