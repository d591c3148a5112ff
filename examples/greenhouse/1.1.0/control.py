"""What this version decides: it airs the house when it is hot, and waters when the soil is dry."""

SENSORS = ("air_temperature", "soil_moisture")

OPEN_ABOVE_C = 26.0
CLOSE_BELOW_C = 24.0
"""Lower than where it opens, so that the window does not flap."""

WATER_BELOW_PERCENT = 25.0
STOP_ABOVE_PERCENT = 40.0


def decide(readings: dict[str, float | None], outputs: dict[str, bool]) -> dict[str, bool]:
    """Return where window and valve should be, given where they are.

    Without a reading of the soil the valve is closed: a flood is worse than a dry day.
    """
    celsius, percent = readings["air_temperature"], readings["soil_moisture"]
    window, valve = outputs.get("window", False), outputs.get("valve", False)
    if celsius is not None:
        window = celsius > (CLOSE_BELOW_C if window else OPEN_ABOVE_C)
    if percent is None:
        valve = False
    else:
        valve = percent < (STOP_ABOVE_PERCENT if valve else WATER_BELOW_PERCENT)
    return {"window": window and not valve, "valve": valve}
