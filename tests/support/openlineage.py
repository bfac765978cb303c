"""OpenLineage events, read into the classes that openlineage-python generates from the published schema.

The package has no schema file: these classes are what it is published as. Reading is strict: a field that a class does not have, one that is
missing, one of another type, and a facet under another schema version than the class's own is an error that names it.
"""

import importlib
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attr
from openlineage.client.generated import base

Event = dict[str, Any]

RUN_FACETS = {
    "parent": "parent_run.ParentRunFacet",
    "nominalTime": "nominal_time_run.NominalTimeRunFacet",
    "processing_engine": "processing_engine_run.ProcessingEngineRunFacet",
    "errorMessage": "error_message_run.ErrorMessageRunFacet",
    "test": "test_run.TestRunFacet",
}
OWN = "lakehouse_"
"""Prefix of facets that are not published."""
JOB_FACETS = {"jobType": "job_type_job.JobTypeJobFacet", "sql": "sql_job.SQLJobFacet"}
DATASET_FACETS = {
    "schema": "schema_dataset.SchemaDatasetFacet",
    "dataSource": "datasource_dataset.DatasourceDatasetFacet",
    "version": "dataset_version_dataset.DatasetVersionDatasetFacet",
    "symlinks": "symlinks_dataset.SymlinksDatasetFacet",
    "storage": "storage_dataset.StorageDatasetFacet",
    "columnLineage": "column_lineage_dataset.ColumnLineageDatasetFacet",
}
INPUT_FACETS = {
    "inputStatistics": "input_statistics_input_dataset.InputStatisticsInputDatasetFacet",
    "dataQualityAssertions": "data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet",
}
OUTPUT_FACETS = {"outputStatistics": "output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet"}


def events(path: Path) -> list[Event]:
    """The events of a file, one per line; each has been validated."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    for event in found:
        validate(event)
    return found


def validate(event: Event) -> base.RunEvent:
    """The event as the package's classes have it.

    Raises ValueError with the path of the first fault.
    """
    return _read(base.RunEvent, event, "event")


def _read(cls: type, data: Any, where: str) -> Any:
    """An instance of a generated class from its JSON."""
    if not isinstance(data, Mapping):
        raise ValueError(f"{where}: {data!r} is no object")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in attr.fields(cls)}
    strange = set(data) - set(fields)
    if strange:
        raise ValueError(f"{where}: {cls.__name__} has no field {sorted(strange)}")
    arguments = {}
    for name, value in data.items():
        place = f"{where}.{name}"
        if name in ("_schemaURL", "schemaURL"):
            if value != cls._get_schema():
                raise ValueError(f"{place}: {value} is not {cls._get_schema()}")
            continue
        arguments[name.lstrip("_")] = _facets(name, cls, value, place) or _value(hints[name], value, place)
    for name, field in fields.items():
        if name in ("_producer", "_schemaURL", "producer", "schemaURL") and name not in data:
            raise ValueError(f"{where}: {name} is missing")
        if field.init and field.default is attr.NOTHING and name not in data:
            raise ValueError(f"{where}: {name} is missing")
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


def _facets(name: str, cls: type, value: Any, where: str) -> Any:
    """The facets of a run, job or dataset, each by the class of its key."""
    known = {
        ("facets", "Run"): RUN_FACETS,
        ("facets", "Job"): JOB_FACETS,
        ("facets", "InputDataset"): DATASET_FACETS,
        ("facets", "OutputDataset"): DATASET_FACETS,
        ("inputFacets", "InputDataset"): INPUT_FACETS,
        ("outputFacets", "OutputDataset"): OUTPUT_FACETS,
    }.get((name, cls.__name__))
    if known is None:
        return None
    read = {}
    for key, facet in value.items():
        if key.startswith(OWN):
            read[key] = _own_facet(facet, f"{where}.{key}")
            continue
        if key not in known:
            raise ValueError(f"{where}: {key} is no facet that the specification has here")
        module, class_name = known[key].split(".")
        of = getattr(importlib.import_module(f"openlineage.client.generated.{module}"), class_name)
        read[key] = _read(of, facet, f"{where}.{key}")
    return read


def _own_facet(data: Any, where: str) -> base.RunFacet:
    """A facet beside the published ones: as the specification asks, its name has a prefix, and it says who made it by which schema."""
    if not isinstance(data, Mapping) or not all(isinstance(data.get(key), str) for key in ("_producer", "_schemaURL")):
        raise ValueError(f"{where}: a facet needs _producer and _schemaURL")
    if not urlsplit(data["_schemaURL"]).scheme:
        raise ValueError(f"{where}: {data['_schemaURL']} is no URI")
    return base.RunFacet(producer=data["_producer"])


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        kinds = [kind for kind in arguments if kind is not type(None)]
        if value is None:
            raise ValueError(f"{where}: null")
        return _value(kinds[0], value, where)
    if origin is list:
        if not isinstance(value, list):
            raise ValueError(f"{where}: {value!r} is no list")
        return [_value(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}: {value!r} is no object")
        return {key: _value(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if attr.has(hint):
        return _read(hint, value, where)
    if hint is base.EventType:
        return base.EventType(value)
    if hint is Any:
        return value
    wanted = (int, float) if hint is float else hint
    if not isinstance(value, wanted) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{where}: {value!r} is no {hint.__name__}")
    return value
