"""The submission protocol as values and decisions: facts, states, verdicts, wire bytes, waits. Pure."""
