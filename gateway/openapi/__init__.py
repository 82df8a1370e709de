"""The OpenAPI document, made from the route table, the models of the bodies and the workers' own messages.

Version 3.0, which the bundled Swagger UI can show. `python -m gateway openapi` prints it; the committed copy,
`gateway/openapi.json`, is compared by the checks.
"""

from gateway.openapi.document import document

__all__ = ["document"]
