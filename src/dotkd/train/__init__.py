"""Training: one loop for teachers, plain students and students under any optimizer."""
