"""Admission: what events may hold, whichever door they come by."""
