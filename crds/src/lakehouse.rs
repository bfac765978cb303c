//! `Lakehouse`: where data lives and who may reach what. Written by the platform admin; the tenant boundary.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{common::SecretKey, lineage::LineageSettings};

/// Where data lives: object store, buckets, catalog, and the connections through which sources are reached.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "lakehouse.rs",
    version = "v1alpha1",
    kind = "Lakehouse",
    plural = "lakehouses",
    shortname = "lh",
    category = "lakehouse",
    namespaced,
    status = "LakehouseStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.size() <= 63").message("metadata.name must have at most 63 characters"),
    printcolumn(name = "Store", type_ = "string", json_path = r#".status.conditions[?(@.type=="StoreReady")].status"#),
    printcolumn(name = "Catalog", type_ = "string", json_path = r#".status.conditions[?(@.type=="CatalogReady")].status"#),
    printcolumn(name = "Endpoint", type_ = "string", json_path = ".spec.objectStore.endpoint"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct LakehouseSpec {
    /// The object store that holds bronze objects and the files of all tables.
    pub object_store: ObjectStore,
    /// Where each layer lives: a bucket, or bucket/prefix. Created when absent.
    #[serde(default)]
    pub buckets: Buckets,
    /// The catalog of Iceberg tables.
    pub catalog: Catalog,
    /// Named hosts that sources may reach. The only place where a host meets a credential.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub connections: Vec<Connection>,
    /// Lineage of all runs as OpenLineage events; absent: there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage: Option<LineageSettings>,
}

/// An S3-compatible object store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStore {
    /// URL of the S3 endpoint, such as http://minio.lakehouse.svc:9000. Absent: AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^https?://[^/ ]+/?$"), length(max = 1024))]
    pub endpoint: Option<String>,
    /// Region that requests are signed for.
    #[serde(default = "default_region")]
    #[schemars(length(min = 1, max = 64))]
    pub region: String,
    /// Name of the Secret with the keys `access-key-id` and `secret-access-key`.
    #[schemars(length(min = 1, max = 253))]
    pub credentials_secret: String,
}

fn default_region() -> String {
    "us-east-1".to_owned()
}

/// Where each layer lives. Each value is a bucket name, optionally followed by `/` and a prefix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Buckets {
    /// Immutable objects as received.
    #[schemars(length(min = 3, max = 255), regex(pattern = "^[a-z0-9][a-z0-9.-]+(/[A-Za-z0-9._=-]+)*$"))]
    pub bronze: String,
    /// Typed tables.
    #[schemars(length(min = 3, max = 255), regex(pattern = "^[a-z0-9][a-z0-9.-]+(/[A-Za-z0-9._=-]+)*$"))]
    pub silver: String,
    /// Models.
    #[schemars(length(min = 3, max = 255), regex(pattern = "^[a-z0-9][a-z0-9.-]+(/[A-Za-z0-9._=-]+)*$"))]
    pub gold: String,
    /// Where uploads for `files` sources arrive.
    #[schemars(length(min = 3, max = 255), regex(pattern = "^[a-z0-9][a-z0-9.-]+(/[A-Za-z0-9._=-]+)*$"))]
    pub landing: String,
}

impl Default for Buckets {
    fn default() -> Self {
        Self { bronze: "bronze".to_owned(), silver: "silver".to_owned(), gold: "gold".to_owned(), landing: "landing".to_owned() }
    }
}

/// The catalog of Iceberg tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Catalog {
    /// A catalog kept in a SQL database (the `iceberg_tables` schema that PyIceberg, Trino and Spark share).
    pub sql: SqlCatalog,
}

/// A catalog kept in a SQL database.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SqlCatalog {
    /// Secret key with the database's URI, such as postgresql://user:password@postgres.lakehouse.svc:5432/catalog.
    pub uri_secret: SecretKey,
}

/// A host that sources may reach, with the credential for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// Name that `http.connection` of a source refers to.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Scheme, host and optional path prefix; a source's path is appended.
    #[schemars(length(max = 1024), regex(pattern = "^https?://[^ ?#]+$"))]
    pub base_url: String,
    /// Secret key whose value is sent as bearer token in the Authorization header, to this host only (never across a redirect).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization_secret: Option<SecretKey>,
    /// The host is an archive: it can answer for past intervals. Lifts `history: none` of the sources that use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<Archive>,
    /// Networks in CIDR notation, such as 10.20.0.0/16, in which the host may have its addresses. Public addresses are always allowed, and private
    /// ones where baseUrl itself names them: by an IP address, or by a name of the cluster (`minio`, `api.team.svc`, `*.local`, `*.internal`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 3, max = 49), regex(pattern = "^[0-9a-fA-F.:]+/[0-9]{1,3}$")))]
    pub allowed_networks: Vec<String>,
    /// Further hosts from which a page that is rendered may load scripts, styles and data, at the default port and without the credential. Their
    /// addresses are public or in `allowedNetworks`. Pages themselves are of the connection's host only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 253), regex(pattern = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?(:[0-9]{1,5})?$")))]
    pub resource_hosts: Vec<String>,
}

/// How an archive is asked for the past.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Archive {
    /// Query parameters added to each request; values may use templates, such as "{{ interval.start }}".
    #[schemars(extend("maxProperties" = 16))]
    pub query: BTreeMap<String, String>,
}

/// What the operator found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LakehouseStatus {
    /// `StoreReady` and `CatalogReady`: whether each answers with the given credentials.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The generation these conditions speak of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
