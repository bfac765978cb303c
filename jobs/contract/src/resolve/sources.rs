//! The sources of a definition: what ingest is told of them.

use std::collections::BTreeMap;

use ipnet::IpNet;
use lakehouse_api::{
    LakehousePipelineSpec, LakehouseSpec,
    common::Stage,
    lakehouse::Connection,
    pipeline::{History, HttpSource, ScrapeSource, Source},
};
use lakehouse_html::{Link, Rules};
use url::Url;

use super::ResolveError;
use crate::{
    env::connection_token,
    spec::{HttpConnection, IngestSource, Rendering, ResolvedSource},
    template::{render, url_encode},
};

/// The sources, checked against the time that ingest may take.
pub(super) fn resolved(
    definition: &LakehousePipelineSpec,
    lakehouse: &LakehouseSpec,
    values: &BTreeMap<String, String>,
) -> Result<Vec<ResolvedSource>, ResolveError> {
    let timeout = definition.jobs.clone().unwrap_or_default().effective(Stage::Ingest).timeout;
    for source in &definition.ingest {
        let Some(clickstream) = &source.clickstream else { continue };
        let Some(rate) = clickstream.events_per_second else { continue };
        let (source_name, events) = (source.name.clone(), clickstream.events);
        let seconds = events / rate.max(1);
        if seconds.unsigned_abs() >= timeout.0.as_secs() {
            return Err(ResolveError::TooSlow { source_name, events, rate, seconds, timeout });
        }
    }
    definition.ingest.iter().map(|source| resolve_source(source, lakehouse, values)).collect()
}

fn resolve_source(source: &Source, lakehouse: &LakehouseSpec, values: &BTreeMap<String, String>) -> Result<ResolvedSource, ResolveError> {
    let resolved = if let Some(http) = &source.http {
        resolve_http(&source.name, http, lakehouse, values)?
    } else if let Some(pulse) = &source.pulse {
        IngestSource::Pulse(pulse.clone())
    } else if let Some(clickstream) = &source.clickstream {
        IngestSource::Clickstream(clickstream.clone())
    } else if let Some(sensors) = &source.sensors {
        IngestSource::Sensors(sensors.clone())
    } else if let Some(files) = &source.files {
        IngestSource::Files {
            path: render(&files.path, values, str::to_owned).map_err(|error| ResolveError::Template {
                source_name: source.name.clone(),
                field: "files.path".to_owned(),
                error,
            })?,
            format: files.format,
            allow_empty: files.allow_empty,
        }
    } else if let Some(scrape) = &source.scrape {
        resolve_scrape(&source.name, scrape, lakehouse, values)?
    } else {
        return Err(ResolveError::NoSource(source.name.clone()));
    };
    Ok(ResolvedSource { name: source.name.clone(), source: resolved })
}

/// A first request, and the connection that it goes through.
struct FirstRequest {
    url: Url,
    connection: HttpConnection,
    /// The connection can be asked for the past, whatever its source can.
    archived: bool,
}

