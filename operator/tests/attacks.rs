//! Published attacks on operators of this kind, tried on ours: what a pipeline's author writes never becomes anything but data.
//!
//! | known from | how | here |
//! |---|---|---|
//! | Argo Workflows: `podSpecPatch` | a definition changes the pod | there is no such field; [`build::check`] refuses every other pod |
//! | Argo Workflows: template expressions in parameters | a value becomes a template, a script or an argument | a pod has no arguments; values go through a file |
//! | Kubernetes: `$(VAR)` in env and args | a value is replaced by a secret | no value of an author is there |
//! | Argo Workflows: malformed annotations | the controller crashes | `tests/control/test_attacks.py` |
//! | Tekton: a resolver sends its token to the URL of a user | a credential leaves for the author's host | hosts stand in the Lakehouse; `tests/laptop/test_egress.py` |
//! | Tekton: over-long names | names are cut and meet, or stop the controller | names have a bound, and carry the run's UID; `tests/control/test_attacks.py` |
//! | operators that watch everything | foreign objects fill the memory | watches are of own kinds or by label; `tests/control/test_attacks.py` |

#![allow(clippy::unwrap_used, reason = "a test")]

use k8s_openapi::api::batch::v1::Job;
use lakehouse_api::{Lakehouse, LakehousePipeline, common::Stage, validate::validate};
use lakehouse_contract::{Interval, IntervalGrain, StageSpec, StoreLocation, env, resolve, resolve::Request};
use lakehouse_operator::{
    JobConfig,
    build::{self, Attempt},
    names,
};
use proptest::prelude::*;
use serde_json::{Value, json};

const UID: &str = "0f0e0d0c-0b0a-4908-8706-050403020100";
/// In every hostile text, so that it is found wherever it gets to.
const MARK: &str = "h0stile";

fn lakehouse() -> Lakehouse {
    serde_json::from_value(json!({
        "apiVersion": "lakehouse.rs/v1alpha1", "kind": "Lakehouse", "metadata": {"name": "main"},
        "spec": {
            "objectStore": {"credentialsSecret": "store"},
            "catalog": {"sql": {"uriSecret": {"name": "catalog", "key": "uri"}}},
            "connections": [{"name": "api", "baseUrl": "https://api.example.com", "authorizationSecret": {"name": "api", "key": "token"}}],
            "lineage": {"http": {"url": "http://marquez:5000/api/v1/lineage", "authorizationSecret": {"name": "marquez", "key": "token"}}}
        }
    }))
    .unwrap()
}

/// A pipeline with `text` wherever an author writes free text.
fn pipeline(text: &str) -> Value {
    json!({
        "apiVersion": "lakehouse.rs/v1alpha1", "kind": "LakehousePipeline",
        "metadata": {"name": "p", "namespace": "ns", "uid": UID, "annotations": {"lakehouse.rs/scheduled-time": text, "podSpecPatch": text}},
        "spec": {
            "lakehouse": "main",
            "parameters": {"p": text},
            "ingest": [
                {"name": "http", "http": {"connection": "api", "path": format!("/{text}"), "records": format!("/{text}")}},
                {"name": "files", "files": {"path": text, "format": "csv"}},
                {"name": "pages", "scrape": {"connection": "api", "path": "/{{ parameters.p }}", "records": "li", "fields": [{"name": "t"}], "render": {"chromium": {"waitFor": "li"}}}}
            ],
            "silver": [{
                "name": "t", "from": "http", "write": {"append": {}},
                "columns": [{"name": "c", "from": format!("/{text}"), "type": "string"}],
                "expectations": [{"name": "r", "row": text, "otherwise": "warn"}]
            }],
            "gold": [{"name": "g", "write": {"overwrite": {}}, "sql": text}],
            "maintenance": {}
        }
    })
}

fn config() -> JobConfig {
    JobConfig {
        ingest_image: "lakehouse/ingest:1".into(),
        ingest_chromium_image: "lakehouse/ingest-chromium:0.1.0".into(),
        silver_image: "lakehouse/silver:1".into(),
        gold_image: "lakehouse/gold:1".into(),
        maintenance_image: "lakehouse/maintenance:1".into(),
        image_pull_policy: "IfNotPresent".into(),
        image_pull_secrets: vec!["registry".into()],
        service_account: "lakehouse-jobs".into(),
    }
}

