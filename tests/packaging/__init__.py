"""What users install: distributions, types, workflows, the recipe."""
