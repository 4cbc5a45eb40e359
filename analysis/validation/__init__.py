"""Published machines: what somebody measured on them, beside what the model says."""
