"""Evaluation on a recorded log: of learners (replay), and of a policy that never ran (off-policy evaluation)."""
