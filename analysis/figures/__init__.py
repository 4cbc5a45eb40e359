"""How results look: matplotlib figures of runs, masks, loops and validations, in one style."""
