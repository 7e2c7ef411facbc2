"""Say how long something takes."""

import math


def format_duration(wall_s: float) -> str:
    """Seconds as a reader says them: 42 s, 7.5 min, 3.2 h."""
    if not math.isfinite(wall_s):
        return "–"
    if wall_s < 120:
        return f"{wall_s:.0f} s"
    return f"{wall_s / 60:.1f} min" if wall_s < 7200 else f"{wall_s / 3600:.1f} h"
