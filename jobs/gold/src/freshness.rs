//! What a model's rows were computed from, and whether that is still what the inputs hold.
//!
//! With every commit a model's table keeps its [`Origin`]: per input a digest of the commits that the input had for the intervals which the
//! model may read: from `$readStart` to `$end`, or all of them when its table is overwritten as a whole. An interval is stale when one of these
//! digests is another one now. So nothing has to be marked when an earlier interval is run again, nothing can be forgotten by a crash in
//! between, and an interval that was computed while another one was being written is found out as well.
//!
//! What counts of a commit is its version: of a silver table the token, which says input and definition; of a model the digest of its
//! definition and of its own inputs. A model that is computed again from the same input keeps its version, and those that read it stay fresh.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeZone, Utc};
use lakehouse_contract::{Interval, IntervalGrain, StageFailure, TableRef, digest_json};
use lakehouse_tables::{IntervalCommit, Origin, Tables};
use serde::{Deserialize, Serialize};

use crate::{failure::table_failure, models::Model};

/// Characters of a digest that are kept: there are some thousand per table, and they are only compared with each other's successors.
const DIGEST: usize = 16;

/// What is known of the latest commit of an interval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    /// Equal for commits with equal content.
    pub(crate) version: String,
    /// See [`IntervalCommit::overwrote`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) overwrote: bool,
    /// See [`IntervalCommit::origin`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<Origin>,
}

impl From<IntervalCommit> for Known {
    fn from(commit: IntervalCommit) -> Self {
        let version = match &commit.origin {
            Some(origin) => version(origin),
            None => short(commit.token),
        };
        Self { version, overwrote: commit.overwrote, origin: commit.origin }
    }
}

/// The latest commit of every interval of tables, by the tables' names and the intervals' starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Ledgers(pub(crate) BTreeMap<String, BTreeMap<DateTime<Utc>, Known>>);

impl Ledgers {
    /// Reads the ledger of `table`, of intervals that begin in `span` where one is given; a table that does not exist has none.
    pub(crate) async fn read(&mut self, tables: &Tables, table: &TableRef, span: Option<&Interval>) -> Result<(), StageFailure> {
        let failed = |error| table_failure(&error);
        let Some(open) = tables.open_table(table).await.map_err(failed)? else { return Ok(()) };
        let wanted = |start: &DateTime<Utc>| span.is_none_or(|span| (span.start..span.end).contains(start));
        let commits = open.intervals().await.map_err(failed)?.into_iter().filter(|(start, _)| wanted(start));
        self.0.insert(table.to_string(), commits.map(|(start, commit)| (start, commit.into())).collect());
        Ok(())
    }

    /// Enters a commit of `table` for the interval that begins at `start`.
    pub(crate) fn enter(&mut self, table: &TableRef, start: DateTime<Utc>, known: Known) {
        self.0.entry(table.to_string()).or_default().insert(start, known);
    }

    /// Digest of what `table` has for the intervals that begin between two instants.
    pub(crate) fn window(&self, table: &str, from: DateTime<Utc>, until: DateTime<Utc>) -> String {
        let commits = self.0.get(table).into_iter().flat_map(|ledger| ledger.range(from..until));
        short(digest_json(&commits.map(|(start, known)| (start, known.version.as_str())).collect::<Vec<_>>()))
    }

    /// What `model`, which is that of `interval`, reads now.
    pub(crate) fn origin(&self, model: &Model, interval: &Interval) -> Origin {
        let (from, until) = match model.overwrites() {
            true => ever(),
            false => (model.definition.read_start, interval.end),
        };
        let inputs = model.query.tables().iter().map(|table| table.to_string());
        Origin {
            definition: short(model.definition.definition_digest.clone()),
            from,
            until,
            inputs: inputs.map(|table| (table.clone(), self.window(&table, from, until))).collect(),
        }
    }

    /// Start of the newest interval of `table` that has begun by `now`: one that a run computed ahead of its time does not hold the table.
    pub(crate) fn newest(&self, table: &TableRef, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.0.get(&table.to_string())?.range(..=now).next_back().map(|(start, _)| *start)
    }

    /// Starts of the intervals of `table` whose inputs have changed since they were computed. A table that is overwritten as a whole has the rows
    /// of its newest interval only.
    pub(crate) fn stale(&self, table: &TableRef, now: DateTime<Utc>) -> Vec<DateTime<Utc>> {
        let Some(ledger) = self.0.get(&table.to_string()) else { return Vec::new() };
        let newest = self.newest(table, now);
        let counts = |start: &DateTime<Utc>, known: &Known| !known.overwrote || Some(*start) == newest;
        let changed = |origin: &Origin| {
            let mut inputs = origin.inputs.iter();
            inputs.any(|(table, digest)| self.window(table, origin.from, origin.until) != *digest)
        };
        let stale = ledger.iter().filter(|(start, known)| counts(start, known) && known.origin.as_ref().is_some_and(changed));
        stale.map(|(start, _)| *start).collect()
    }

    /// The intervals of `grain` that any table has, the oldest first.
    pub(crate) fn intervals(&self, grain: IntervalGrain) -> Vec<Interval> {
        let starts: BTreeSet<DateTime<Utc>> = self.0.values().flat_map(|ledger| ledger.keys().copied()).collect();
        starts.into_iter().filter_map(|start| beginning(grain, start)).collect()
    }
}

/// The interval that begins at `start`; none when no interval of `grain` does.
pub(crate) fn beginning(grain: IntervalGrain, start: DateTime<Utc>) -> Option<Interval> {
    Some(Interval::containing(grain, start)).filter(|interval| interval.start == start)
}

