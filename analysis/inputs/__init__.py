"""Networks, clips and labels by name, as the command line and studies ask for them."""
