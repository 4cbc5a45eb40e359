"""How long it takes: from masks to an integer table of tiles, and two engines that run it."""
