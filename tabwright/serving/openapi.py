"""The OpenAPI document of a server, and the page that shows it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tabwright.report.markup import Node, element
from tabwright.report.page import Section, page
from tabwright.serving.model import Column, ServedModel

_TYPES: dict[str, list[str]] = {
    "numeric": ["number", "null"],
    "boolean": ["boolean", "null"],
    "category": ["string", "number", "boolean", "null"],
    "datetime": ["string", "null"],
}
_ERRORS = {
    "400": "The body, a column or a cell is not what it has to be; the message says which.",
    "404": "There is no such model.",
    "413": "The body or the number of rows is past what the server takes at once.",
    "415": "The body is not declared as JSON, or is compressed.",
}


def openapi_document(models: Sequence[ServedModel], version: str) -> dict[str, Any]:
    """OpenAPI 3.1: what this server answers, with the columns of its models.

    `version`: of Tabwright.
    """
    paths: dict[str, Any] = {
        "/v2": _get("Name and version of the server, and its extensions"),
        "/v2/health/live": _get("Whether the server runs"),
        "/v2/health/ready": _get("Whether every model is loaded"),
        "/v1/models": _get("The models, with their columns"),
        "/metrics": _get("Metrics for Prometheus, as text"),
    }
    for model in models:
        model_path = f"/v2/models/{model.name}"
        paths[model_path] = _get("Metadata: a tensor for every column, and the outputs")
        paths[f"{model_path}/ready"] = _get("Whether the model is loaded")
        paths[f"/v1/models/{model.name}/predict"] = _post(
            "Predict rows given as JSON", _rows_schema(model), _answer_schema(model)
        )
        paths[f"{model_path}/infer"] = _post(
            "Predict by the Open Inference Protocol: one tensor a column",
            {"type": "object", "required": ["inputs"]},
            {"type": "object"},
        )
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tabwright", "version": version},
        "paths": paths,
    }


def docs_page(document: dict[str, Any]) -> str:
    """The OpenAPI document as one HTML page without scripts."""
    sections = []
    for number, (path, methods) in enumerate(document["paths"].items()):
        for method, operation in methods.items():
            body: list[Node] = [element("p", operation["summary"])]
            if "requestBody" in operation:
                sent = operation["requestBody"]["content"]["application/json"]["schema"]
                got = operation["responses"]["200"]["content"]["application/json"]["schema"]
                body += [_json_details("Request", sent), _json_details("Answer", got)]
                body.append(
                    element(
                        "dl",
                        [
                            [element("dt", code), element("dd", meaning)]
                            for code, meaning in _ERRORS.items()
                        ],
                    )
                )
            sections.append(Section(f"path-{number}", f"{method.upper()} {path}", body))
    lead = "What this server answers. The same for machines: /openapi.json"
    return page("Tabwright server", lead, sections, f"Tabwright {document['info']['version']}")


def _json_details(title: str, schema: dict[str, Any]) -> Node:
    text = json.dumps(schema, indent=2, ensure_ascii=False)
    return element(
        "details", element("summary", title), element("div", element("pre", text), class_="scroll")
    )


def _get(summary: str) -> dict[str, Any]:
    return {"get": {"summary": summary, "responses": {"200": {"description": "Yes."}}}}


def _post(summary: str, request: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """The description of a path that takes a JSON body."""
    responses: dict[str, Any] = {
        "200": {
            "description": "The predictions, in the order of the rows.",
            "content": {"application/json": {"schema": answer}},
        }
    }
    responses |= {code: {"description": meaning} for code, meaning in _ERRORS.items()}
    body = {"required": True, "content": {"application/json": {"schema": request}}}
    return {"post": {"summary": summary, "requestBody": body, "responses": responses}}


def _rows_schema(model: ServedModel) -> dict[str, Any]:
    """The schema of a request: rows as objects with the columns of the model."""
    row = {
        "type": "object",
        "additionalProperties": False,
        "required": [column.name for column in model.columns],
        "properties": {column.name: _cell_schema(column) for column in model.columns},
    }
    properties: dict[str, Any] = {"rows": {"type": "array", "minItems": 1, "items": row}}
    if model.fitted.intervals is not None:
        properties["coverage"] = {
            "type": "number",
            "exclusiveMinimum": 0,
            "exclusiveMaximum": 1,
            "description": "Share of new values that the intervals shall hold.",
        }
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["rows"],
        "properties": properties,
    }


def _cell_schema(column: Column) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": _TYPES[column.kind]}
    if column.levels:
        schema["examples"] = list(column.levels)
    if column.kind == "datetime":
        schema["description"] = "YYYY-MM-DD or YYYY-MM-DDTHH:MM:SS"
    return schema


def _answer_schema(model: ServedModel) -> dict[str, Any]:
    """The schema of the predictions."""
    number = {"type": "number"}
    if model.classes is None:
        ends = {"type": ["number", "null"], "description": "Where a coverage was asked for."}
        one: dict[str, Any] = {"value": number, "low": ends, "high": ends}
    else:
        shares = {"type": "object", "additionalProperties": number}
        one = {"label": {"enum": model.classes}, "probabilities": shares}
    return {
        "type": "object",
        "properties": {
            "model": {"type": "string"},
            "version": {"type": "string"},
            "predictions": {"type": "array", "items": {"type": "object", "properties": one}},
        },
    }
