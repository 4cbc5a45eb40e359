"""What we learn: sweeps, results, figures and the command line."""