fn specs(pipeline: &LakehousePipeline) -> Option<Vec<StageSpec>> {
    let start = chrono::DateTime::from_timestamp(1_704_067_200, 0).unwrap();
    let bucket = |name: &str| name.to_owned();
    let request = Request {
        pipeline: "p".into(),
        namespace: "ns".into(),
        run_name: "r".into(),
        run_uid: UID.into(),
        created_at: start,
        interval: Interval::containing(IntervalGrain::Daily, start),
        stages: Stage::ALL.to_vec(),
        inputs_from: None,
        refresh: None,
        parameters: Default::default(),
        store: StoreLocation::S3 {
            endpoint: None,
            region: "us-east-1".into(),
            bronze: bucket("bronze"),
            silver: bucket("silver"),
            gold: bucket("gold"),
            landing: bucket("landing"),
        },
    };
    resolve(&pipeline.spec, &lakehouse().spec, &request).ok()
}

/// Calls `look` with the attempt of each stage and its spec; how many there were.
fn each(pipeline: &LakehousePipeline, look: impl Fn(&Attempt<'_>, &StageSpec)) -> usize {
    let (config, lakehouse, specs) = (config(), lakehouse(), specs(pipeline).unwrap_or_default());
    for spec in &specs {
        let stage = spec.stage();
        let attempt = Attempt {
            run: "r",
            namespace: "ns",
            uid: UID,
            pipeline: "p",
            stage,
            renders: spec.renders(),
            attempt: 1,
            name: &names::job("r", UID, stage, 1),
            shares: true,
            settings: &pipeline.spec.jobs.clone().unwrap_or_default().effective(stage),
            lakehouse: &lakehouse.spec,
            config: &config,
        };
        look(&attempt, spec);
    }
    specs.len()
}

/// Nothing of the author's text is in the Job, and in the ConfigMap it is in the one file, as the data that it is.
fn is_data(text: &str) -> usize {
    let Ok(pipeline) = serde_json::from_value::<LakehousePipeline>(pipeline(text)) else { return 0 };
    each(&pipeline, |attempt, spec| {
        let job = build::job(attempt, spec);
        assert_eq!(build::check(&job, attempt), Ok(()));
        let written = serde_json::to_string(&job).unwrap();
        assert!(!written.contains(MARK) && !written.contains("$("), "{written}");
        let (alone, shared) = (build::config_map(attempt, spec), build::shared_config_map(attempt, std::slice::from_ref(spec)));
        for (mut map, key) in [(alone, env::SPEC_FILE.to_owned()), (shared, format!("{}.json", spec.stage()))] {
            let data = map.data.take().unwrap();
            assert_eq!(data.keys().collect::<Vec<_>>(), [&key]);
            assert_eq!(serde_json::from_str::<StageSpec>(&data[&key]).unwrap().work, spec.work);
            assert!(!serde_json::to_string(&map).unwrap().contains(MARK));
        }
    })
}

const SYNTAX: [&str; 14] = [
    "$(AWS_SECRET_ACCESS_KEY)",
    "$$(AWS_SECRET_ACCESS_KEY)",
    "${AWS_SECRET_ACCESS_KEY}",
    "`id`",
    "'; drop table t; --",
    "\n---\nkind: Pod\n",
    "\r\nAuthorization: Bearer x",
    "\u{0}",
    "\u{202e}",
    "{\"hostNetwork\": true}",
    "../../etc/passwd",
    "{{ workflow.parameters.x }}",
    "{{=sprig.env('HOME')}}",
    "%s%n",
];

#[test]
fn known_syntaxes_are_data() {
    let resolved: usize = SYNTAX.iter().map(|syntax| is_data(&format!("{MARK}{syntax}"))).sum();
    // Those with a template that is none are refused before.
    assert_eq!(resolved, 12 * Stage::ALL.len());
    assert!(is_data(&MARK.repeat(10_000)) > 0, "however long");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn any_text_is_data(parts in prop::collection::vec(prop_oneof![prop::sample::select(&SYNTAX[..]).prop_map(str::to_owned), any::<String>()], 1..4)) {
        is_data(&format!("{MARK}{}", parts.concat()));
    }
}

#[test]
fn a_definition_has_no_field_that_reaches_a_pod() {
    let fields = [
        "podSpecPatch",
        "podTemplate",
        "template",
        "podSpec",
        "serviceAccountName",
        "env",
        "envFrom",
        "args",
        "command",
        "image",
        "volumes",
        "securityContext",
        "hostNetwork",
        "nodeSelector",
        "tolerations",
        "initContainers",
        "sidecars",
        "annotations",
        "priorityClassName",
    ];
    let mut object = pipeline("x");
    object["spec"]["jobs"] = json!({"ingest": {}});
    assert_eq!(validate(&object), []);
    let places = ["spec", "spec.jobs", "spec.jobs.ingest", "spec.ingest[0]", "spec.gold[0]"];
    for place in places {
        let pointer = format!("/{}", place.replace(['.', '['], "/").replace(']', ""));
        for field in fields {
            object.pointer_mut(&pointer).unwrap()[field] = json!({"hostNetwork": true});
        }
    }
    let faults = validate(&object);
    for (place, field) in places.iter().flat_map(|place| fields.map(|field| (place, field))) {
        let unknown = |message: &str| message.starts_with(&format!("unknown field `{field}`"));
        assert!(faults.iter().any(|it| it.field == format!("{place}.{field}") && unknown(&it.message)), "{place}.{field}: {faults:?}");
    }
}

/// Sets what is at `pointer`; a name that ends with `-` is added to an array.
fn mutated(job: &Job, pointer: &str, value: Value) -> Job {
    let mut object = serde_json::to_value(job).unwrap();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    match object.pointer_mut(parent).unwrap() {
        Value::Array(items) if name == "-" => items.push(value),
        other if value.is_null() => drop(other.as_object_mut().unwrap().remove(name)),
        other => other[name] = value,
    }
    serde_json::from_value(object).unwrap()
}

#[test]
fn a_job_that_was_tampered_with_is_not_made() {
    let pod = "/spec/template/spec";
    let container = "/spec/template/spec/containers/0";
    let second = json!({"name": "x", "image": "evil"});
    let secret = |name: &str, key: &str| json!({"name": "X", "valueFrom": {"secretKeyRef": {"name": name, "key": key}}});
    let mutations = [
        (pod, "hostNetwork", json!(true), "spec.template.spec.hostNetwork may not be set"),
        (pod, "hostPID", json!(true), "hostPID"),
        (pod, "hostIPC", json!(true), "hostIPC"),
        (pod, "hostUsers", json!(true), "hostUsers"),
        (pod, "nodeName", json!("control-plane"), "nodeName"),
        (pod, "priorityClassName", json!("system-node-critical"), "priorityClassName"),
        (pod, "runtimeClassName", json!("x"), "runtimeClassName"),
        (pod, "tolerations", json!([{"operator": "Exists"}]), "tolerations"),
        (pod, "shareProcessNamespace", json!(true), "shareProcessNamespace"),
        (pod, "initContainers", json!([second]), "initContainers"),
        (pod, "ephemeralContainers", json!([second]), "ephemeralContainers"),
        (pod, "dnsPolicy", json!("None"), "dnsPolicy"),
        (pod, "hostAliases", json!([{"ip": "1.2.3.4", "hostnames": ["minio"]}]), "hostAliases"),
        (pod, "automountServiceAccountToken", json!(true), "automountServiceAccountToken must be false"),
        (pod, "automountServiceAccountToken", Value::Null, "automountServiceAccountToken must be false"),
        (pod, "serviceAccountName", json!("lakehouse-operator"), "serviceAccountName must be"),
        (pod, "serviceAccountName", Value::Null, "serviceAccountName must be"),
        (pod, "enableServiceLinks", json!(true), "enableServiceLinks"),
        (pod, "imagePullSecrets", json!([{"name": "store"}]), "imagePullSecrets"),
        (pod, "restartPolicy", json!("Always"), "restartPolicy"),
        (pod, "securityContext", json!({}), "runAsNonRoot must be true"),
        (pod, "volumes/-", json!({"name": "h", "hostPath": {"path": "/"}}), "volumes must be two"),
        (pod, "containers/-", second.clone(), "containers must be one"),
        (&format!("{pod}/securityContext"), "runAsUser", json!(0), "runAsUser"),
        (&format!("{pod}/securityContext"), "runAsNonRoot", json!(false), "runAsNonRoot"),
        (&format!("{pod}/securityContext"), "sysctls", json!([{"name": "a", "value": "b"}]), "sysctls"),
        (&format!("{pod}/securityContext"), "seccompProfile", json!({"type": "Unconfined"}), "seccompProfile"),
        (&format!("{pod}/securityContext"), "supplementalGroups", json!([0]), "supplementalGroups"),
        (&format!("{pod}/volumes/0"), "configMap", json!({"name": "another"}), "volumes[0]"),
        (&format!("{pod}/volumes/1"), "hostPath", json!({"path": "/var/run"}), "hostPath"),
        (&format!("{pod}/volumes/1"), "secret", json!({"secretName": "store"}), "secret"),
        (&format!("{pod}/volumes/1/emptyDir"), "medium", json!("Memory"), "medium"),
        (container, "image", json!("evil"), "image must be"),
        (container, "command", json!(["sh"]), "command"),
        (container, "args", json!(["$(AWS_SECRET_ACCESS_KEY)"]), "args"),
        (container, "envFrom", json!([{"secretRef": {"name": "store"}}]), "envFrom"),
        (container, "lifecycle", json!({"postStart": {"exec": {"command": ["sh"]}}}), "lifecycle"),
        (container, "ports", json!([{"containerPort": 1, "hostPort": 1}]), "ports"),
        (container, "volumeDevices", json!([{"name": "d", "devicePath": "/d"}]), "volumeDevices"),
        (container, "livenessProbe", json!({"exec": {"command": ["sh"]}}), "livenessProbe"),
        (container, "imagePullPolicy", json!("Never"), "imagePullPolicy"),
        (container, "terminationMessagePath", json!("/etc/passwd"), "terminationMessagePath"),
        (container, "securityContext", Value::Null, "securityContext"),
        (container, "env/-", json!({"name": "LD_PRELOAD", "value": "/tmp/x.so"}), "LD_PRELOAD must be a reference"),
        (container, "env/-", json!({"name": "TRACEPARENT", "value": "x"}), "was there before"),
        (container, "env/-", secret("another", "token"), "of Secret another, which the Lakehouse does not name"),
        (container, "env/-", secret("store", "root-password"), "the key root-password of Secret store"),
        (container, "env/-", json!({"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}), "fieldRef"),
        (container, "env/-", json!({"name": "X", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}), "configMapKeyRef"),
        (&format!("{container}/env/1"), "value", json!("$(AWS_SECRET_ACCESS_KEY)"), "must be a reference"),
        (&format!("{container}/securityContext"), "privileged", json!(true), "securityContext"),
        (&format!("{container}/securityContext"), "allowPrivilegeEscalation", json!(true), "securityContext"),
        (&format!("{container}/securityContext"), "readOnlyRootFilesystem", json!(false), "securityContext"),
        (&format!("{container}/securityContext"), "procMount", json!("Unmasked"), "securityContext"),
        (&format!("{container}/securityContext/capabilities"), "add", json!(["SYS_ADMIN"]), "securityContext"),
        (&format!("{container}/volumeMounts/1"), "mountPropagation", json!("Bidirectional"), "volumeMounts"),
        (&format!("{container}/volumeMounts/1"), "mountPath", json!("/etc/lakehouse"), "volumeMounts"),
        (&format!("{container}/resources/limits"), "hugepages-2Mi", json!("1Gi"), "limits.hugepages-2Mi may not be set"),
        (&format!("{container}/resources"), "claims", json!([{"name": "gpu"}]), "claims"),
        ("/spec/template/metadata", "annotations", json!({"sidecar.istio.io/inject": "true"}), "spec.template.metadata.annotations"),
        ("/metadata", "namespace", json!("kube-system"), "metadata.namespace must be"),
        ("/metadata", "ownerReferences", Value::Null, "ownerReferences"),
        ("/metadata", "finalizers", json!(["x/y"]), "finalizers"),
        ("/metadata", "annotations", json!({"a": "b"}), "metadata.annotations"),
        ("/spec", "parallelism", json!(1000), "spec.parallelism must be 1"),
        ("/spec", "backoffLimit", json!(1000), "spec.backoffLimit must be 0"),
        ("/spec", "managedBy", json!("x/y"), "managedBy"),
        ("/spec", "suspend", json!(true), "suspend"),
        ("/spec", "ttlSecondsAfterFinished", json!(60), "spec.ttlSecondsAfterFinished must be at least"),
        ("/spec", "ttlSecondsAfterFinished", Value::Null, "spec.ttlSecondsAfterFinished must be at least"),
    ];
    let pipeline = serde_json::from_value(pipeline("x")).unwrap();
    let stages = each(&pipeline, |attempt, spec| {
        let job = build::job(attempt, spec);
        assert_eq!(build::check(&job, attempt), Ok(()));
        for (parent, name, value, expected) in &mutations {
            let tampered = mutated(&job, &format!("{parent}/{name}"), value.clone());
            assert_ne!(tampered, job, "{parent}/{name}");
            let breach = build::check(&tampered, attempt).expect_err(&format!("{parent}/{name}")).to_string();
            assert!(breach.contains(expected), "{parent}/{name}: {breach}");
            assert!(breach.starts_with(&format!("Job {} is not made: ", attempt.name)), "{breach}");
        }
    });
    assert_eq!(stages, Stage::ALL.len());
}
