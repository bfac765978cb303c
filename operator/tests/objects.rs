//! What the operator creates, as a reviewer reads it: snapshots of Job, ConfigMap, revision and run.

#![allow(clippy::unwrap_used, reason = "a test")]

use lakehouse_api::{Lakehouse, LakehousePipeline, common::Stage, pipeline::JobSettings};
use lakehouse_contract::{Interval, RunId, StageSpec, StoreLocation, resolve, resolve::Request};
use lakehouse_operator::{
    JobConfig,
    build::{self, Attempt},
    names,
};
use serde_json::json;

const UID: &str = "0f0e0d0c-0b0a-4908-8706-050403020100";

fn yaml(value: &impl serde::Serialize) -> String {
    serde_yaml::to_string(value).unwrap()
}

fn lakehouse() -> Lakehouse {
    serde_json::from_value(json!({
        "apiVersion": "lakehouse.rs/v1alpha1", "kind": "Lakehouse", "metadata": {"name": "main"},
        "spec": {
            "objectStore": {"endpoint": "http://minio.lakehouse.svc:9000", "credentialsSecret": "minio-credentials"},
            "catalog": {"sql": {"uriSecret": {"name": "catalog", "key": "uri"}}},
            "connections": [
                {"name": "coincap", "baseUrl": "https://rest.coincap.io", "authorizationSecret": {"name": "coincap", "key": "token"}},
                {"name": "unused", "baseUrl": "https://example.org", "authorizationSecret": {"name": "unused", "key": "token"}}
            ]
        }
    }))
    .unwrap()
}

fn pipeline() -> LakehousePipeline {
    serde_json::from_value(json!({
        "apiVersion": "lakehouse.rs/v1alpha1", "kind": "LakehousePipeline",
        "metadata": {"name": "crypto", "namespace": "ns", "uid": "11111111-2222-4333-8444-555555555555", "generation": 3},
        "spec": {
            "lakehouse": "main",
            "trigger": {"onApply": {}},
            "ingest": [{"name": "assets", "http": {"connection": "coincap", "path": "/v3/assets?limit=20", "records": "/data"}}],
            "silver": [{
                "name": "coins", "from": "assets", "write": {"append": {}},
                "columns": [{"name": "coin_id", "from": "/id", "type": "string", "required": true}]
            }],
            "gold": [{"name": "count", "write": {"overwrite": {}}, "sql": "SELECT count(*) AS n FROM silver.coins"}],
            "maintenance": {},
            "jobs": {"timeout": "30m", "resources": {"limits": {"memory": "2Gi", "cpu": "2"}}}
        }
    }))
    .unwrap()
}

fn config() -> JobConfig {
    JobConfig {
        ingest_image: "lakehouse/ingest:0.1.0".into(),
        ingest_chromium_image: "lakehouse/ingest-chromium:0.1.0".into(),
        silver_image: "lakehouse/silver:0.1.0".into(),
        gold_image: "lakehouse/gold:0.1.0".into(),
        maintenance_image: "lakehouse/maintenance:0.1.0".into(),
        image_pull_policy: "IfNotPresent".into(),
        image_pull_secrets: vec!["registry".into()],
        service_account: "lakehouse-jobs".into(),
    }
}

fn specs() -> Vec<StageSpec> {
    specs_of(&pipeline())
}

fn specs_of(pipeline: &LakehousePipeline) -> Vec<StageSpec> {
    specs_in(&lakehouse(), pipeline)
}

fn specs_in(lakehouse: &Lakehouse, pipeline: &LakehousePipeline) -> Vec<StageSpec> {
    let start = chrono::DateTime::from_timestamp(1_704_067_200, 0).unwrap();
    let request = Request {
        pipeline: "crypto".into(),
        namespace: "ns".into(),
        run_name: "crypto-2024-01-01".into(),
        run_uid: UID.into(),
        created_at: start,
        interval: Interval::containing(lakehouse_contract::IntervalGrain::Daily, start),
        // All that it has, or an ingest alone.
        stages: if pipeline.spec.silver.is_empty() { vec![Stage::Ingest] } else { Stage::ALL.to_vec() },
        inputs_from: None,
        refresh: None,
        parameters: Default::default(),
        store: StoreLocation::S3 {
            endpoint: Some("http://minio.lakehouse.svc:9000".into()),
            region: "us-east-1".into(),
            bronze: "bronze".into(),
            silver: "silver".into(),
            gold: "gold".into(),
            landing: "landing".into(),
        },
    };
    resolve(&pipeline.spec, &lakehouse.spec, &request).unwrap()
}

