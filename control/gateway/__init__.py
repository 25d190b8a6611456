"""Node sessions: assignments down, status up, streams through. `gateway.Gateway` is what a member's main program uses."""
