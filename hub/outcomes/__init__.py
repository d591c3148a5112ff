"""One definition each for what a deployment came to, on the stages of the ladder."""
