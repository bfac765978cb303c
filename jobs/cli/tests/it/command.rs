//! The command itself, as a process: run, resume, sql, status, report, validate, doctor.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

const PIPELINE: &str = "apiVersion: lakehouse.rs/v1alpha1
kind: LakehousePipeline
metadata: {name: sales}
spec:
  lakehouse: main
  parameters: {folder: sales}
  ingest:
    - {name: upload, files: {path: '{{ parameters.folder }}/{{ interval.date }}.csv', format: csv}}
  silver:
    - name: sales
      from: upload
      write: {replaceInterval: {column: day, outside: quarantine}}
      columns:
        - {name: id, from: /id, type: string, required: true}
        - {name: day, from: /day, type: date, required: true}
        - {name: amount, from: /amount, type: 'decimal(10,2)', required: true}
  gold:
    - name: totals
      write: {replaceInterval: {column: day}}
      sql: SELECT day, sum(amount) AS amount FROM silver.sales WHERE day >= $start AND day < $end GROUP BY day
";

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::write(place.manifest(), PIPELINE).unwrap();
        for day in 1..=3 {
            place.land(day, &format!("id,day,amount\na,2024-03-0{day},1.10\nb,2024-03-0{day},{day}.05\nc,2024-03-0{day},x\n"));
        }
        place
    }

    fn manifest(&self) -> PathBuf {
        self.folder.path().join("sales.yaml")
    }

    fn lake(&self) -> PathBuf {
        self.folder.path().join("lake")
    }

    fn land(&self, day: u32, text: &str) {
        let folder = self.lake().join("landing/sales");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("2024-03-0{day}.csv")), text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lakehouse"));
        command.args(arguments).env("LAKEHOUSE_LOCAL", self.lake()).stdin(Stdio::null());
        command
    }

    fn lakehouse(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let manifest = self.manifest();
        let mut all = vec!["run", "-f", manifest.to_str().unwrap()];
        all.extend(arguments);
        self.lakehouse(&all)
    }

    fn rows(&self, query: &str) -> String {
        text(&self.lakehouse(&["sql", query, "--format", "csv"]).stdout)
    }

    /// The run lines of standard error.
    fn runs(output: &Output) -> Vec<serde_json::Value> {
        let lines = text(&output.stderr);
        let events = lines.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        events.filter(|event| event["event"] == "run").collect()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn ok(output: Output) -> Output {
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    output
}

fn files(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
}

#[test]
fn a_range_is_run_and_a_second_time_nothing_is_done() {
    let place = Place::new();
    let first = ok(place.run(&["--from", "2024-03-01", "--to", "2024-03-03"]));
    assert_eq!(Place::runs(&first).len(), 3);
    let totals = "day,amount\n2024-03-01,2.15\n2024-03-02,3.15\n2024-03-03,4.15\n";
    assert_eq!(place.rows("SELECT * FROM gold.totals ORDER BY day"), totals);
    assert_eq!(place.rows("SELECT count(*) AS n FROM quarantine.sales"), "n\n3\n");
    // The layers only: SQLite leaves a log beside the catalog when the process ends before its connections do.
    let stored = || ["bronze", "silver", "gold"].map(|layer| files(&place.lake().join(layer)));
    let before = stored();
    let second = ok(place.run(&["--from", "2024-03-01", "--to", "2024-03-03"]));
    assert!(Place::runs(&second).iter().all(|run| run["already"] == true));
    assert_eq!(stored(), before);
    assert_eq!(place.rows("SELECT * FROM gold.totals ORDER BY day"), totals);

    let status = text(&ok(place.lakehouse(&["status"])).stdout);
    assert!(status.contains("sales-2024-03-02") && status.contains("Succeeded"), "{status}");
    assert!(status.lines().skip(1).all(|line| line.starts_with('|')), "{status}");
    let report: serde_json::Value = serde_json::from_slice(&ok(place.lakehouse(&["report", "sales-2024-03-02"])).stdout).unwrap();
    assert_eq!(report[1]["tables"][0]["rowsQuarantined"], 1);
    assert_eq!(report[2]["tables"][0]["name"], "gold.totals");
    let doctor = text(&ok(place.lakehouse(&["doctor"])).stdout);
    assert_eq!(doctor.matches(": ok").count(), 2, "{doctor}");
}

#[test]
fn again_makes_a_new_run_from_the_newest_input() {
    let place = Place::new();
    ok(place.run(&["--interval", "2024-03-01"]));
    place.land(1, "id,day,amount\na,2024-03-01,7.00\n");
    ok(place.run(&["--interval", "2024-03-01"]));
    assert_eq!(place.rows("SELECT amount FROM gold.totals"), "amount\n2.15\n");
    let again = ok(place.run(&["--interval", "2024-03-01", "--again"]));
    assert_eq!(Place::runs(&again)[0]["already"], false);
    assert_eq!(place.rows("SELECT amount FROM gold.totals"), "amount\n7.00\n");
}

#[test]
fn a_failure_is_one_line_and_mended_input_is_fetched() {
    let place = Place::new();
    std::fs::remove_file(place.lake().join("landing/sales/2024-03-01.csv")).unwrap();
    let failed = place.run(&["--interval", "2024-03-01"]);
    assert_eq!(failed.status.code(), Some(20));
    let stderr = text(&failed.stderr);
    let line = stderr.lines().last().unwrap();
    assert!(line.starts_with("error: pipeline sales, run sales-2024-03-01-") && line.contains("stage ingest: EmptyResponse: "), "{stderr}");
    place.land(1, "id,day,amount\na,2024-03-01,7.00\n");
    ok(place.run(&["--interval", "2024-03-01"]));
    assert_eq!(place.rows("SELECT amount FROM gold.totals"), "amount\n7.00\n");
}

#[test]
fn stages_can_be_run_one_by_one_and_parameters_given() {
    let place = Place::new();
    std::fs::rename(place.lake().join("landing/sales"), place.lake().join("landing/other")).unwrap();
    let parameter = ["--interval", "2024-03-01", "--param", "folder=other", "--stage"];
    for stage in ["ingest", "silver", "gold"] {
        ok(place.run(&[&parameter[..], &[stage]].concat()));
    }
    assert_eq!(place.rows("SELECT amount FROM gold.totals"), "amount\n2.15\n");
    let unknown = place.run(&["--interval", "2024-03-01", "--param", "nope=1"]);
    assert!(text(&unknown.stderr).contains("parameters.nope: the pipeline declares no such parameter"), "{}", text(&unknown.stderr));
}

#[test]
fn an_interrupted_run_goes_on_as_the_same_run() {
    let place = Place::new();
    let many: String = (0..200_000).map(|n| format!("i{n},2024-03-01,1.00\n")).collect();
    place.land(1, &format!("id,day,amount\n{many}"));
    let manifest = place.manifest();
    let arguments = ["run", "-f", manifest.to_str().unwrap(), "--interval", "2024-03-01"];
    let mut child = place.command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let manifests = place.lake().join("bronze/sales/_manifests/dt=2024-03-01");
    let written = || {
        std::fs::read_dir(&manifests)
            .map_or(0, |entries| entries.flatten().filter(|e| e.path().extension().is_some_and(|x| x == "json")).count())
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while written() == 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(written(), 1, "ingest ends within a minute");
    let interrupted = text(&ok(place.lakehouse(&["status"])).stdout);
    let resumed = ok(place.run(&["--interval", "2024-03-01"]));
    let name = Place::runs(&resumed)[0]["run"].as_str().unwrap().to_owned();
    assert!(interrupted.contains(&name), "{name}\n{interrupted}");
    assert_eq!(place.rows("SELECT amount FROM gold.totals"), "amount\n200000.00\n");
    assert_eq!(written(), 1, "the source was fetched once");
}

#[test]
fn two_processes_do_not_run_the_same_interval() {
    let place = Place::new();
    let many: String = (0..300_000).map(|n| format!("i{n},2024-03-01,1.00\n")).collect();
    place.land(1, &format!("id,day,amount\n{many}"));
    let manifest = place.manifest();
    let arguments = ["run", "-f", manifest.to_str().unwrap(), "--interval", "2024-03-01"];
    let mut first = place.command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !place.lake().join("bronze/sales").exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
    let busy = place.run(&["--interval", "2024-03-01"]);
    let waited = place.run(&["--interval", "2024-03-01", "--wait"]);
    assert!(first.wait().unwrap().success());
    assert_eq!(busy.status.code(), Some(10), "{}", text(&busy.stderr));
    let line = text(&busy.stderr);
    assert!(line.contains("error: IntervalBusy: pipeline sales, interval 2024-03-01: process "), "{line}");
    assert_eq!(Place::runs(&ok(waited))[0]["already"], true);
}

#[test]
fn faults_are_found_before_anything_is_written() {
    let place = Place::new();
    let bad = PIPELINE.replace("sum(amount)", "sum(amont)").replace("type: date", "type: date, unt: days");
    std::fs::write(place.manifest(), &bad).unwrap();
    let manifest = place.manifest();
    let validated = place.lakehouse(&["validate", "-f", manifest.to_str().unwrap()]);
    assert_eq!(validated.status.code(), Some(20));
    assert!(
        text(&validated.stderr).contains("LakehousePipeline sales: spec.silver[0].columns[1].unt: unknown field `unt`"),
        "{}",
        text(&validated.stderr)
    );
    std::fs::write(place.manifest(), PIPELINE.replace("sum(amount)", "sum(amont)")).unwrap();
    for output in [place.lakehouse(&["validate", "-f", manifest.to_str().unwrap()]), place.run(&["--interval", "2024-03-01"])] {
        assert_eq!(output.status.code(), Some(20));
        let stderr = text(&output.stderr);
        assert!(stderr.contains("InvalidSql: gold.totals: column `amont` does not exist; did you mean `amount`?"), "{stderr}");
    }
    assert!(!place.lake().join("catalog.db").exists());
    std::fs::write(place.manifest(), PIPELINE).unwrap();
    let valid = ok(place.lakehouse(&["validate", "-f", manifest.to_str().unwrap()]));
    assert_eq!(text(&valid.stdout), format!("{}: LakehousePipeline sales: ok\n", manifest.display()));
}

#[test]
fn sql_is_drawn_and_refused_in_one_line() {
    let place = Place::new();
    let nothing = place.lakehouse(&["sql", "SELECT 1"]);
    assert!(text(&nothing.stderr).contains("has no tables yet"), "{}", text(&nothing.stderr));
    ok(place.run(&["--interval", "2024-03-01"]));
    let drawn = text(&ok(place.lakehouse(&["sql", "SELECT day, amount FROM gold.totals"])).stdout);
    let rows: Vec<&str> = drawn.lines().filter(|line| line.starts_with('|')).collect();
    assert_eq!(rows, ["| day        | amount |", "| 2024-03-01 | 2.15   |"]);
    let json = text(&ok(place.lakehouse(&["sql", "SELECT id FROM silver.sales ORDER BY id", "--format", "json"])).stdout);
    assert_eq!(json, "{\"id\":\"a\"}\n{\"id\":\"b\"}\n");
    let tables = text(&ok(place.lakehouse(&["sql", "SHOW TABLES"])).stdout);
    assert!(tables.contains("totals") && tables.contains("quarantine"), "{tables}");
    for (query, message) in [
        ("DROP TABLE silver.sales", "error: InvalidSql: DROP is not allowed: only a query (SELECT) that reads tables is\n"),
        (
            "SELECT * FROM '/etc/passwd'",
            "error: InvalidSql: table /etc/passwd does not exist: write silver.NAME, gold.NAME, quarantine.NAME or quality.NAME\n",
        ),
        (
            "SELECT * FROM silver.sale",
            "error: InvalidSql: table silver.sale does not exist; there are: gold.totals, quality.results, quarantine.sales, silver.sales\n",
        ),
    ] {
        let refused = place.lakehouse(&["sql", query]);
        assert_eq!((refused.status.code(), text(&refused.stderr).as_str()), (Some(20), message));
    }
}
