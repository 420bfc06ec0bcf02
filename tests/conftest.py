"""How hypothesis runs here: every run tries the same examples, and none fails for being slow.

`./check --hypothesis-profile random` tries others.
"""

from hypothesis import HealthCheck, settings

settings.register_profile("random", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("repeatable", settings.get_profile("random"), derandomize=True)
settings.load_profile("repeatable")
