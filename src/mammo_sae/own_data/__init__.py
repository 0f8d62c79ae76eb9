"""From a folder as a person has it to tables and a configuration that the workflow reads."""