impl FirstRequest {
    /// `path` on the connection `name`; `kind` is the variant of the source, for messages.
    fn new(
        source_name: &str,
        kind: &'static str,
        (name, path): (&str, &str),
        lakehouse: &LakehouseSpec,
        values: &BTreeMap<String, String>,
    ) -> Result<Self, ResolveError> {
        let source_name = source_name.to_owned();
        let Some(connection) = lakehouse.connections.iter().find(|c| c.name == name) else {
            let known = names(&lakehouse.connections);
            return Err(ResolveError::UnknownConnection { source_name, kind, connection: name.to_owned(), known });
        };
        let template = |field: &str| {
            let field = format!("{kind}.{field}");
            let source_name = source_name.clone();
            move |error| ResolveError::Template { source_name, field, error }
        };
        let path = render(path, values, url_encode).map_err(template("path"))?;
        let text = format!("{}{path}", connection.base_url.trim_end_matches('/'));
        let mut url =
            Url::parse(&text).map_err(|error| ResolveError::Url { source_name: source_name.clone(), kind, text: text.clone(), error })?;
        if let Some(archive) = &connection.archive {
            for (name, value) in &archive.query {
                let value = render(value, values, str::to_owned).map_err(template("connection (archive.query)"))?;
                url.query_pairs_mut().append_pair(name, &value);
            }
        }
        let token_env = connection.authorization_secret.as_ref().map(|_| connection_token(&connection.name));
        if let Some(text) = connection.allowed_networks.iter().find(|text| text.parse::<IpNet>().is_err()) {
            return Err(ResolveError::Network { connection: connection.name.clone(), text: text.clone() });
        }
        let allowed_networks = connection.allowed_networks.clone();
        let resource_hosts = connection.resource_hosts.clone();
        let connection_of_spec = HttpConnection { name: connection.name.clone(), token_env, allowed_networks, resource_hosts };
        Ok(Self { url, connection: connection_of_spec, archived: connection.archive.is_some() })
    }

    fn history(&self, declared: History) -> History {
        if self.archived { History::ByInterval } else { declared }
    }
}

fn resolve_http(
    source_name: &str,
    http: &HttpSource,
    lakehouse: &LakehouseSpec,
    values: &BTreeMap<String, String>,
) -> Result<IngestSource, ResolveError> {
    if let Some(incremental) = &http.incremental
        && let Some(initial) = &incremental.initial
        && let Err(message) = incremental.cursor_type.parse(initial)
    {
        return Err(ResolveError::InitialCursor { source_name: source_name.to_owned(), initial: initial.clone(), message });
    }
    let first = FirstRequest::new(source_name, "http", (&http.connection, &http.path), lakehouse, values)?;
    Ok(IngestSource::Http {
        history: first.history(http.history),
        url: first.url,
        connection: first.connection,
        records: http.records.clone().unwrap_or_default(),
        paging: http.paging.clone(),
        incremental: http.incremental.clone(),
        allow_empty: http.allow_empty,
        timeout_seconds: http.timeout.0.as_secs().max(1),
        retries: http.retries.unsigned_abs(),
    })
}

fn resolve_scrape(
    source_name: &str,
    scrape: &ScrapeSource,
    lakehouse: &LakehouseSpec,
    values: &BTreeMap<String, String>,
) -> Result<IngestSource, ResolveError> {
    // Ingest looks for records only, but a definition with a rule that silver cannot execute is refused before anything is fetched.
    let rule = |error| ResolveError::Rule { source_name: source_name.to_owned(), error };
    Rules::new(&scrape.records, &scrape.fields).map_err(rule)?;
    if let Some(paging) = &scrape.paging {
        Link::new(&paging.next.select).map_err(rule)?;
    }
    let render = scrape.render.as_ref().map(|render| &render.chromium);
    if let Some(select) = render.and_then(|chromium| chromium.wait_for.as_deref()) {
        Rules::selector("render.chromium.waitFor", select).map_err(rule)?;
    }
    let first = FirstRequest::new(source_name, "scrape", (&scrape.connection, &scrape.path), lakehouse, values)?;
    Ok(IngestSource::Scrape {
        history: first.history(scrape.history),
        url: first.url,
        connection: first.connection,
        records: scrape.records.clone(),
        paging: scrape.paging.clone(),
        allow_empty: scrape.allow_empty,
        request_interval_millis: u64::try_from(scrape.request_interval.0.as_millis()).unwrap_or(u64::MAX),
        robots: scrape.robots,
        timeout_seconds: scrape.timeout.0.as_secs().max(1),
        retries: scrape.retries.unsigned_abs(),
        render: render
            .map(|chromium| Rendering { wait_for: chromium.wait_for.clone(), timeout_seconds: chromium.timeout.0.as_secs().max(1) }),
    })
}

fn names(connections: &[Connection]) -> String {
    if connections.is_empty() {
        return "none".to_owned();
    }
    connections.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ")
}
