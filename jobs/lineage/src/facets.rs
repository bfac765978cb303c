//! Facets, each with the version of its schema.

use lakehouse_contract::{
    TableReport,
    lineage::{Dataset, Origin, Output},
};
use serde_json::{Map, Value, json};

use crate::names::{DatasetName, dataset_name};

/// Who makes these events.
pub(crate) const PRODUCER: &str = concat!("urn:lakehouse:jobs:", env!("CARGO_PKG_VERSION"));
/// Name of the facet of progress, which has no published schema: `step`, and of it `rows`, `bytes` and, where it is known, `total` rows.
pub(crate) const PROGRESS_SCHEMA: &str = "urn:lakehouse:facets:1-0-0:ProgressRunFacet";
/// The schema of events.
pub(crate) const EVENT_SCHEMA: &str = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent";

/// A facet: its fields, and what every facet has. `schema` is `VERSION/NAME` of its published schema.
pub(crate) fn facet(schema: &str, fields: Value) -> Value {
    let mut facet = Map::new();
    facet.insert("_producer".to_owned(), PRODUCER.into());
    let name = schema.split_once('/').map_or(schema, |(_, name)| name);
    facet.insert("_schemaURL".to_owned(), format!("https://openlineage.io/spec/facets/{schema}.json#/$defs/{name}").into());
    if let Value::Object(fields) = fields {
        facet.extend(fields);
    }
    Value::Object(facet)
}

/// What is known of a dataset itself. `catalog` is the namespace in which tables have their names, `version` the state that is spoken of.
pub(crate) fn of_dataset(dataset: &Dataset, name: &DatasetName, catalog: &str, version: Option<&str>) -> Map<String, Value> {
    let mut facets = Map::new();
    let mut add = |key: &str, value: Value| {
        facets.insert(key.to_owned(), value);
    };
    let source = match name.namespace.as_str() {
        "file" => "file:///",
        other => other,
    };
    add("dataSource", facet("1-0-1/DatasourceDatasetFacet", json!({"name": name.namespace, "uri": source})));
    if let Some(version) = version {
        add("version", facet("1-0-1/DatasetVersionDatasetFacet", json!({"datasetVersion": version})));
    }
    if !dataset.fields.is_empty() {
        let fields: Vec<Value> = dataset
            .fields
            .iter()
            .enumerate()
            .map(|(index, (name, type_))| match type_ {
                Some(type_) => json!({"name": name, "type": type_, "ordinal_position": index + 1}),
                None => json!({"name": name}),
            })
            .collect();
        add("schema", facet("1-2-0/SchemaDatasetFacet", json!({"fields": fields})));
    }
    if let Some(table) = &dataset.table {
        let identifier = json!({"namespace": catalog, "name": table.to_string(), "type": "TABLE"});
        add("symlinks", facet("1-0-1/SymlinksDatasetFacet", json!({"identifiers": [identifier]})));
    }
    // The facet knows no plain Parquet.
    if let Some(format) = dataset.format.as_ref().filter(|format| *format != "parquet") {
        add("storage", facet("1-0-1/StorageDatasetFacet", json!({"storageLayer": format, "fileFormat": "parquet"})));
    }
    facets
}

/// Where the columns and the rows of an output come from; none when nothing is known.
pub(crate) fn column_lineage(output: &Output) -> Option<Value> {
    if output.columns.is_empty() && output.rows.is_empty() {
        return None;
    }
    let fields: Map<String, Value> = output
        .columns
        .iter()
        .map(|(column, origins)| (column.clone(), json!({"inputFields": origins.iter().map(input_field).collect::<Vec<_>>()})))
        .collect();
    let dataset: Vec<Value> = output.rows.iter().map(input_field).collect();
    Some(facet("1-2-0/ColumnLineageDatasetFacet", json!({"fields": fields, "dataset": dataset})))
}

fn input_field(origin: &Origin) -> Value {
    let DatasetName { namespace, name } = dataset_name(&origin.uri);
    let transformations: Vec<Value> = origin
        .effects
        .iter()
        .map(|effect| {
            let kind = if effect.kind.is_direct() { "DIRECT" } else { "INDIRECT" };
            json!({"type": kind, "subtype": effect.kind.name(), "masking": effect.masking})
        })
        .collect();
    json!({"namespace": namespace, "name": name, "field": origin.field, "transformations": transformations})
}

/// What was written of an output.
pub(crate) fn output_statistics(output: &Output, report: &TableReport) -> Value {
    let fields = if output.quarantine {
        json!({"rowCount": report.rows_quarantined})
    } else {
        json!({"rowCount": report.rows_written, "size": report.bytes_written, "fileCount": report.files})
    };
    facet("1-0-2/OutputStatisticsOutputDatasetFacet", fields)
}
