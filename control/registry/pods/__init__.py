"""The pod: its defaults, its rules, its life at the API and how it is printed. Pod templates share most of it."""