/// Job and ConfigMap of a stage.
fn rendered(stage: Stage) -> (serde_json::Value, serde_json::Value) {
    rendered_of(&pipeline(), stage)
}

fn rendered_of(pipeline: &LakehousePipeline, stage: Stage) -> (serde_json::Value, serde_json::Value) {
    rendered_in(&lakehouse(), pipeline, stage)
}

fn rendered_in(lakehouse: &Lakehouse, pipeline: &LakehousePipeline, stage: Stage) -> (serde_json::Value, serde_json::Value) {
    let (config, specs) = (config(), specs_in(lakehouse, pipeline));
    let spec = specs.iter().find(|spec| spec.stage() == stage).unwrap();
    let settings: JobSettings = pipeline.spec.jobs.clone().unwrap();
    let attempt = Attempt {
        run: "crypto-2024-01-01",
        namespace: "ns",
        uid: UID,
        pipeline: "crypto",
        stage,
        renders: spec.renders(),
        attempt: 1,
        name: &names::job("crypto-2024-01-01", UID, stage, 1),
        shares: true,
        settings: &settings.effective(stage),
        lakehouse: &lakehouse.spec,
        config: &config,
    };
    let values = (build::job(&attempt, spec), build::shared_config_map(&attempt, &specs));
    (serde_json::to_value(values.0).unwrap(), serde_json::to_value(values.1).unwrap())
}

#[test]
fn jobs_and_config_maps() {
    insta::assert_snapshot!("job-ingest", yaml(&rendered(Stage::Ingest).0));
    insta::assert_snapshot!("job-silver", yaml(&rendered(Stage::Silver).0));
    insta::assert_snapshot!("job-maintenance", yaml(&rendered(Stage::Maintenance).0));
    insta::assert_snapshot!("config-map", yaml(&rendered(Stage::Ingest).1));
}

/// A further attempt, and one of a run whose specs are too large for one ConfigMap, has a ConfigMap of its own.
#[test]
fn the_number_of_the_attempt_and_the_size_decide_which_config_map_it_is() {
    let (config, lakehouse, pipeline, specs) = (config(), lakehouse(), pipeline(), specs());
    let settings: JobSettings = pipeline.spec.jobs.clone().unwrap();
    assert!(build::is_shared(1, &specs) && !build::is_shared(2, &specs));
    let mut large = pipeline.clone();
    large.spec.gold[0].sql = format!("SELECT '{}' AS text", "x".repeat(800 << 10));
    assert!(!build::is_shared(1, &specs_of(&large)));
    let name = names::job("crypto-2024-01-01", UID, Stage::Silver, 2);
    let attempt = Attempt {
        run: "crypto-2024-01-01",
        namespace: "ns",
        uid: UID,
        pipeline: "crypto",
        stage: Stage::Silver,
        attempt: 2,
        name: &name,
        shares: false,
        renders: false,
        settings: &settings.effective(Stage::Silver),
        lakehouse: &lakehouse.spec,
        config: &config,
    };
    let spec = specs.iter().find(|spec| spec.stage() == Stage::Silver).unwrap().clone().with_attempt(2);
    let (job, map) = (build::job(&attempt, &spec), build::config_map(&attempt, &spec));
    assert_eq!(build::check(&job, &attempt), Ok(()));
    let job = serde_json::to_value(job).unwrap();
    let volume = &job["spec"]["template"]["spec"]["volumes"][0]["configMap"];
    assert_eq!(volume, &json!({"name": name, "items": [{"key": "stage.json", "path": "stage.json"}]}));
    assert_eq!((map.metadata.name.as_deref(), map.immutable), (Some(name.as_str()), Some(true)));
    let data = map.data.unwrap();
    assert_eq!(serde_json::from_str::<StageSpec>(&data["stage.json"]).unwrap(), spec);
}

/// A Job that shall go sooner than a day is there for a day until its outcome is recorded, and known by it.
#[test]
fn no_job_goes_before_its_outcome_is_read() {
    for (wanted, given) in [("1s", build::GOES_SOONER), ("23h", build::GOES_SOONER), ("24h", build::KEPT), ("48h", 2 * build::KEPT)] {
        let mut pipeline = pipeline();
        pipeline.spec.jobs = Some(serde_json::from_value(json!({"ttlAfterFinished": wanted})).unwrap());
        let (job, _) = rendered_of(&pipeline, Stage::Silver);
        assert_eq!(job["spec"]["ttlSecondsAfterFinished"], given, "{wanted}");
    }
}

