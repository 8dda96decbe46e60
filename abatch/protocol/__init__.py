"""The submission protocol as pure values and decisions: facts, states, verdicts, wire bytes, waits."""
