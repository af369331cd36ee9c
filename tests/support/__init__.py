"""What tests share that is neither oracle nor fixture."""