#[test]
fn definition_and_triggered_run() {
    let revision = build::revision(&pipeline());
    assert_eq!(build::definition_of(&revision).unwrap(), pipeline().spec);
    insta::assert_snapshot!("revision", yaml(&revision));
    let interval = specs()[0].interval;
    insta::assert_snapshot!("triggered-run", yaml(&build::triggered_run(&pipeline(), interval)));
}

#[test]
fn the_spec_in_a_config_map_is_the_stage_s() {
    for spec in specs() {
        let (_, map) = rendered(spec.stage());
        let text = map["data"][format!("{}.json", spec.stage())].as_str().unwrap();
        assert_eq!(serde_json::from_str::<StageSpec>(text).unwrap(), spec.clone().with_attempt(1));
        assert_eq!(spec.run.id, RunId::new("crypto-2024-01-01", UID));
    }
}

/// Every pod fulfils Pod Security "restricted" and carries no right and no secret value.
#[test]
fn pods_are_restricted() {
    for stage in Stage::ALL {
        let (job, map) = rendered(stage);
        let pod = &job["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(pod["serviceAccountName"], "lakehouse-jobs");
        assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
        assert_eq!(container["securityContext"]["capabilities"], json!({"drop": ["ALL"]}));
        assert_eq!(job["spec"]["ttlSecondsAfterFinished"], build::KEPT, "outcome before cleanup");
        assert_eq!(job["metadata"]["ownerReferences"][0]["uid"], UID);
        let volumes: Vec<_> = pod["volumes"].as_array().unwrap().iter().flat_map(|v| v.as_object().unwrap().keys()).collect();
        assert!(volumes.iter().all(|kind| ["name", "configMap", "emptyDir"].contains(&kind.as_str())), "{volumes:?}");
        // Secrets by reference only: no variable has both, and those that carry credentials have no value.
        for variable in container["env"].as_array().unwrap() {
            let name = variable["name"].as_str().unwrap();
            assert_eq!(variable.get("value").is_some(), ["LAKEHOUSE_STAGE_SPEC", "TRACEPARENT"].contains(&name), "{name}");
        }
        assert!(!map.to_string().contains("secret"), "the spec knows no secret: {map}");
    }
    let text = |stage| rendered(stage).0.to_string();
    assert!(text(Stage::Ingest).contains("LAKEHOUSE_CONNECTION_COINCAP_TOKEN"));
    assert!(!text(Stage::Ingest).contains("UNUSED"), "only the connections it uses");
    assert!(!text(Stage::Ingest).contains("LAKEHOUSE_CATALOG_URI"), "ingest has no business with the catalog");
    assert!(!text(Stage::Gold).contains("COINCAP"), "gold has no business with a source's token");
    assert!(!text(Stage::Maintenance).contains("COINCAP"), "nor has maintenance");
}

#[test]
fn every_source_that_goes_through_a_connection_gets_its_token() {
    let mut pipeline = pipeline();
    pipeline.spec.silver.clear();
    pipeline.spec.gold.clear();
    let scrape = json!([{"name": "pages", "scrape": {"connection": "coincap", "path": "/", "records": "li", "fields": [{"name": "t"}]}}]);
    pipeline.spec.ingest = serde_json::from_value(scrape).unwrap();
    let (job, _) = rendered_of(&pipeline, Stage::Ingest);
    assert!(job.to_string().contains("LAKEHOUSE_CONNECTION_COINCAP_TOKEN"), "{job}");
    assert!(!job.to_string().contains("UNUSED"));
}

#[test]
fn pages_that_are_rendered_take_the_image_with_a_browser_and_its_memory() {
    let mut pipeline = pipeline();
    let page = json!({"connection": "coincap", "path": "/", "records": "li", "fields": [{"name": "id"}]});
    let stage = |pipeline: &LakehousePipeline, stage| {
        let job = rendered_of(pipeline, stage).0;
        let container = &job["spec"]["template"]["spec"]["containers"][0];
        (container["image"].as_str().unwrap().to_owned(), container["resources"]["limits"]["memory"].as_str().unwrap().to_owned())
    };
    for (render, image, memory) in [
        (json!({"t": {"scrape": page}}), "lakehouse/ingest:0.1.0", "256Mi"),
        (json!({"t": {"scrape": page}, "u": {"scrape": {"render": {"chromium": {}}}}}), "lakehouse/ingest-chromium:0.1.0", "1Gi"),
    ] {
        let sources = render.as_object().unwrap().iter().map(|(name, source)| {
            let mut scrape = page.as_object().unwrap().clone();
            scrape.extend(source["scrape"].as_object().unwrap().clone());
            json!({"name": name, "scrape": scrape})
        });
        pipeline.spec.ingest = serde_json::from_value(sources.collect()).unwrap();
        let mut jobs = pipeline.spec.jobs.clone().unwrap();
        jobs.resources = None;
        pipeline.spec.jobs = Some(jobs);
        pipeline.spec.silver[0].from = "t".into();
        assert_eq!(stage(&pipeline, Stage::Ingest), (image.to_owned(), memory.to_owned()));
        // No other stage has a browser.
        assert_eq!(stage(&pipeline, Stage::Silver), ("lakehouse/silver:0.1.0".to_owned(), "1Gi".to_owned()));
    }
}

#[test]
fn defaults_of_resources_give_way_to_what_the_pipeline_says() {
    for (own, requests, limits) in [
        (json!({}), json!({"cpu": "100m", "memory": "128Mi"}), json!({"memory": "1Gi"})),
        // Kubernetes would refuse a request above its limit.
        (json!({"limits": {"memory": "64Mi"}}), json!({"cpu": "100m", "memory": "64Mi"}), json!({"memory": "64Mi"})),
        (json!({"limits": {"cpu": "0.05"}}), json!({"cpu": "0.05", "memory": "128Mi"}), json!({"cpu": "0.05", "memory": "1Gi"})),
        (json!({"requests": {"memory": "2Gi"}}), json!({"cpu": "100m", "memory": "2Gi"}), json!({"memory": "2Gi"})),
        (json!({"limits": {"memory": "4Gi"}}), json!({"cpu": "100m", "memory": "128Mi"}), json!({"memory": "4Gi"})),
        // What contradicts itself is said as it is, and the API server refuses it.
        (
            json!({"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}),
            json!({"cpu": "100m", "memory": "2Gi"}),
            json!({"memory": "1Gi"}),
        ),
        (json!({"limits": {"memory": "much"}}), json!({"cpu": "100m", "memory": "128Mi"}), json!({"memory": "much"})),
    ] {
        let mut pipeline = pipeline();
        pipeline.spec.jobs = Some(serde_json::from_value(json!({"silver": {"resources": own}})).unwrap());
        let job = rendered_of(&pipeline, Stage::Silver).0;
        let found = &job["spec"]["template"]["spec"]["containers"][0]["resources"];
        assert_eq!((&found["requests"], &found["limits"]), (&requests, &limits), "{own}");
    }
}

#[test]
fn every_stage_reports_lineage_where_the_lakehouse_says_with_a_token_by_reference() {
    let mut lakehouse = lakehouse();
    let lineage =
        json!({"http": {"url": "http://marquez:5000/api/v1/lineage", "authorizationSecret": {"name": "marquez", "key": "token"}}});
    lakehouse.spec.lineage = Some(serde_json::from_value(lineage).unwrap());
    for stage in Stage::ALL {
        let (job, config_map) = rendered_in(&lakehouse, &pipeline(), stage);
        let container = &job["spec"]["template"]["spec"]["containers"][0];
        let token = container["env"].as_array().unwrap().iter().find(|variable| variable["name"] == "LAKEHOUSE_LINEAGE_TOKEN");
        assert_eq!(token.unwrap()["valueFrom"]["secretKeyRef"], json!({"name": "marquez", "key": "token"}));
        let spec: StageSpec = serde_json::from_str(config_map["data"][format!("{stage}.json")].as_str().unwrap()).unwrap();
        let to = spec.lineage.unwrap();
        assert_eq!(to.namespace, "ns");
        let endpoint = to.http.unwrap();
        assert_eq!((endpoint.url.as_str(), endpoint.timeout_seconds), ("http://marquez:5000/api/v1/lineage", 10));
    }
    let (job, _) = rendered(Stage::Silver);
    assert!(!job.to_string().contains("LINEAGE"), "a Lakehouse without lineage gives no token away");
}
