"""The timetable, as data: entry → task, seconds between two runs, queue. Imports none of our code.

Beat only starts upkeep and so leaves a tick: what is due stands in Postgres, and the workers ask for it themselves. So two
beats, or none for a while, do no harm. A message that waited long has expired: the next one does its work (with room for clocks that differ).
"""

BEAT_SCHEDULE = {
    "upkeep": {"task": "upkeep.tick", "schedule": 4.0, "options": {"queue": "upkeep", "expires": 60}},
    "triggers": {"task": "triggers.fire_due", "schedule": 15.0, "options": {"queue": "upkeep", "expires": 60}},
    "tokens": {"task": "tokens.keep_alive", "schedule": 3600.0, "options": {"queue": "upkeep", "expires": 3600}},
}
