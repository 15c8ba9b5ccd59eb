"""What operator and user run: build, seal, appraise, submit, approve, query."""
