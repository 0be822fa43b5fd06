"""From a teacher to a student: sizes, budgets, the comparison of students."""
