// Screenshots of docs/airflow.md, from the running cluster: Airflow's graph of a DAG run and the day's folder in MinIO's console.
//
//   npm install --no-save playwright-core
//   CHROMIUM=/usr/bin/chromium AIRFLOW_PASSWORD=… MINIO_USER=… MINIO_PASSWORD=… node docs/images/screenshots.mjs
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const { CHROMIUM = "/usr/bin/chromium", AIRFLOW_PASSWORD, MINIO_USER, MINIO_PASSWORD, DAG = "pulse" } = process.env;
const airflow = "http://127.0.0.1:8080";
const minio = "http://127.0.0.1:9001";
const here = dirname(fileURLToPath(import.meta.url));

const browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox"] });
const page = await browser.newPage({ viewport: { width: 1280, height: 720 }, colorScheme: "light" });
const shot = async (name) => {
  await page.waitForTimeout(3000);
  await page.screenshot({ path: join(here, name) });
};

await page.goto(airflow);
await page.fill("input[name=username]", "admin");
await page.fill("input[name=password]", AIRFLOW_PASSWORD);
await page.keyboard.press("Enter");
await page.waitForURL((url) => !url.pathname.includes("login"));
const { dag_run_id: run, logical_date } = await page.evaluate(
  async (dag) => (await (await fetch(`/api/v2/dags/${dag}/dagRuns?order_by=-run_after&limit=1`)).json()).dag_runs[0],
  DAG,
);
const day = logical_date.slice(0, 10);
await page.goto(`${airflow}/dags/${DAG}/runs/${encodeURIComponent(run)}`);
await page.getByRole("button", { name: /graph/i }).first().click();
await shot("airflow-graph.png");

await page.goto(`${minio}/login`);
await page.fill("#accessKey", MINIO_USER);
await page.fill("#secretKey", MINIO_PASSWORD);
await page.keyboard.press("Enter");
await page.waitForURL((url) => !url.pathname.includes("login"));
await page.goto(`${minio}/browser/silver/${encodeURIComponent(`pulses/ts_day=${day}/`)}`);
// the licence is shown at the first login of a browser
await page.getByRole("button", { name: /acknowledge/i }).click();
await shot("minio-console.png");
await browser.close();
