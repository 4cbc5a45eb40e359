"""How a study is run: what it asks for, who does it, where it is kept."""
