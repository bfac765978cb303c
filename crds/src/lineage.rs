//! Where the lineage of a Lakehouse's runs goes: OpenLineage events.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{HumanDuration, SecretKey};

/// Lineage of every run as OpenLineage events. They are kept beside the reports, and sent to an endpoint where one is named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LineageSettings {
    /// Namespace of jobs in the events; default: the namespace of the Lakehouse. Set it where several clusters report to one place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[A-Za-z0-9][A-Za-z0-9:/._-]*$"))]
    pub namespace: Option<String>,
    /// Where each event is posted to. An endpoint that does not answer fails no run: the reports say so, and the events are beside them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<LineageEndpoint>,
    /// How often an attempt that is at work tells how far it is (`RUNNING`), at most; it never waits for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_interval: Option<HumanDuration>,
}

/// [`LineageSettings::running_interval`] where nothing is said.
pub const DEFAULT_RUNNING_INTERVAL: HumanDuration = HumanDuration::seconds(30);

/// An endpoint that takes OpenLineage events, such as Marquez.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LineageEndpoint {
    /// The whole URL, such as http://marquez.lineage.svc:5000/api/v1/lineage.
    #[schemars(length(max = 1024), regex(pattern = "^https?://[^ ?#]+$"))]
    pub url: String,
    /// Secret key whose value is sent as bearer token in the Authorization header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization_secret: Option<SecretKey>,
    /// Longest time for one event, further tries included; at most 30s, so that a job that is told to stop has its report written.
    #[serde(default = "default_timeout")]
    #[schemars(extend("pattern" = "^([1-9]|[12][0-9]|30)s$"))]
    pub timeout: HumanDuration,
}

const fn default_timeout() -> HumanDuration {
    HumanDuration::seconds(10)
}
