"""How networks and gates are trained: tasks, objectives, runs that go on after a kill."""
