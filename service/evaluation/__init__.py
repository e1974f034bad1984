"""What a recorded log says: of the learners (replay), and of a policy that never ran (off-policy evaluation)."""
