"""The one error root of chiron.graph."""


class GraphError(Exception):
    """A graph cannot be admitted, differentiated or run."""


class AdmissionError(GraphError):
    """A graph breaks a rule of admission. For the operator alone: it names parts of the operator's graph."""

    def __init__(self, rule: str, *, node: str = "", operator: str = "") -> None:
        place = f"node {node!r} ({operator}): " if operator else ""
        super().__init__(f"graph not admitted: {place}{rule}")
        self.rule, self.node, self.operator = rule, node, operator
