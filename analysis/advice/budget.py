"""The budget that holds where a user names none: how much accuracy figures, page and recommendation may lose."""

MAX_DROP_POINTS = 1.0