/// All that intervals can lie between, see [`Interval::parse`].
fn ever() -> (DateTime<Utc>, DateTime<Utc>) {
    let instant = |year, month, day| Utc.with_ymd_and_hms(year, month, day, 0, 0, 0).single().unwrap_or_default();
    (instant(0, 1, 1), instant(9999, 12, 31))
}

/// The version of rows with this origin.
pub(crate) fn version(origin: &Origin) -> String {
    short(digest_json(&(&origin.definition, &origin.inputs)))
}

fn short(mut digest: String) -> String {
    digest.truncate(DIGEST);
    digest
}

/// Starts of the intervals of each of the tables `models` that were computed from inputs which have changed since, directly or through
/// another of `models` that is stale itself. Tables without any are left out, and so are intervals whose origin is not known.
///
/// # Errors
/// What store or catalog say.
pub async fn stale(tables: &Tables, models: &[TableRef]) -> Result<BTreeMap<TableRef, Vec<DateTime<Utc>>>, StageFailure> {
    let mut ledgers = Ledgers::default();
    for model in models {
        ledgers.read(tables, model, None).await?;
    }
    let origins = ledgers.0.values().flat_map(BTreeMap::values).filter_map(|known| known.origin.as_ref());
    let inputs: BTreeSet<String> = origins.flat_map(|origin| origin.inputs.keys().cloned()).collect();
    for table in inputs {
        if let Some((namespace, name)) = table.split_once('.')
            && !ledgers.0.contains_key(&table)
        {
            ledgers.read(tables, &TableRef::new(namespace, name), None).await?;
        }
    }
    let mut found: BTreeMap<TableRef, Vec<DateTime<Utc>>> = BTreeMap::new();
    let now = Utc::now();
    // What a stale interval will become is not known: whatever was computed from it is stale too.
    loop {
        let mut more = false;
        for model in models {
            let stale = ledgers.stale(model, now);
            if let Some(ledger) = ledgers.0.get_mut(&model.to_string()) {
                for start in &stale {
                    if let Some(known) = ledger.get_mut(start) {
                        known.version = "stale".to_owned();
                    }
                }
            }
            let before = found.insert(model.clone(), stale);
            more |= before.is_none_or(|before| before.len() != found[model].len());
        }
        if !more {
            found.retain(|_, stale| !stale.is_empty());
            return Ok(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: u32) -> DateTime<Utc> {
        Interval::parse(IntervalGrain::Daily, &format!("2024-01-{day:02}")).unwrap().start
    }

    fn silver(token: &str) -> Known {
        IntervalCommit { token: token.to_owned(), overwrote: false, origin: None }.into()
    }

    /// A model with a lookback of one day, computed for `day`.
    fn computed(ledgers: &Ledgers, day: u32, overwrote: bool) -> Known {
        let (from, until) = (at(day - 1), at(day + 1));
        let inputs = BTreeMap::from([("silver.s".to_owned(), ledgers.window("silver.s", from, until))]);
        let origin = Origin { definition: "d".to_owned(), from, until, inputs };
        IntervalCommit { token: String::new(), overwrote, origin: Some(origin) }.into()
    }

    fn four_days(overwrote: bool) -> (Ledgers, TableRef) {
        let (mut ledgers, model) = (Ledgers::default(), TableRef::new("gold", "m"));
        for day in 2..=5 {
            ledgers.enter(&TableRef::new("silver", "s"), at(day), silver(&format!("token {day}")));
            let known = computed(&ledgers, day, overwrote);
            ledgers.enter(&model, at(day), known);
        }
        (ledgers, model)
    }

    #[test]
    fn a_changed_day_makes_itself_and_the_days_that_look_back_at_it_stale() {
        let (mut ledgers, model) = four_days(false);
        assert!(ledgers.stale(&model, at(9)).is_empty());
        ledgers.enter(&TableRef::new("silver", "s"), at(3), silver("other input"));
        assert_eq!(ledgers.stale(&model, at(9)), [at(3), at(4)]);
        let known = computed(&ledgers, 3, false);
        ledgers.enter(&model, at(3), known);
        assert_eq!(ledgers.stale(&model, at(9)), [at(4)]);
        ledgers.enter(&TableRef::new("silver", "s"), at(3), silver("token 3"));
        assert_eq!(ledgers.stale(&model, at(9)), [at(3)], "day 4 has again what it was computed from");
    }

    #[test]
    fn a_day_that_comes_late_is_a_change() {
        let (mut ledgers, model) = four_days(false);
        ledgers.enter(&TableRef::new("silver", "s"), at(1), silver("late"));
        assert_eq!(ledgers.stale(&model, at(9)), [at(2)]);
    }

    #[test]
    fn of_a_table_that_is_overwritten_only_the_newest_interval_counts_that_has_begun() {
        let (mut ledgers, model) = four_days(true);
        ledgers.enter(&TableRef::new("silver", "s"), at(2), silver("other input"));
        assert!(ledgers.stale(&model, at(9)).is_empty());
        ledgers.enter(&TableRef::new("silver", "s"), at(4), silver("other input"));
        assert_eq!(ledgers.stale(&model, at(9)), [at(5)]);
        assert_eq!(ledgers.stale(&model, at(4)), [at(4)], "day 5 has not begun");
    }

    #[test]
    fn a_model_computed_again_from_the_same_input_keeps_its_version() {
        let (ledgers, _) = four_days(false);
        assert_eq!(computed(&ledgers, 4, false).version, computed(&ledgers, 4, false).version);
        assert_ne!(computed(&ledgers, 4, false).version, computed(&ledgers, 5, false).version);
    }
}
