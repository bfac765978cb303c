//! `lakehouse events`: what happened to pipelines, runs and Lakehouses of a cluster, in order.

use std::pin::pin;

use chrono::{DateTime, Utc};
use clap::Args;
use futures::StreamExt;
use k8s_openapi::api::events::v1::Event;
use kube::{
    Resource,
    runtime::{
        WatchStreamExt,
        watcher::{self, watcher},
    },
};
use lakehouse_contract::interval::rfc3339;
use serde_json::{Value, json};

use super::output::{Output, show};
use crate::{
    CliError, print,
    submit::{
        cluster::{Cluster, ClusterArguments},
        outcome::one_line,
    },
    table::draw,
};

/// Options of `events`.
#[derive(Debug, Args)]
pub struct EventsArguments {
    /// Only of the run, pipeline or Lakehouse of this name.
    name: Option<String>,
    #[command(flatten)]
    cluster: ClusterArguments,
    /// Go on with those that come.
    #[arg(short, long)]
    watch: bool,
    /// Only warnings: what somebody may have to act on.
    #[arg(long)]
    warnings: bool,
    /// Text or the objects.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Prints events, the oldest first.
///
/// # Errors
/// [`crate::submit::SubmitError`], by way of [`CliError::Submit`].
pub async fn run(arguments: EventsArguments) -> Result<(), CliError> {
    let cluster = Cluster::connect(&arguments.cluster).await?;
    let mut events = cluster.events(arguments.name.as_deref()).await?;
    events.retain(|event| is_wanted(&arguments, event));
    events.sort_by_key(last_seen);
    let items: Vec<Value> = events.iter().map(object).collect();
    show(arguments.output, &json!({"apiVersion": "v1", "kind": "List", "items": items}), |_| {
        draw(&HEADER, &events.iter().map(row).collect::<Vec<_>>())
    })?;
    if !arguments.watch {
        return Ok(());
    }
    let mut config = watcher::Config::default();
    if let Some(name) = &arguments.name {
        config = config.fields(&format!("regarding.name={name}"));
    }
    let mut told: std::collections::BTreeMap<String, Option<DateTime<Utc>>> =
        events.iter().map(|event| (key(event), last_seen(event))).collect();
    let mut stream = pin!(watcher(cluster.api::<Event>(), config).default_backoff().applied_objects());
    while let Some(event) = stream.next().await {
        // A watch that breaks is taken up again.
        let Ok(event) = event else { continue };
        // A watch begins, and begins again, with everything that is there.
        if !is_wanted(&arguments, &event) || told.insert(key(&event), last_seen(&event)) == Some(last_seen(&event)) {
            continue;
        }
        match arguments.output {
            Output::Text | Output::Wide => print(&format!("| {} |\n", row(&event).join(" | ")))?,
            Output::Json => print(&format!("{}\n", object(&event)))?,
            Output::Yaml => show(Output::Yaml, &object(&event), |_| String::new()).and_then(|()| print("---\n"))?,
        }
    }
    Ok(())
}

const HEADER: [&str; 6] = ["last seen", "type", "reason", "object", "times", "message"];

fn is_wanted(arguments: &EventsArguments, event: &Event) -> bool {
    let about = event.regarding.as_ref();
    let ours = about.and_then(|object| object.api_version.as_deref()).is_some_and(|version| version.starts_with("lakehouse.rs/"));
    let named = arguments.name.as_ref().is_none_or(|name| about.and_then(|object| object.name.as_ref()) == Some(name));
    ours && named && (!arguments.warnings || event.type_.as_deref() == Some("Warning"))
}

fn key(event: &Event) -> String {
    event.meta().name.clone().unwrap_or_default()
}

/// When it happened, or happened again.
fn last_seen(event: &Event) -> Option<DateTime<Utc>> {
    let micro = event.series.as_ref().map(|series| &series.last_observed_time).or(event.event_time.as_ref());
    let stamp = micro.map(|time| time.0).or(event.deprecated_last_timestamp.as_ref().map(|time| time.0));
    stamp.and_then(|stamp| DateTime::from_timestamp(stamp.as_second(), 0))
}

fn row(event: &Event) -> Vec<String> {
    let about = event.regarding.clone().unwrap_or_default();
    let times = event.series.as_ref().map_or(1, |series| series.count);
    vec![
        last_seen(event).map(rfc3339).unwrap_or_default(),
        event.type_.clone().unwrap_or_default(),
        event.reason.clone().unwrap_or_default(),
        format!("{}/{}", about.kind.unwrap_or_default().to_lowercase(), about.name.unwrap_or_default()),
        times.to_string(),
        one_line(event.note.as_deref().unwrap_or_default()),
    ]
}

fn object(event: &Event) -> Value {
    let mut plain = event.clone();
    plain.metadata.managed_fields = None;
    serde_json::to_value(&plain).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_event_is_as_new_as_its_last_repetition() {
        let event = |value: Value| -> Event { serde_json::from_value(value).unwrap() };
        let once =
            event(json!({"metadata": {"name": "a"}, "eventTime": "2024-01-01T00:00:00.000000Z", "type": "Normal", "reason": "Started",
            "note": "in\nwords", "regarding": {"kind": "LakehouseRun", "name": "r", "apiVersion": "lakehouse.rs/v1alpha1"}}));
        assert_eq!(row(&once), ["2024-01-01T00:00:00Z", "Normal", "Started", "lakehouserun/r", "1", "in words"]);
        let again = event(json!({"metadata": {"name": "a"}, "eventTime": "2024-01-01T00:00:00.000000Z",
            "series": {"count": 3, "lastObservedTime": "2024-01-01T00:10:00.000000Z"}}));
        assert_eq!((row(&again)[0].as_str(), row(&again)[4].as_str()), ("2024-01-01T00:10:00Z", "3"));
    }
}
