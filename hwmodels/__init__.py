"""What the chip is: machines, memories, energy and area."""
