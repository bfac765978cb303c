//! The rules that the API server applies, applied here: schema, unknown fields, list-map keys, CEL.
//!
//! `lakehouse validate` and the laptop runner use this, so that a manifest they accept is one that a cluster accepts.

use kube::core::cel::Validator;
use regex::Regex;
use serde_json::{Map, Value};

use crate::{GROUP, VERSION, all_crds};

/// One thing that is wrong, at one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Path of the field, such as `spec.silver[0].columns[2].type`.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.field.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.field, self.message) }
    }
}

/// Everything that the API server would refuse `object` for; empty when it would accept it on creation.
///
/// Objects of other groups (a Secret beside a pipeline) are not looked at.
pub fn validate(object: &Value) -> Vec<Fault> {
    let api_version = object.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
    if api_version.split('/').next() != Some(GROUP) {
        return Vec::new();
    }
    let crd = all_crds().into_iter().map(|(_, crd)| crd).find(|crd| crd.spec.names.kind == kind);
    let Some(crd) = crd.filter(|_| api_version == format!("{GROUP}/{VERSION}")) else {
        return vec![Fault { field: "kind".into(), message: format!("no kind `{kind}` in {api_version}") }];
    };
    let schema = crd.spec.versions[0].schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref());
    let schema = serde_json::to_value(schema).unwrap_or_default();
    let mut faults = name_faults(object);
    walk(&schema, object, "", &mut faults);
    if faults.is_empty() {
        // CEL rules assume a value of the right shape, as in the API server.
        let defaulted = with_defaults(&schema, object);
        if let Err(errors) = Validator::new().validate(&schema, &defaulted, None) {
            faults.extend(errors.into_iter().map(|e| Fault { field: e.field_path.trim_start_matches('.').to_owned(), message: e.message }));
        }
    }
    faults
}

