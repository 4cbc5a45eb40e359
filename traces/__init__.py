"""What the network did: layers, gates, masks, and how they are recorded and stored."""
