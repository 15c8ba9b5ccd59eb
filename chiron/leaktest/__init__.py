"""Two runs with the same public input and other secrets: does an observer see a difference?"""