fn name_faults(object: &Value) -> Vec<Fault> {
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let fault = |message: String| vec![Fault { field: "metadata.name".into(), message }];
    if name.is_empty() {
        return fault("Required value".into());
    }
    if name.len() > 253 {
        return fault(format!("Too long: {} characters, at most 253", name.len()));
    }
    let label = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    if name.split('.').all(label) {
        return Vec::new();
    }
    fault(format!(
        "Invalid value `{name}`: lower case letters, digits, `-` and `.`, beginning and ending with a letter or digit (RFC 1123 subdomain)"
    ))
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn walk(schema: &Value, value: &Value, path: &str, faults: &mut Vec<Fault>) {
    let mut fault = |message: String| faults.push(Fault { field: path.to_owned(), message });
    if value.is_null() {
        if schema.get("nullable") != Some(&Value::Bool(true)) && !path.is_empty() {
            fault("Invalid value: null".into());
        }
        return;
    }
    if schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        if !value.is_string() && !value.is_i64() {
            fault("Invalid value: must be an integer or a string".into());
        }
        return;
    }
    let expected = schema.get("type").and_then(Value::as_str).unwrap_or_default();
    let fits = match expected {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        _ => true,
    };
    if !fits {
        return fault(format!("Invalid value: must be of type {expected}, not {}", kind_of(value)));
    }
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
        && !allowed.contains(value)
    {
        let names: Vec<String> = allowed.iter().filter(|v| !v.is_null()).map(Value::to_string).collect();
        fault(format!("Unsupported value: {value}: supported values: {}", names.join(", ")));
    }
    match value {
        Value::Object(fields) => walk_object(schema, fields, path, faults),
        Value::Array(items) => walk_array(schema, items, path, faults),
        Value::String(text) => faults.extend(text_faults(schema, text, path)),
        Value::Number(number) => faults.extend(number_faults(schema, number.as_f64().unwrap_or_default(), path)),
        Value::Bool(_) | Value::Null => {}
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn walk_object(schema: &Value, fields: &Map<String, Value>, path: &str, faults: &mut Vec<Fault>) {
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(name) {
            faults.push(Fault { field: join(path, name), message: "Required value".into() });
        }
    }
    if let Some(most) = schema.get("maxProperties").and_then(Value::as_u64)
        && fields.len() as u64 > most
    {
        faults.push(Fault { field: path.into(), message: format!("Too many: {}, at most {most}", fields.len()) });
    }
    if let Some(least) = schema.get("minProperties").and_then(Value::as_u64)
        && (fields.len() as u64) < least
    {
        faults.push(Fault { field: path.into(), message: format!("Too few: {}, at least {least}", fields.len()) });
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    let additional = schema.get("additionalProperties").filter(|v| v.is_object());
    let open = schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    for (name, value) in fields {
        // apiVersion, kind, metadata and the server's own status are checked by the API machinery.
        if path.is_empty() && matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "status") {
            continue;
        }
        match properties.and_then(|p| p.get(name)).or(additional) {
            Some(schema) => walk(schema, value, &join(path, name), faults),
            None if open || (properties.is_none() && additional.is_none()) && path.is_empty() => {}
            None => faults.push(Fault { field: join(path, name), message: unknown_field(name, properties) }),
        }
    }
}

fn unknown_field(name: &str, properties: Option<&Map<String, Value>>) -> String {
    let known: Vec<&str> = properties.map(|p| p.keys().map(String::as_str).collect()).unwrap_or_default();
    if known.is_empty() {
        return format!("unknown field `{name}`");
    }
    format!("unknown field `{name}`; known fields: {}", known.join(", "))
}

fn walk_array(schema: &Value, items: &[Value], path: &str, faults: &mut Vec<Fault>) {
    let length = items.len() as u64;
    if let Some(least) = schema.get("minItems").and_then(Value::as_u64).filter(|least| length < *least) {
        faults.push(Fault { field: path.into(), message: format!("Too few items: {length}, at least {least}") });
    }
    if let Some(most) = schema.get("maxItems").and_then(Value::as_u64).filter(|most| length > *most) {
        faults.push(Fault { field: path.into(), message: format!("Too many items: {length}, at most {most}") });
    }
    let keys: Vec<&str> =
        schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let mut seen = std::collections::BTreeMap::new();
    for (index, item) in items.iter().enumerate() {
        let here = format!("{path}[{index}]");
        if !keys.is_empty() {
            let identity: Vec<String> = keys.iter().map(|k| item.get(*k).unwrap_or(&Value::Null).to_string()).collect();
            if let Some(first) = seen.insert(identity.clone(), index) {
                faults.push(Fault {
                    field: here.clone(),
                    message: format!("Duplicate value: {} {} stands at [{first}] too", keys.join(", "), identity.join(", ")),
                });
            }
        }
        if let Some(schema) = schema.get("items") {
            walk(schema, item, &here, faults);
        }
    }
}

fn text_faults(schema: &Value, text: &str, path: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut fault = |message: String| faults.push(Fault { field: path.to_owned(), message });
    let length = text.chars().count() as u64;
    if let Some(least) = schema.get("minLength").and_then(Value::as_u64).filter(|least| length < *least) {
        fault(format!("Too short: {length} characters, at least {least}"));
    }
    if let Some(most) = schema.get("maxLength").and_then(Value::as_u64).filter(|most| length > *most) {
        fault(format!("Too long: {length} characters, at most {most}"));
    }
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
        && Regex::new(pattern).is_ok_and(|p| !p.is_match(text))
    {
        fault(format!("Invalid value: {text:?}: should match '{pattern}'"));
    }
    if schema.get("format").and_then(Value::as_str) == Some("date-time") && chrono::DateTime::parse_from_rfc3339(text).is_err() {
        fault(format!("Invalid value: {text:?}: must be a time such as 2024-01-01T00:00:00Z (RFC 3339)"));
    }
    faults
}

fn number_faults(schema: &Value, number: f64, path: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut fault = |message: String| faults.push(Fault { field: path.to_owned(), message });
    if let Some(least) = schema.get("minimum").and_then(Value::as_f64).filter(|least| number < *least) {
        fault(format!("Invalid value: {number}: must be at least {least}"));
    }
    if let Some(most) = schema.get("maximum").and_then(Value::as_f64).filter(|most| number > *most) {
        fault(format!("Invalid value: {number}: must be at most {most}"));
    }
    faults
}

/// `value` with the defaults of the schema filled in, as the API server does before it evaluates CEL.
fn with_defaults(schema: &Value, value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields = fields.clone();
            let properties = schema.get("properties").and_then(Value::as_object);
            for (name, property) in properties.into_iter().flatten() {
                match (fields.get(name), property.get("default")) {
                    (Some(present), _) => {
                        let filled = with_defaults(property, present);
                        fields.insert(name.clone(), filled);
                    }
                    (None, Some(default)) => {
                        fields.insert(name.clone(), with_defaults(property, default));
                    }
                    (None, None) => {}
                }
            }
            Value::Object(fields)
        }
        Value::Array(items) => match schema.get("items") {
            Some(schema) => Value::Array(items.iter().map(|item| with_defaults(schema, item)).collect()),
            None => value.clone(),
        },
        other => other.clone(),
    }
}
