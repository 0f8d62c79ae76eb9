"""A cohort's files, converted into stores of canonical images."""
