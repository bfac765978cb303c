//! Names of environment variables and paths that operator and jobs agree on.

/// Path of the file that holds the [`crate::StageSpec`] as JSON.
pub const STAGE_SPEC: &str = "LAKEHOUSE_STAGE_SPEC";
/// URI of the SQL catalog, such as `postgresql://user:password@host:5432/catalog`.
pub const CATALOG_URI: &str = "LAKEHOUSE_CATALOG_URI";
/// Access key of the object store.
pub const ACCESS_KEY_ID: &str = "AWS_ACCESS_KEY_ID";
/// Secret key of the object store.
pub const SECRET_ACCESS_KEY: &str = "AWS_SECRET_ACCESS_KEY";
/// Where a job writes its [`crate::Termination`]; the default is [`DEFAULT_TERMINATION_PATH`].
pub const TERMINATION_PATH: &str = "LAKEHOUSE_TERMINATION_PATH";
/// Where Kubernetes reads the termination message.
pub const DEFAULT_TERMINATION_PATH: &str = "/dev/termination-log";
/// Where the spec is mounted in a job's pod.
pub const SPEC_MOUNT: &str = "/etc/lakehouse";
/// File name of the spec within [`SPEC_MOUNT`] and key of the ConfigMap.
pub const SPEC_FILE: &str = "stage.json";

/// Trace context of the attempt, as in the W3C recommendation; its name is that of the OpenTelemetry specification.
pub const TRACEPARENT: &str = "TRACEPARENT";

/// Bearer token of the endpoint that lineage events are sent to.
pub const LINEAGE_TOKEN: &str = "LAKEHOUSE_LINEAGE_TOKEN";

/// Name of the variable with the bearer token of a connection: `coin-cap` → `LAKEHOUSE_CONNECTION_COIN_CAP_TOKEN`.
pub fn connection_token(connection: &str) -> String {
    format!("LAKEHOUSE_CONNECTION_{}_TOKEN", connection.to_ascii_uppercase().replace('-', "_"))
}
