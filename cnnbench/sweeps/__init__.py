"""Many runs from one command: expanding settings into jobs, and running the jobs."""
