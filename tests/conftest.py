"""What holds for all tests: no test fails because the machine was slow."""

from hypothesis import settings

settings.register_profile("steersman", deadline=None)
settings.load_profile("steersman")
