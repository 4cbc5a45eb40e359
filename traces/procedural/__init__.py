"""Clips that are drawn, with labels: a moving figure, vehicles seen from a drone."""
